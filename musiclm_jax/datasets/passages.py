"""Passages: the parts of a work that become clips."""

import dataclasses

import numpy as np

from musiclm_jax.datasets import scores
from musiclm_jax.datasets.catalogue import Work

TEMPI = {"slow": (60, 76), "moderate": (90, 112), "fast": (130, 168)}  # beats a minute
AT_END = 0.2  # share of the works whose first passage is their beginning, and likewise the ending
TRIES = 20  # places that are tried for a passage


@dataclasses.dataclass(frozen=True)
class Passage:
  """A part of a work that fills a clip.

  `name` is the same in all its renditions, `start` is in quarters from the beginning of the work,
  `place` is beginning, middle (anywhere, also within a note) or ending. An ending has no fixed
  start: it is the last `clip_seconds`.
  """

  name: str
  start: float
  place: str


def repeated(music: scores.Music, clip_seconds: float, beat: float) -> scores.Music:
  """The work repeated so often that a clip at the fastest tempo may start anywhere in it.

  `beat` is in quarters.
  """
  # Fiddle tunes and verses are repeated when they are played, too.
  needed = clip_seconds * TEMPI["fast"][1] / 60.0 * beat
  times = 1 + int(np.ceil(needed / music.length))
  step = np.array([[music.length, 0.0, 0.0]])
  parts = tuple(np.concatenate([part + i * step for i in range(times)]) for part in music.parts)
  return dataclasses.replace(music, parts=parts, length=times * music.length)


def draw_passages(
  music: scores.Music, work: Work, clip_seconds: float, count: int, rng: np.random.Generator
) -> list[Passage]:
  """`count` passages of a work, spread over it; fewer where too few places fit.

  One is drawn from each of `count` equal parts of the work. The first may be its beginning, the
  last its ending, the others start anywhere, also within a note.
  """
  played = repeated(music, clip_seconds, scores.BEAT_QUARTERS[work.metre])
  shortest = clip_seconds * TEMPI["slow"][0] / 60.0 * scores.BEAT_QUARTERS[work.metre]
  beginning = Passage("0", 0.0, "beginning")
  ending = Passage("end", played.length - shortest, "ending")
  found = []
  for i in range(count):
    starts = (i + rng.random(TRIES)) / count * music.length
    places = [Passage(f"{x:.2f}", round(float(x), 2), "middle") for x in starts]
    chance = rng.random()
    if i == 0 and chance < AT_END:
      places.insert(0, beginning)
    elif i == count - 1 and chance > 1 - AT_END:
      places.insert(0, ending)
    found += [each for each in places if fits(played, work, each.start, shortest)][:1]
  return found


def fits(music: scores.Music, work: Work, start: float, length: float) -> bool:
  """Whether `length` quarters from `start` have a melody, and notes in the key of the work.

  The melody must have four or more notes that sound for most of the time.
  """
  heard = [between(part, start, start + length) for part in music.parts]
  notes = np.concatenate(heard)
  melody = scores.melody_of(heard[0]) if len(heard[0]) else heard[0]
  if len(melody) < 4 or melody[:, 1].sum() < 0.75 * length:
    return False
  # A tune keeps its mode throughout; what has harmony may leave the key for a while.
  in_key = len(heard) == 1 or scores.estimate_key(notes) == work.key
  return in_key and scores.share_in_scale(notes, work.key) >= 0.85


def between(notes: np.ndarray, start: float, stop: float) -> np.ndarray:
  """Notes [notes, 3] that sound in [start, stop), cut to it, with onsets counted from start."""
  begin = np.maximum(notes[:, 0], start)
  end = np.minimum(notes[:, 0] + notes[:, 1], stop)
  kept = end - begin > 1e-6
  return np.stack([begin - start, end - begin, notes[:, 2]], axis=1)[kept]
