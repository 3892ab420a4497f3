"""A steady level of long music. NumPy only."""

import numpy as np

_SECONDS = 10.0  # whose level is compared with that of the first so many
_BLOCK_SECONDS = 0.1  # between which the gain is interpolated
_MOST = 2.0  # the gain is at most this and at least its inverse: 6 dB


def steady(music: np.ndarray, sample_rate: int, given_seconds: float = 0.0) -> np.ndarray:
  """[batch, samples] float32 with a gain that slowly takes the level back to that of the beginning.

  Of music whose first `given_seconds` are no work of the stages, it is that of their last 10 s.

  Stages hear one window at a time, so that the level of long music wanders. The gain at any time
  follows from the 10 s before it alone; the first 10 s stay as they are.
  """
  block = round(_BLOCK_SECONDS * sample_rate)
  if (first := round(max(given_seconds - _SECONDS, 0) * sample_rate)) > 0:
    return np.concatenate([music[:, :first], steady(music[:, first:], sample_rate)], axis=1)
  count, past = music.shape[1] // block, round(_SECONDS / _BLOCK_SECONDS)
  if count <= past:
    return music
  blocks = music[:, : count * block].reshape(len(music), count, block)
  energies = np.square(blocks, dtype=np.float64).mean(axis=2)
  sums = np.cumsum(np.pad(energies, ((0, 0), (1, 0))), axis=1)
  last = np.maximum(sums[:, past:] - sums[:, :-past], 1e-12)  # of the blocks before each border
  gains = np.clip(np.sqrt(last[:, :1] / last), 1 / _MOST, _MOST)
  borders = np.arange(past, count + 1) * block
  samples = np.arange(music.shape[1])
  gain = np.stack([np.interp(samples, borders, row) for row in gains])
  return (music * gain).astype(np.float32)
