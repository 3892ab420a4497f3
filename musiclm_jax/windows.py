"""Windows over time: of frames that a stage writes, and of waveforms that an encoder embeds."""

import dataclasses
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Window:
  """Frames start .. end of the target: start .. new are known, new .. end are to be written."""

  start: int
  new: int
  end: int


def windows(
  total: int,
  window: int,
  stride: int,
  grid: int = 1,
  known: int = 0,
  breaks: tuple[int, ...] = (),
) -> Iterator[Window]:
  """Windows over `total` frames: each has `window` frames (all, if fewer), `stride` of them new.

  Together they write every frame after the `known` first ones once; the last slides back so that it
  is as long as the others. No window reaches across a frame of `breaks`. Starts are multiples of
  `grid` frames.

  >>> [(w.start, w.new, w.end) for w in windows(total=10, window=6, stride=3)]
  [(0, 0, 6), (3, 6, 9), (4, 9, 10)]
  >>> [(w.start, w.new, w.end) for w in windows(total=10, window=6, stride=3, known=5)]
  [(2, 5, 8), (4, 8, 10)]
  >>> [(w.start, w.new, w.end) for w in windows(total=10, window=6, stride=3, breaks=(4,))]
  [(0, 0, 4), (1, 4, 7), (4, 7, 10)]

  Raises ValueError where stride is not in 1..window, nothing is left to write, or a number is not a
  multiple of the grid.
  """
  if not 1 <= stride <= window or not 0 <= known < total:
    wanted = f"windows of {window} frames, {stride} of them new"
    raise ValueError(f"{wanted}, over {total} frames, {known} of them known")
  if any(each % grid for each in (total, window, stride, known, *breaks)):
    numbers = f"total {total}, window {window}, stride {stride}, known {known}"
    raise ValueError(f"{numbers}: not multiples of {grid}")
  new = known
  while new < total:
    end = min(max(new + stride, window), total, *(each for each in breaks if each > new))
    yield Window(max(end - window, 0), new, end)
    new = end


def window_count(samples: int, window: int, hop: int) -> int:
  """Windows of `window` samples every `hop` that lie in a clip by more than half, at least 1."""
  return max(1, 1 + (samples - window // 2 - 1) // hop) if samples > window else 1


def cut(waveforms: np.ndarray, window: int, hop: int) -> np.ndarray:
  """The windows [batch, count, window] of waveforms [batch, samples], `window_count` of them.

  The last may reach past the end, into zeros.
  """
  samples = waveforms.shape[1]
  count = window_count(samples, window, hop)
  padded = np.pad(waveforms, ((0, 0), (0, max(0, (count - 1) * hop + window - samples))))
  return np.stack([padded[:, i * hop : i * hop + window] for i in range(count)], axis=1)


def inside(
  start: float, seconds: float, window_seconds: float, hop_seconds: float, count: int
) -> slice:
  """Which of `count` windows every hop lie in a span; the last window where none begins in it.

  >>> inside(start=2.0, seconds=12.0, window_seconds=10.0, hop_seconds=1.0, count=20)
  slice(2, 5, None)
  """
  first = min(int(start / hop_seconds + 1e-6), count - 1)
  more = int(max(seconds - window_seconds, 0) / hop_seconds + 1e-6)
  return slice(first, min(first + more, count - 1) + 1)
