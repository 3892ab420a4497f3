"""Sources that follow the time in a piece: where the beats are, and where it begins and ends.

Like labels they read what is known of a whole record, but their codes differ from frame to frame.
"""

import dataclasses

import numpy as np

from musiclm_jax.ranges import PositiveInt
from musiclm_jax.tokens import Make, Stream


@dataclasses.dataclass(frozen=True)
class Beat:
  """How far each frame is between two beats: code 0 .. codebook_size - 1.

  `tempo` is the field of beats a minute, `beat` that of the seconds of any beat, 0 where it is
  missing. Onsets follow from it at once, while a tempo alone is hardly learned: what was played
  tells it too.
  """

  tempo: str
  beat: str

  @property
  def facts(self) -> tuple[str, ...]:
    """Both fields."""
    return (self.tempo, self.beat)

  def features(self, stream: Stream) -> tuple[str, ...]:
    """Both fields."""
    return self.facts

  def check(self, stream: Stream, entries: dict[str, dict]) -> None:
    """Raises ValueError where the stream has no frame rate."""
    _check_rate(stream)

  def open(self, stream: Stream, entries: dict[str, dict], parts: dict[str, str]) -> Make:
    """A function to codes [frames, 1], -1 where the tempo is not known."""
    del entries, parts

    def make(record: dict, start: float, seconds: float, rng=None) -> np.ndarray:
      del rng
      bpm, times = _number(record, self.tempo, 0.0), _times(stream, start, seconds)
      if not bpm > 0:  # also where it is not a number
        return np.full(times.shape, -1, np.int32)
      phase = (times - _number(record, self.beat, 0.0)) * bpm / 60 % 1.0
      return np.minimum(phase * stream.codebook_size, stream.codebook_size - 1).astype(np.int32)

    return make

  def gone_on(self, before: dict, after: dict, time: float) -> dict:
    """The record `after` with beats that go on, at its own tempo, where those of `before` are at
    `time` in seconds; its own beats and no tempo stay as they are.
    """
    tempos = _number(before, self.tempo, 0.0), _number(after, self.tempo, 0.0)
    if self.beat in after or not tempos[1] > 0:
      return after
    beat = _number(before, self.beat, 0.0)
    if not tempos[0] > 0:
      return after | {self.beat: time}
    if tempos[0] != tempos[1]:
      beats = (time - beat) * tempos[0] / 60 % 1.0
      beat = time - beats * 60 / tempos[1]
    return after | ({self.beat: beat} if beat else {})


@dataclasses.dataclass(frozen=True)
class Place:
  """How near each frame is to the beginning or the end of its piece: code 0 for far from both, then
  one code for each of the first `first` seconds, and one for each of the last seconds.

  `start` and `end` are fields in seconds: where in the piece the record starts, and where in the
  record the piece ends.
  """

  start: str
  end: str
  first: PositiveInt

  @property
  def facts(self) -> tuple[str, ...]:
    """Both fields."""
    return (self.start, self.end)

  def features(self, stream: Stream) -> tuple[str, ...]:
    """Both fields."""
    return self.facts

  def check(self, stream: Stream, entries: dict[str, dict]) -> None:
    """Raises ValueError where the stream has no frame rate, or no code for an ending."""
    _check_rate(stream)
    if stream.codebook_size < self.first + 2:
      raise ValueError(
        f"stream {stream.name}: wanted {self.first + 2} codes, found {stream.codebook_size}"
      )

  def open(self, stream: Stream, entries: dict[str, dict], parts: dict[str, str]) -> Make:
    """A function to codes [frames, 1], -1 where neither is known."""
    del entries, parts
    last = stream.codebook_size - 1 - self.first

    def make(record: dict, start: float, seconds: float, rng=None) -> np.ndarray:
      del rng
      times = _times(stream, start, seconds)
      if record.get(self.start) is None and record.get(self.end) is None:
        return np.full(times.shape, -1, np.int32)
      since = np.floor(times + _number(record, self.start, np.inf))
      left = np.maximum(np.floor(_number(record, self.end, np.inf) - times), 0)
      near = np.where(left < last, 1 + self.first + left, 0)
      return np.where((since >= 0) & (since < self.first), 1 + since, near).astype(np.int32)

    return make


def _check_rate(stream: Stream) -> None:
  if not stream.frame_rate:
    raise ValueError(f"stream {stream.name}: wanted a frame rate, found 0 Hz")


def _times(stream: Stream, start: float, seconds: float) -> np.ndarray:
  """The middles in seconds [frames, 1] of a span's frames."""
  return start + (np.arange(stream.frames(seconds))[:, None] + 0.5) / stream.frame_rate


def _number(record: dict, field: str, other: float) -> float:
  """A field of a record, `other` where it is missing."""
  value = record.get(field)
  return other if value is None else float(np.ravel(value)[0])
