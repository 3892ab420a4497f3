"""A corpus of tones, parts of every kind with random weights, their tokens and a bundle."""

import json
import pathlib

import flax.linen as nn
import jax
import numpy as np
import tensorflow_datasets as tfds

from musiclm_jax import part_files
from musiclm_jax.attention import RelativeBias
from musiclm_jax.datasets import captions
from musiclm_jax.encoder import Encoder
from musiclm_jax.evaluation import metrics
from musiclm_jax.export import bundle
from musiclm_jax.lm.sampling import Sampling
from musiclm_jax.lm.token_lm import TokenLM
from musiclm_jax.sources import MeanQuantized
from musiclm_jax.tokenizers import (
  conformer,
  convolutions,
  discriminators,
  front_ends,
  melody,
  mulan,
  soundstream,
  targets,
  towers,
  w2v_bert,
)
from musiclm_jax.tokenizers import quantizer as quantizers
from musiclm_jax.tokens import Stage, Stream, Vocabulary
from musiclm_jax.transformer import Transformer
from tests.records import write_records

RATE, SECONDS, CODES = 24000, 2.0, 8
STREAMS = {
  "mulan": Stream("mulan", "mulan", 0.0, 0, 2, CODES, MeanQuantized("mulan_rvq")),
  "semantic": Stream("semantic", "semantic", 25.0, 0, 1, CODES),
  "coarse": Stream("coarse", "acoustic", 50.0, 0, 2, CODES),
  "fine": Stream("fine", "acoustic", 50.0, 2, 1, CODES),
}
STAGES = (
  Stage("semantic", (STREAMS["mulan"],), STREAMS["semantic"], 0.4),
  Stage("coarse", (STREAMS["mulan"], STREAMS["semantic"]), STREAMS["coarse"], 0.4),
  Stage("fine", (STREAMS["coarse"],), STREAMS["fine"], 0.4),
)


def transformer():
  shape = dict(num_layers=1, num_heads=2, head_dim=4, embed_dim=8, mlp_dim=8, dropout_rate=0.0)
  rest = dict(attention="blocks", query_block=32, remat="none", unroll=True, dtype="float32")
  return Transformer(**shape, **rest, positions=RelativeBias(8, 32, causal=True))


def encoder(norm_first: bool):
  shape = dict(num_layers=1, num_heads=2, head_dim=4, embed_dim=8, mlp_dim=8, dropout_rate=0.0)
  return Encoder(**shape, norm_first=norm_first, remat="none", unroll=True, dtype="float32")


def residual(levels: int, dim: int):
  return quantizers.ResidualQuantizer(levels, CODES, dim, 0.9, 0.1, None, 2, False)


def codec():
  convolution = dict(channels=4, strides=(4, 3), kernel=3, dilations=(1,), patch=40)
  return soundstream.SoundStream(
    sample_rate=RATE,
    encoder=convolutions.Encoder(**convolution, dim=6, dtype="float32"),
    quantizer=residual(3, 6),
    decoder=convolutions.Decoder(**convolution, dtype="float32"),
    discriminators=discriminators.Discriminators(
      stft=discriminators.StftDiscriminator(256, 64, 2, (1, 2), "float32"),
      wave=discriminators.WaveDiscriminator(2, 4, 2, (4,), "float32"),
      scales=(1,),
    ),
    reconstruction_weight=1.0,
    waveform_weight=0.0,
    adversarial_weight=1.0,
    feature_weight=1.0,
    commitment_weight=1.0,
    adversarial_samples=2400,
    unquantized=0.0,
  )


def self_supervised(rate: int = RATE, window: int = 600, hop: int = 240):
  """A w2v-BERT whose views are 64 wide, its layers 8."""
  layers = dict(num_layers=1, num_heads=2, head_dim=4, mlp_dim=8, kernel_size=3)
  rest = dict(dropout_rate=0.0, num_buckets=8, max_distance=32, remat="none", unroll=True)
  stack = conformer.Conformer(**layers, **rest, dtype="float32")
  return w2v_bert.W2vBert(
    front_end=front_ends.LogMel(rate, window, hop, 16, 2, 8, "float32"),
    contrastive=stack,
    masked=stack.clone(),
    targets=(
      targets.Clusters(
        "log_mel",
        quantizers.ResidualQuantizer(1, CODES, 64, 1.0, 0.0, None, 2, False),
        4,
        "float32",
      ),
    ),
    start_rate=0.1,
    span=5,
    num_distractors=10,
    temperature=0.1,
    contrastive_weight=1.0,
    diversity_weight=0.1,
    masked_weight=1.0,
    unmasked_weight=0.0,
  )


