"""The order in which a stage's model sees its tokens, as arrays of indices.

"flat" gives each token a position (AudioLM Section III-B). "delayed" gives each frame one: the
levels of a frame come one position after another, so that a level sees those below it (MusicGen,
arXiv 2306.05284, Section 2.2); the embeddings of a position's tokens are summed, and so is that of
the frame of each condition at the same time. Conditions without a rate come first in both.
"""

import dataclasses
import functools
import math

import numpy as np

from musiclm_jax.tokens import Stage


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
  """Positions of a sequence of a stage.

  inputs [positions, width] int32 are the decoder input tokens that are summed at a position, -1 for
  none; outputs [positions, heads] int32 the target tokens (frame * levels + level) that a position
  scores, -1 for none. `first` is the position that scores level 0 of frame 0.
  """

  inputs: np.ndarray
  outputs: np.ndarray
  first: int

  @property
  def heads(self) -> int:
    """How many tokens a position scores, at most."""
    return self.outputs.shape[1]

  def start(self, known: int) -> int:
    """The first position that scores a token which is not among the `known` first of the target."""
    return int((self.outputs.max(axis=1) >= known).argmax())


@functools.lru_cache(maxsize=64)
def layout(stage: Stage, seconds: float) -> Layout:
  """The layout of a span of `seconds` in the stage's pattern."""
  return {"flat": _flat, "delayed": _delayed}[stage.pattern](stage, seconds)


def _flat(stage: Stage, seconds: float) -> Layout:
  conditions = sum(stream.length(seconds) for stream in stage.conditions)
  positions = np.arange(conditions + stage.target.length(seconds), dtype=np.int32)[:, None]
  outputs = np.where(positions >= conditions, positions - conditions, -1)
  return Layout(positions, outputs, conditions)


def _delayed(stage: Stage, seconds: float) -> Layout:
  levels, frames = stage.target.num_quantizers, stage.target.frames(seconds)
  steps = frames + levels - 1
  prefix, aligned, offset = [0], [], 1  # decoder input 0 is PAD, before all tokens
  for stream in stage.conditions:
    count = stream.frames(seconds)
    tokens = offset + np.arange(stream.length(seconds)).reshape(count, -1)
    offset += tokens.size
    if not stream.frame_rate:
      prefix += tokens.ravel().tolist()
      continue
    ratio = stream.frame_rate / stage.target.frame_rate
    times = [math.floor(min(step, frames - 1) * ratio + 1e-6) for step in range(steps)]
    aligned.append(tokens[np.minimum(times, count - 1)])
  level, step = np.arange(levels), np.arange(steps)[:, None]
  frame = step - level
  outputs = np.where((frame >= 0) & (frame < frames), frame * levels + level, -1)
  read = np.full((steps, levels), -1)  # a step reads what the step before it scored
  read[1:] = np.where(outputs[:-1] >= 0, offset + outputs[:-1], -1)
  read[0, 0] = prefix.pop()
  inputs = np.concatenate([read, *aligned], axis=1)
  before = np.full((len(prefix), inputs.shape[1]), -1)
  before[:, 0] = prefix
  unscored = np.full((len(prefix), levels), -1)
  inputs, outputs = np.concatenate([before, inputs]), np.concatenate([unscored, outputs])
  return Layout(inputs.astype(np.int32), outputs.astype(np.int32), len(prefix))
