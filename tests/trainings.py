"""The trainings of the gin files as `musiclm train` makes them, and random batches for them."""

import copy
import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import gin
import jax
import numpy as np
import optax

from musiclm_jax import checks, configuration
from musiclm_jax.configuration import Configuration
from musiclm_jax.tokens import flatten
from musiclm_jax.training import input_pipeline, trainer

# Nothing is read from them here.
_PATHS = {"DATA_DIR", "LABELS_DIR", "MODEL_DIR", "MULAN_RVQ", "PLAYLISTS_DIR", "TEXT_MODEL"}


def names(size: str) -> list[str]:
  """The models that gin/SIZE trains: its files that say for how many steps."""
  files = [name for name in configuration.names() if name.startswith(f"{size}/")]
  found = [n for n in files if Configuration([configuration.find(n)]).macro("TOTAL_STEPS")]
  return [name.removeprefix(f"{size}/") for name in found]


@dataclasses.dataclass(frozen=True)
class Training:
  """What one command trains; `draw` maps (rng, rows) to a valid batch {name: [rows, ...]}."""

  model: nn.Module
  optimizer: optax.GradientTransformation
  batch_size: int
  draw: Callable

  def batch(self, rows: int) -> dict[str, np.ndarray]:
    """Random rows, the same ones at each call."""
    return self.draw(np.random.default_rng(0), rows)

  @functools.cached_property
  def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a whole batch."""
    shape = jax.ShapeDtypeStruct
    return {k: shape((self.batch_size, *x.shape[1:]), x.dtype) for k, x in self.batch(2).items()}

  @functools.cached_property
  def abstract_state(self) -> trainer.TrainState:
    """The shapes of the state of step 0, parameters boxed with their axis names."""
    init = functools.partial(trainer.init_state, self.model, self.optimizer, seed=0)
    return jax.eval_shape(init, self.abstract_batch)


@functools.cache
def load(name: str, **macros) -> Training:
  """The training that `musiclm train NAME --MACRO=VALUE ...` would start, NAME one file or more."""
  config = Configuration([configuration.find(file) for file in ("run/train", *name.split())])
  for macro, value in (dict.fromkeys(_PATHS & config.spoken(), "nowhere") | macros).items():
    config.add_flag(f"--{macro}", macro, repr(value))
  checks.check(config)
  gin.clear_config()
  for _, text in config.texts:
    gin.parse_config(text)

  # gin makes what a binding refers to when that is copied: all but what would read files.
  def made(function, *left_out):
    bindings = gin.get_bindings(function, resolve_references=False)
    return copy.deepcopy({k: v for k, v in bindings.items() if k not in left_out})

  job = made(trainer.train, "train_data", "eval_data")
  data = made(input_pipeline.Dataset)
  features = made(data["examples"], "mulan")
  draw = functools.partial(_DRAW[data["examples"].__name__], job["model"], features)
  return Training(job["model"], job["optimizer"], data["batch_size"], draw)


def _waveforms(model, features, rng, rows):
  samples = round(features["crop_seconds"] * features["sample_rate"])
  return {"waveform": 0.1 * rng.standard_normal((rows, samples), np.float32)}


def _melodies(model, features, rng, rows):
  labels = np.arange(rows, dtype=np.int32) // 2
  return _waveforms(model, features, rng, rows) | {"melody": labels}


def _captioned(model, features, rng, rows):
  length, vocab_size = features["text_length"], features["vocab_size"]
  text = rng.integers(1, vocab_size, (rows, length), np.int32)
  text[np.arange(length)[None] >= rng.integers(1, length, (rows, 1))] = 0  # padding
  return _waveforms(model, features, rng, rows) | {"text": text}


def _embeddings(model, features, rng, rows):
  shape = (rows, features["rows"])
  weights = (rng.random(shape) < 0.9).astype(np.float32)
  embeddings = rng.standard_normal((*shape, model.quantizer.dim), np.float32)
  return {"embeddings": embeddings, "weights": weights}


def _tokens(model, features, rng, rows):
  stage, vocabulary = features["stage"], features["vocabulary"]

  def draw(stream):
    frames = stream.frames(stage.crop_seconds)
    codes = rng.integers(0, stream.codebook_size, (rows, frames, stream.num_quantizers))
    return flatten(codes, vocabulary.offsets(stream))

  tokens = np.concatenate([draw(s) for s in (*stage.conditions, stage.target)], axis=1)
  weights = np.arange(stage.length) >= stage.condition_length
  weights = weights[None] & (rng.random(tokens.shape) < 0.9)  # the rest stands for padding
  return {
    "decoder_input_tokens": np.pad(tokens[:, :-1], ((0, 0), (1, 0))).astype(np.int32),
    "decoder_target_tokens": tokens.astype(np.int32),
    "decoder_loss_weights": weights.astype(np.int32),
  }


_DRAW = {
  "waveforms": _waveforms,
  "melodies": _melodies,
  "captioned": _captioned,
  "embeddings": _embeddings,
  "tokens": _tokens,
}
