"""A small bundle with random weights, made of the real modules."""

import pathlib

import jax
import numpy as np
from flax import linen as nn

from musiclm_jax import part_files
from musiclm_jax.attention import RelativeBias
from musiclm_jax.clocks import Beat, Place
from musiclm_jax.datasets.captions import train_text_model
from musiclm_jax.encoder import Encoder
from musiclm_jax.export import bundle
from musiclm_jax.lm.sampling import Sampling
from musiclm_jax.lm.token_lm import TokenLM
from musiclm_jax.sources import Label
from musiclm_jax.tokenizers import (
  convolutions,
  discriminators,
  mulan,
  quantizer,
  soundstream,
  towers,
)
from musiclm_jax.tokens import Stage, Stream, Vocabulary
from musiclm_jax.transformer import Transformer
from tests import small_world

PLAYED = ("flute", "harp", "double bass")
SAMPLE_RATE = 2400  # with the codec's hop of 48, 50 Hz
MULAN = Stream("mulan", "mulan", 0.0, 0, 2, 8)
SEMANTIC = Stream("semantic", "semantic", 25.0, 0, 1, 16)
COARSE = Stream("coarse", "acoustic", 50.0, 0, 2, 16)
FINE = Stream("fine", "acoustic", 50.0, 2, 2, 16)
TEMPO = Stream("tempo", "tempo", 0.0, 0, 1, 4, Label("bpm", (80.0, 120.0), True))
PLAYERS = Stream("instruments", "instruments", 0.0, 0, 2, 4, Label("instruments", PLAYED, True))
BEAT = Stream("beat", "beat", 25.0, 0, 1, 4, Beat("bpm", "beat_s"))
PLACE = Stream("place", "place", 25.0, 0, 1, 4, Place("start_s", "end_s", 1))
VOCABULARY = Vocabulary((MULAN, SEMANTIC, COARSE, FINE, TEMPO, PLAYERS, BEAT, PLACE))
STAGES = (
  Stage("semantic", (MULAN, TEMPO, PLAYERS, BEAT, PLACE), SEMANTIC, 2.0),
  Stage("coarse", (MULAN, SEMANTIC), COARSE, 0.8),
  Stage("fine", (COARSE,), FINE, 0.4),
)
SAMPLINGS = tuple(Sampling(stage.name, 1.0, 0.0, 0.5) for stage in STAGES)


def transformer():
  positions = RelativeBias(8, 16, causal=True)
  return Transformer(1, 2, 8, 16, 32, 0.0, positions, "blocks", 16, "none", False, "float32")


def codec():
  return soundstream.SoundStream(
    sample_rate=SAMPLE_RATE,
    encoder=convolutions.Encoder(4, (2, 3), 8, 3, (1,), 8, "float32"),
    quantizer=quantizer.ResidualQuantizer(4, 16, 8, 0.9, 1.0, None, 2, False),
    decoder=convolutions.Decoder(4, (2, 3), 3, (1,), 8, "float32"),
    discriminators=discriminators.Discriminators(
      discriminators.StftDiscriminator(256, 64, 2, (1,), "float32"),
      discriminators.WaveDiscriminator(2, 4, 2, (4,), "float32"),
      (1,),
    ),
    reconstruction_weight=1.0,
    waveform_weight=0.0,
    adversarial_weight=1.0,
    feature_weight=1.0,
    commitment_weight=1.0,
    adversarial_samples=1024,
    unquantized=0.0,
  )


def joint():
  return mulan.MuLan(
    log_mel=mulan.LogMel(SAMPLE_RATE, 128, 64, 16, 30.0, 1100.0),
    augment=mulan.SpecAugment(1, 2, 1, 2),
    audio_tower=towers.ResNet((1,), 4, 1, "float32"),
    text_tower=towers.TextTower(
      300, 64, Encoder(1, 2, 8, 16, 32, 0.0, False, "none", False, "float32")
    ),
    embed_dim=8,
    initial_temperature=0.1,
    min_temperature=0.02,
  )


