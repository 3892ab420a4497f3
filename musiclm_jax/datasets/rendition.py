"""A rendition: all facts of one clip."""

import dataclasses

import numpy as np

from musiclm_jax.datasets import scores
from musiclm_jax.datasets.catalogue import Work
from musiclm_jax.datasets.instruments import Instrument
from musiclm_jax.datasets.passages import Passage

PREROLL_SECONDS = 2.0  # what is played before a clip begins, so that it begins within the music


@dataclasses.dataclass(frozen=True)
class Voice:
  """What one instrument plays: notes [notes, 3] (onset, duration in quarters, MIDI pitch).

  `loudness` in dB is the level in the mix, relative to the melody.
  """

  instrument: Instrument
  notes: np.ndarray
  loudness: float


@dataclasses.dataclass(frozen=True)
class Rendition:
  """All facts of one clip.

  Notes count quarters from the beginning of the clip, those of `voices` and of `melody` [notes, 3];
  they begin up to `PREROLL_SECONDS` before it. `pickup` is the work's.
  """

  work: Work
  passage: Passage
  start: float
  pickup: float
  bpm: float
  tempo_word: str
  key: str
  arrangement: str
  dynamics: str
  articulation: str
  voices: tuple[Voice, ...]
  melody: np.ndarray

  @property
  def seconds_per_quarter(self) -> float:
    """Seconds that a quarter note lasts at this tempo."""
    return 60.0 / self.bpm / scores.BEAT_QUARTERS[self.work.metre]

  @property
  def beat(self) -> float:
    """The seconds of the first beat of the clip."""
    beat = scores.BEAT_QUARTERS[self.work.metre]
    return (self.pickup - self.start) % beat * self.seconds_per_quarter