def joint():
  return mulan.MuLan(
    log_mel=mulan.LogMel(RATE, 1200, 600, 16, 30.0, 11000.0),
    augment=mulan.SpecAugment(0, 1, 0, 1),
    audio_tower=towers.ResNet((1,), 4, 1, "float32"),
    text_tower=towers.TextTower(1000, 64, encoder(norm_first=False)),
    embed_dim=6,
    initial_temperature=0.1,
    min_temperature=0.02,
  )


def melodies():
  return melody.MelodyEncoder(
    log_pitch=melody.LogPitch(RATE, 2048, 960, 24, 12, 220.0),
    tower=towers.SpectrogramTransformer(98, (4, 24), (4, 24), 0, encoder(norm_first=True)),
    embed_dim=6,
    margin=0.2,
    max_shift=0,
  )


def write_part(directory: pathlib.Path, module, batch: dict, provenance: dict) -> str:
  """A finished part with random weights and codebooks; its fingerprint."""
  shapes = jax.eval_shape(lambda: nn.unbox(module.init(jax.random.key(0), batch, train=False)))
  draw = np.random.default_rng(0).normal
  variables = jax.tree.map(lambda x: (0.3 * draw(size=x.shape)).astype(x.dtype), dict(shapes))
  part_files.describe_run(directory, module, provenance)
  part_files.write_weights(directory, variables)
  lines = [dict(step=s, split="train", loss=3.0 / s, chance=3.0) for s in (1, 2, 3)]
  lines.append(dict(step=3, split="eval", loss=1.5, chance=3.0))
  (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  return part_files.fingerprint(directory)


def tone(index: int) -> dict:
  """A clip of the corpus: notes of two families, three works, three tempi."""
  rng = np.random.default_rng(index)
  bpm = (60.0, 100.0, 150.0)[index % 3]
  time = np.arange(round(SECONDS * RATE)) / RATE
  pitch = 60 + np.floor(time * bpm / 60).astype(int) % 5 + index % 4
  waveform = 0.3 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time)
  waveform *= np.exp(-4 * ((time * bpm / 60) % 1))
  if index % 2:
    waveform += 0.02 * rng.normal(size=time.shape)
  starts = np.arange(0, SECONDS, 60 / bpm)
  onsets = np.stack([starts, 60 + np.arange(len(starts)) % 5 + index % 4], axis=1)
  family = ("brass", "keyboard")[index % 2]
  word = {60.0: "slow", 100.0: "moderate", 150.0: "fast"}[bpm]
  return {
    "id": f"clip-{index}",
    "waveform": (waveform * 20000).astype(np.int16),
    "caption": f"A {word} march number {index} played by a {family} instrument.",
    "work": f"work {index // 4}",
    "melody": f"melody {index // 2}",
    "bpm": np.float32(bpm),
    "key": f"C {('major', 'minor')[index // 2 % 2]}",
    "instruments": [family],
    "aspect_list": [family, ("low", "high")[index % 2]],
    "onsets": onsets.astype(np.float32),
    "tempo_word": word,
    "family": family,
  }


CLIP_FEATURES = {
  name: tfds.features.Text()
  for name in ("id", "caption", "work", "melody", "key", "tempo_word", "family")
} | {
  "waveform": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
  "bpm": np.float32,
  "instruments": tfds.features.Sequence(tfds.features.Text()),
  "aspect_list": tfds.features.Sequence(tfds.features.Text()),
  "onsets": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
}


def token_row(clip: dict) -> dict:
  rng = np.random.default_rng(len(clip["caption"]) + int(clip["bpm"]))

  def draw(frames, levels):
    return rng.integers(0, CODES, (frames, levels)).astype(np.uint16)

  return {
    "id": clip["id"],
    "acoustic": draw(round(SECONDS * 50), 3),
    "semantic": draw(round(SECONDS * 25), 1),
    "melody": draw(1, 2),
    "mulan": metrics.unit(rng.normal(size=(2, 6))).astype(np.float32),
  }