def write_part(directory, module, batch, sources=None, parts=None):
  """A part with random weights; its path."""
  directory = str(directory)
  rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  variables = jax.jit(module.init, static_argnames="train")(rngs, batch, train=False)
  variables = jax.tree.map(np.array, dict(nn.unbox(variables)))
  if "codebooks" in variables:
    _randomise(variables["codebooks"])
  part_files.describe_run(directory, module, {"sources": sources or {}, "parts": parts or {}})
  part_files.write_weights(directory, variables)
  return directory


def _randomise(codebooks):
  rng = np.random.default_rng(0)
  for name, value in codebooks.items():
    if isinstance(value, dict):
      _randomise(value)
    elif name == "vectors":
      codebooks[name] = rng.standard_normal(value.shape).astype(np.float32)


def make_runs(root, text=None):
  """Finished model directories {role: path} of a small MusicLM, and its text model, if any."""
  root = pathlib.Path(root)
  if text is None:
    root.mkdir(exist_ok=True)
    text = str(root / "text.model")
    captions = ["a slow calm flute", "a fast violin in D major", "drums and bass"]
    train_text_model(captions, pathlib.Path(text), 300)
  waveform = np.zeros((2, 4800), np.float32)
  runs = {
    "soundstream": write_part(root / "soundstream", codec(), {"waveform": waveform}),
    "mulan": write_part(
      root / "mulan",
      joint(),
      {"waveform": waveform, "text": np.zeros((2, 8), np.int32)},
      parts={"text_model": part_files.fingerprint(text)} if text else {},
    ),
  }
  prints = {role: part_files.fingerprint(path) for role, path in runs.items()}
  mulan_source = {"mulan": {"encoder": prints["mulan"], "window_seconds": 1.0, "hop_seconds": 0.5}}
  rvq = quantizer.EmbeddingQuantizer(
    quantizer.ResidualQuantizer(2, 8, 8, 0.9, 1.0, None, 2, False), standardise=False
  )
  embeddings = {"embeddings": np.zeros((2, 4, 8), np.float32)}
  runs["mulan_rvq"] = write_part(root / "mulan_rvq", rvq, embeddings, mulan_source)
  parts = {"mulan_rvq": part_files.fingerprint(runs["mulan_rvq"])}
  sources = {**mulan_source, "acoustic": {"encoder": prints["soundstream"]}}
  for stage in STAGES:
    model = TokenLM(stage, VOCABULARY, transformer(), 0.0, 0.0)
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
    batch = {name: np.zeros((1, stage.length), np.int32) for name in names}
    runs[stage.name] = write_part(root / stage.name, model, batch, sources, parts)
  return runs, text


def add_hearing(root, runs, width=64):
  """The runs of `make_runs` and those that make semantic codes of audio, of vectors so wide."""
  root, waveform = pathlib.Path(root), {"waveform": np.zeros((2, 4800), np.float32)}
  heard = write_part(root / "w2v_bert", small_world.self_supervised(SAMPLE_RATE, 60, 24), waveform)
  kmeans = quantizer.EmbeddingQuantizer(
    quantizer.ResidualQuantizer(1, 16, width, 0.9, 1.0, None, 2, False), standardise=False
  )
  made = {"w2v_bert": {"encoder": part_files.fingerprint(heard)}}
  batch = {"embeddings": np.zeros((2, 4, width), np.float32)}
  return runs | {"w2v_bert": heard, "kmeans": write_part(root / "kmeans", kmeans, batch, made)}


def export(runs, text, output_dir, text_length=16):
  """Exports the runs of `make_runs`, and those of `add_hearing` where they are there."""
  names = [stage.name for stage in STAGES]
  bundle.export(
    output_dir=str(output_dir),
    stages=tuple(runs[name] for name in names),
    tokenizers={role: path for role, path in runs.items() if role not in names},
    text=bundle.Text(text, text_length),
    samplings=SAMPLINGS,
    sample_rate=SAMPLE_RATE,
    to="bundle",
  )
  return str(output_dir)
