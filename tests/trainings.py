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

from musiclm_jax import checks, configuration, partitioning
from musiclm_jax.configuration import Configuration
from musiclm_jax.tokens import flatten
from musiclm_jax.training import audio_examples, input_pipeline, step, token_examples
from musiclm_jax.training.examples import Shapes
from musiclm_jax.training.step import TrainState, init_state

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
  shapes: Shapes
  draw: Callable

  def batch(self, rows: int) -> dict[str, np.ndarray]:
    """Random rows, the same ones at each call."""
    return self.draw(np.random.default_rng(0), rows)

  @functools.cached_property
  def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a whole batch."""
    return partitioning.batched(self.shapes, self.batch_size)

  @functools.cached_property
  def abstract_state(self) -> TrainState:
    """The shapes of the state of step 0, parameters boxed with their axis names."""
    init = functools.partial(init_state, self.model, self.optimizer, seed=0)
    return jax.eval_shape(init, self.abstract_batch)


@functools.cache
def load(name: str, **macros) -> Training:
  """The training that `musiclm train NAME --MACRO=VALUE ...` would start, NAME one file or more."""
  config = Configuration([configuration.find(file) for file in ("run/train", *name.split())])
  for macro, value in (
    dict.fromkeys(_PATHS & set(config.leaves(configuration.Macro)), "nowhere") | macros
  ).items():
    config.add_flag(f"--{macro}", macro, repr(value))
  checks.check(config)
  gin.clear_config()
  for binding in config.last().values():
    gin.parse_config(binding.text)

  # gin makes what a binding refers to when that is copied: all but what would read files.
  def made(function, *left_out):
    bindings = gin.get_bindings(function, resolve_references=False)
    return copy.deepcopy({k: v for k, v in bindings.items() if k not in left_out})

  config = made(step.TrainConfig)
  data = made(input_pipeline.Dataset)
  examples = data["examples"]
  draw = functools.partial(_DRAW.get(type(examples), _random), examples)
  return Training(config["model"], config["optimizer"], data["batch_size"], examples.shapes, draw)


def _random(examples, rng, rows):
  """Sound, or embeddings of which a tenth has no weight."""
  batch = {}
  for name, x in examples.shapes.items():
    batch[name] = 0.1 * rng.standard_normal((rows, *x.shape), np.float32)
  if "weights" in batch:
    batch["weights"] = (rng.random((rows, examples.rows)) < 0.9).astype(np.float32)
  return batch


def _melodies(examples, rng, rows):
  samples = examples.shapes["waveform"].shape[0]
  waveform = 0.1 * rng.standard_normal((rows, samples), np.float32)
  return {"waveform": waveform, "melody": np.arange(rows, dtype=np.int32) // 2}


def _captioned(examples, rng, rows):
  length, samples = examples.text_length, examples.shapes["waveform"].shape[0]
  text = rng.integers(1, examples.vocab_size, (rows, length), np.int32)
  text[np.arange(length)[None] >= rng.integers(1, length, (rows, 1))] = 0  # padding
  return {"waveform": 0.1 * rng.standard_normal((rows, samples), np.float32), "text": text}


def _tokens(examples, rng, rows):
  stage, vocabulary = examples.stage, examples.vocabulary

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
  audio_examples.Melodies: _melodies,
  audio_examples.Captioned: _captioned,
  token_examples.Tokens: _tokens,
}
