"""Token arithmetic: streams of codes, the one vocabulary, stages. numpy only.

Codes are what a quantizer gives: [frames, num_quantizers], each in 0..codebook_size-1. Tokens are
codes plus an offset that differs for each level of each source, so an id means the same in every
stage; they are flattened frame by frame (AudioLM Section III-B).
"""

import dataclasses
import fractions
import functools
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from musiclm_jax.ranges import (
  Fraction,
  NonNegativeFloat,
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
)

PAD = 0  # padding, and the first decoder input
PATTERNS = ("flat", "delayed")
_ROUND_TO = 128  # the table is as long as a multiple of this, so that it shards

# (record, start, seconds, random numbers of the example) to codes [frames, levels]
Make = Callable[[dict, float, float, np.random.Generator | None], np.ndarray]


class Source(Protocol):
  """How the codes of a stream are made for a span of time; implementations are in sources.py."""

  def features(self, stream: "Stream") -> tuple[str, ...]:
    """The features of token shards that it reads."""

  def check(self, stream: "Stream", entries: dict[str, dict]) -> None:
    """Raises ValueError where the manifest's entries of the features do not fit the stream."""

  def open(self, stream: "Stream", entries: dict[str, dict], parts: dict[str, str]) -> Make:
    """make(record, start, seconds, rng): codes [frames, levels] int32 of a span that starts `start`
    seconds into the record; fewer frames where the record ends before the span.

    What is random in a training is drawn from `rng`; without one the codes are always the same.
    `parts` are directories of parts by role. Raises ValueError where a part does not fit.
    """


@runtime_checkable
class Facts(Source, Protocol):
  """A source whose codes follow from what is known of a whole record: its tempo, its key.

  `open` needs neither entries nor parts, and its function reads of a record the fields `facts`,
  which may be missing; codes that are not known are -1. In generation the record is what the prompt
  and the user say.
  """

  @property
  def facts(self) -> tuple[str, ...]:
    """The fields of the record that it reads."""


@dataclasses.dataclass(frozen=True)
class Stored:
  """Codes that the shards hold: a slice of them."""

  def features(self, stream: "Stream") -> tuple[str, ...]:
    """The codes of the stream's source."""
    return (stream.source,)

  def check(self, stream: "Stream", entries: dict[str, dict]) -> None:
    """Raises ValueError where rate, codebook size or levels are not the stream's."""
    entry = entries[stream.source]
    for name in ("frame_rate", "codebook_size"):
      wanted, found = getattr(stream, name), entry.get(name, 0)
      if found != wanted:
        raise ValueError(
          f"the {stream.source} codes have {name} {found:g}, stream {stream.name} wants {wanted:g}"
        )
    if entry["width"] < stream.last_quantizer:
      raise ValueError(
        f"there are {entry['width']} levels of {stream.source} codes, "
        f"stream {stream.name} wants {stream.last_quantizer}"
      )

  def open(self, stream: "Stream", entries: dict[str, dict], parts: dict[str, str]) -> Make:
    """A function that slices the record's codes."""
    del entries, parts
    return lambda record, start, seconds, rng=None: stream.slice(
      record[stream.source], start, seconds
    )


@dataclasses.dataclass(frozen=True)
class Stream:
  """Some levels of the codes of one source.

  `frame_rate` is in Hz, 0 for a source that gives one frame for a span of any length (MuLan). The
  stream is the levels first_quantizer .. first_quantizer + num_quantizers - 1 of the source, which
  `made` makes. Where it is a condition, the share `dropout` of training examples has null ids in
  its place.
  """

  name: str
  source: str
  frame_rate: NonNegativeFloat
  first_quantizer: NonNegativeInt
  num_quantizers: PositiveInt
  codebook_size: PositiveInt
  made: Source = Stored()
  dropout: Fraction = 0.0

  @property
  def last_quantizer(self) -> int:
    """The first level of the source after those of the stream."""
    return self.first_quantizer + self.num_quantizers

  def frames(self, seconds: float) -> int:
    """How many whole frames `seconds` hold: 30 s of 25 Hz are 750 frames."""
    return math.floor(seconds * self.frame_rate + 1e-6) if self.frame_rate else 1

  def length(self, seconds: float) -> int:
    """How many tokens `seconds` hold: 10 s of 50 Hz and 4 levels are 2000 tokens."""
    return self.frames(seconds) * self.num_quantizers

  def slice(self, codes: np.ndarray, start: float, seconds: float) -> np.ndarray:
    """The stream's levels and the span's frames [..., frames, num_quantizers] int32 of all codes
    [..., frames, levels] of its source; fewer frames where the codes end before the span.
    """
    first = round(start * self.frame_rate)
    frames = slice(first, first + self.frames(seconds))
    return codes[..., frames, self.first_quantizer : self.last_quantizer].astype(np.int32)


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
    """The id of every token of a dropped condition (guidance)."""
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

  A sequence is the tokens of each condition, then those of the target, all of the same span of
  `crop_seconds`: MusicLM's coarse stage is 12 + 250 + 2000 tokens. `pattern` is the order in which
  the model sees them (lm/patterns.py): "flat", each token at a position of its own, or "delayed",
  one position a frame. Raises ValueError, naming the stage, where it could not generate: a span
  that is not whole steps of `grid_seconds`, a target without a frame rate, an unknown pattern.
  """

  name: str
  conditions: tuple[Stream, ...]
  target: Stream
  crop_seconds: PositiveFloat
  pattern: str = "flat"

  def __post_init__(self):
    if self.pattern not in PATTERNS:
      wanted = " or ".join(PATTERNS)
      raise ValueError(f"stage {self.name}: pattern: wanted {wanted}, found {self.pattern!r}")
    if not self.target.frame_rate > 0:
      raise ValueError(f"stage {self.name}: target {self.target.name} has no frame rate")
    steps = self.crop_seconds / float(self.grid_seconds)
    if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
      raise ValueError(
        f"stage {self.name}: crop_seconds {self.crop_seconds:g} is no multiple of "
        f"{float(self.grid_seconds):g} s, the shortest time that is whole frames of all its streams"
      )
    fastest = max((s.frame_rate for s in self.conditions), default=0)
    if self.pattern == "delayed" and fastest > self.target.frame_rate:
      raise ValueError(
        f"stage {self.name}: pattern delayed adds a condition's frame to each of the target's, "
        f"which come at {self.target.frame_rate:g} Hz and so cannot carry {fastest:g} Hz"
      )

  @property
  def streams(self) -> tuple[Stream, ...]:
    """The conditions, then the target."""
    return (*self.conditions, self.target)

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
  def grid_seconds(self) -> fractions.Fraction:
    """Crops start at multiples of this: the shortest time that is whole frames of every stream."""
    rates = (s.frame_rate for s in self.streams if s.frame_rate)
    return common_multiple(1 / fractions.Fraction(rate).limit_denominator(1000) for rate in rates)


def common_multiple(times) -> fractions.Fraction:
  """The shortest time that is a whole multiple of all of these fractions.

  >>> common_multiple([fractions.Fraction(1, 25), fractions.Fraction(1, 50)])
  Fraction(1, 25)
  """
  times = list(times)
  common = math.lcm(*(time.denominator for time in times))
  return fractions.Fraction(math.lcm(*(int(time * common) for time in times)), common)