TOKEN_FEATURES = {
  "id": tfds.features.Text(),
  "acoustic": tfds.features.Tensor(shape=(None, 3), dtype=np.uint16),
  "semantic": tfds.features.Tensor(shape=(None, 1), dtype=np.uint16),
  "melody": tfds.features.Tensor(shape=(None, 2), dtype=np.uint16),
  "mulan": tfds.features.Tensor(shape=(None, 6), dtype=np.float32),
}


WINDOWS = {"window_seconds": 1.0, "hop_seconds": 1.0}
ENTRIES = {
  "acoustic": {"width": 3, "codebook_size": CODES, "frame_rate": 50.0},
  "semantic": {"width": 1, "codebook_size": CODES, "frame_rate": 25.0},
  "melody": {"width": 2, "codebook_size": CODES, **WINDOWS},
  "mulan": {"width": 6, **WINDOWS},
}


def build(root: pathlib.Path) -> dict[str, str]:
  """Directories of all that an evaluation takes: {runs_dir, data_dir, tokens_dir, bundle}."""
  runs = root / "runs"
  train, test = [tone(i) for i in range(100, 124)], [tone(i) for i in range(12)]
  root.mkdir(exist_ok=True)
  captions.train_text_model([c["caption"] for c in train + test], root / "text.model", 300)
  wave = {"waveform": np.zeros((2, 7200), np.float32)}
  nothing = {"sources": {}, "parts": {}}
  read = nothing | {"parts": {"text_model": part_files.fingerprint(root / "text.model")}}
  prints = {
    "soundstream": write_part(runs / "soundstream", codec(), wave, nothing),
    "w2v_bert": write_part(runs / "w2v_bert", self_supervised(), wave, nothing),
    "mulan": write_part(runs / "mulan", joint(), wave | {"text": np.ones((2, 16), np.int32)}, read),
    "melody": write_part(
      runs / "melody", melodies(), wave | {"melody": np.zeros(2, np.int32)}, nothing
    ),
  }
  for name, levels, dim, encoder in (
    ("kmeans", 1, 8, "w2v_bert"),
    ("mulan_rvq", 2, 6, "mulan"),
    ("melody_rvq", 2, 6, "melody"),
  ):
    made = {"sources": {encoder: {"encoder": prints[encoder]}}, "parts": {}}
    module = quantizers.EmbeddingQuantizer(residual(levels, dim), standardise=False)
    batch = {"embeddings": np.zeros((2, 3, dim), np.float32)}
    prints[name] = write_part(runs / name, module, batch, made)
  made = {
    "acoustic": {"encoder": prints["soundstream"]},
    "semantic": {"encoder": prints["w2v_bert"], "quantizer": prints["kmeans"]},
    "mulan": {"encoder": prints["mulan"]},
  }
  for stage in STAGES:
    model = TokenLM(stage, Vocabulary(tuple(STREAMS.values())), transformer(), 0.1, 0.0)
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
    batch = {name: np.zeros((2, stage.length), np.int32) for name in names}
    write_part(runs / stage.name, model, batch, {"sources": made, "parts": {}})
  write_records(root / "data", {"train": train, "test": test}, CLIP_FEATURES)
  rows = {"train": [token_row(c) for c in train], "test": [token_row(c) for c in reversed(test)]}
  write_records(root / "tokens", rows, TOKEN_FEATURES)
  sources = made | {"melody": {"encoder": prints["melody"], "quantizer": prints["melody_rvq"]}}
  manifest = {
    "sample_rate": RATE,
    "records": {"train": len(train), "test": len(test)},
    "sources": {name: entry | ENTRIES[name] for name, entry in sources.items()},
  }
  (root / "tokens" / "manifest.json").write_text(json.dumps(manifest))
  bundle.export(
    output_dir=str(root / "bundle"),
    stages=tuple(str(runs / stage.name) for stage in STAGES),
    tokenizers={n: str(runs / n) for n in ("soundstream", "mulan", "mulan_rvq")},
    text=bundle.Text(str(root / "text.model"), 16),
    samplings=tuple(Sampling(stage.name, 1.0, 0.0, 1.0) for stage in STAGES),
    sample_rate=RATE,
    to="bundle",
  )
  return {
    "runs_dir": str(runs),
    "data_dir": str(root / "data"),
    "tokens_dir": str(root / "tokens"),
    "bundle": str(root / "bundle"),
  }
