"""Token arithmetic: streams of codes, the one vocabulary, stages and windows. numpy only.

Codes are what a quantizer gives: [frames, num_quantizers], each in 0..codebook_size-1. Tokens are
codes plus an offset that is another for each level of each source, so an id means the same in every
stage; they are flattened frame by frame (AudioLM Section III-B).
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

PAD = 0  # padding, and the first decoder input
_ROUND_TO = 128  # the table is as long as a multiple of this, so that it shards


@dataclasses.dataclass(frozen=True)
class Stream:
  """Some levels of the codes of one source.

  `frame_rate` is in Hz, 0 for a source that gives one frame for a whole crop (MuLan). The stream is
  the levels first_quantizer .. first_quantizer + num_quantizers - 1 of the source.
  """

  name: str
  source: str
  frame_rate: float
  first_quantizer: int
  num_quantizers: int
  codebook_size: int

  def frames(self, seconds: float) -> int:
    """How many whole frames `seconds` hold: 30 s of 25 Hz are 750 frames."""
    return 1 if self.frame_rate == 0 else math.floor(seconds * self.frame_rate + 1e-6)

  def length(self, seconds: float) -> int:
    """How many tokens `seconds` hold: 10 s of 50 Hz and 4 levels are 2000 tokens."""
    return self.frames(seconds) * self.num_quantizers


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Ids of all streams: 0 is padding, then one null id per source, then the levels of each source.

  >>> acoustic = Stream("coarse", "acoustic", 50.0, 0, 2, 10)
  >>> Vocabulary((acoustic,)).offsets(acoustic)
  array([ 2, 12], dtype=int32)
  """

  streams: tuple[Stream, ...]

  @functools.cached_property
  def _blocks(self) -> dict[str, tuple[int, int, int]]:
    """source -> (null id, first id, codebook_size), in the order of first mention."""
    levels: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for s in self.streams:
      levels[s.source] = max(levels.get(s.source, 0), s.first_quantizer + s.num_quantizers)
      if sizes.setdefault(s.source, s.codebook_size) != s.codebook_size:
        raise ValueError(
          f"stream {s.name}: source {s.source} has codebooks of {sizes[s.source]}, "
          f"not of {s.codebook_size}"
        )
    first = 1 + len(levels)
    blocks = {}
    for null, source in enumerate(levels, start=1):
      blocks[source] = (null, first, sizes[source])
      first += levels[source] * sizes[source]
    blocks[""] = (0, first, 0)  # the end
    return blocks

  @property
  def size(self) -> int:
    """Rows of the embedding table, rounded up so that it can be sharded."""
    return math.ceil(self._blocks[""][1] / _ROUND_TO) * _ROUND_TO

  def null(self, stream: Stream) -> int:
    """The id that stands for every token of a dropped condition (guidance)."""
    return self._block(stream)[0]

  def first_id(self, stream: Stream) -> int:
    """The id of code 0 of the stream's first level; its ids are contiguous."""
    _, first, size = self._block(stream)
    return first + stream.first_quantizer * size

  def offsets(self, stream: Stream) -> np.ndarray:
    """[num_quantizers] int32: token = code + offset, so code = token - offset."""
    levels = np.arange(stream.num_quantizers, dtype=np.int32)
    return np.int32(self.first_id(stream)) + levels * np.int32(stream.codebook_size)

  def _block(self, stream: Stream) -> tuple[int, int, int]:
    if stream.source not in self._blocks:
      known = ", ".join(sorted(s for s in self._blocks if s))
      raise ValueError(f"stream {stream.name}: source {stream.source} is not among {known}")
    return self._blocks[stream.source]


def flatten(codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  """Codes [..., frames, levels] to tokens [..., frames * levels], frame by frame.

  >>> flatten(np.array([[1, 2], [3, 4]]), np.array([10, 20]))
  array([11, 22, 13, 24])
  """
  tokens = codes + offsets
  return tokens.reshape(*codes.shape[:-2], codes.shape[-2] * codes.shape[-1])


def unflatten(tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  """Tokens [..., frames * levels] to codes [..., frames, levels]: the inverse of `flatten`."""
  levels = len(offsets)
  return tokens.reshape(*tokens.shape[:-1], tokens.shape[-1] // levels, levels) - offsets


@dataclasses.dataclass(frozen=True)
class Stage:
  """One token model: what it reads (conditions, in order) and what it writes (target).

  The sequence is the tokens of each condition, then the target, all for the same `crop_seconds`:
  MusicLM's coarse stage is 12 + 250 + 2000 tokens.
  """

  name: str
  conditions: tuple[Stream, ...]
  target: Stream
  crop_seconds: float

  @property
  def condition_length(self) -> int:
    """Tokens before the target."""
    return sum(s.length(self.crop_seconds) for s in self.conditions)

  @property
  def target_length(self) -> int:
    """Tokens of the target."""
    return self.target.length(self.crop_seconds)

  @property
  def length(self) -> int:
    """Tokens of the whole sequence."""
    return self.condition_length + self.target_length

  @property
  def grid_seconds(self) -> Fraction:
    """Crops start at multiples of this: the shortest time that is whole frames of every stream."""
    rates = [s.frame_rate for s in (*self.conditions, self.target) if s.frame_rate]
    periods = [1 / Fraction(rate).limit_denominator(1000) for rate in rates]
    common = math.lcm(*(p.denominator for p in periods))
    return Fraction(math.lcm(*(int(p * common) for p in periods)), common)


@dataclasses.dataclass(frozen=True)
class Window:
  """Frames start .. end of the target, of which start .. new are known and new .. end are not."""

  start: int
  new: int
  end: int


def windows(total: int, window: int, stride: int, grid: int = 1) -> Iterator[Window]:
  """Windows over `total` frames: each has `window` frames (all, if fewer), `stride` of them new.

  Together they write every frame once; the last slides back so that it is as long as the others.
  Starts are multiples of `grid` frames.

  >>> [(w.start, w.new, w.end) for w in windows(total=10, window=6, stride=3)]
  [(0, 0, 6), (3, 6, 9), (4, 9, 10)]

  Raises ValueError where stride is not in 1..window, or a number is no multiple of the grid.
  """
  if not 1 <= stride <= window or total < 1:
    raise ValueError(f"windows of {window} frames with {stride} new ones over {total} frames")
  if total % grid or window % grid or stride % grid:
    raise ValueError(f"total {total}, window {window}, stride {stride}: not multiples of {grid}")
  end = min(window, total)
  yield Window(0, 0, end)
  while end < total:
    new, end = end, min(end + stride, total)
    yield Window(end - window, new, end)
