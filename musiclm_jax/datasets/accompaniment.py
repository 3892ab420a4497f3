"""Accompaniments of a melody: a drone, or bass, chords and percussion that follow its metre."""

import numpy as np

from musiclm_jax.datasets import passages, scores
from musiclm_jax.datasets.instruments import HAT, KICK, SNARE, Instrument, with_role
from musiclm_jax.datasets.rendition import Voice

KINDS = ("solo", "drone", "bass", "chords", "band")
# Level in dB, relative to the melody.
LOUDNESS = {"drone": -13.0, "bass": -6.0, "chords": -9.0, "percussion": -9.0}
# Onset and duration in quarters, pitch classes from the root.
Chord = tuple[float, float, tuple[int, ...]]


def accompany(
  kind: str,
  melody: np.ndarray,
  key: str,
  metre: str,
  *,
  downbeat: float,
  lead: Instrument,
  word: str,
  rng: np.random.Generator,
) -> tuple[Voice, ...]:
  """The accompaniment of a melody [notes, 3] whose first downbeat is at `downbeat` quarters.

  `kind` is one of `KINDS`; () for "solo". The instrument `lead` of the melody and those
  that are held out at the tempo `word` are not used.
  """
  if kind == "solo":
    return ()
  begin, end = float(melody[:, 0].min()), float((melody[:, 0] + melody[:, 1]).max())

  def pick(role):
    able = [each for each in with_role(role) if each.held_out != word and each != lead]
    return able[int(rng.integers(len(able)))]

  if kind == "drone":
    tonic = 48 + scores.split_key(key)[0] - (12 if scores.split_key(key)[0] > 5 else 0)
    notes = np.array([[begin, end - begin, pitch] for pitch in (tonic, tonic + 7)])
    return (Voice(pick("drone"), notes, LOUDNESS["drone"]),)
  harmony = harmonise(melody, key, metre, downbeat=downbeat)
  rows = {
    "bass": [(onset, length, 28 + (triad[0] - 28) % 12) for onset, length, triad in harmony],
    "chords": strum(harmony, scores.BEAT_QUARTERS[metre]),
    "percussion": drum_pattern(metre, harmony[0][0], end),
  }
  return tuple(
    Voice(pick(role), within(rows[role], begin, end), LOUDNESS[role])
    for role in (tuple(rows) if kind == "band" else (kind,))
  )


def within(rows: list, begin: float, end: float) -> np.ndarray:
  """Rows (onset, duration, pitch) as notes [notes, 3], cut to [begin, end)."""
  notes = np.array(rows, np.float64).reshape(-1, 3)
  return passages.between(notes, begin, end) + [[begin, 0.0, 0.0]]


def harmonise(melody: np.ndarray, key: str, metre: str, *, downbeat: float) -> list[Chord]:
  """Chords for a melody [notes, 3], from a bar line before its first note to its end.

  One chord a bar, two in long bars; `downbeat` in quarters is that of any bar. Each is the triad of
  the key (on degrees 1, 4, 5, and 2 or 6, or 7 in minor-like modes) that has most of the melody's
  sounding time; the last one is the tonic where the melody ends on it.
  """
  tonic, mode = scores.split_key(key)
  scale = scores.SCALES[mode]
  degrees = (0, 3, 4, 6) if scale[6] == 10 else (0, 3, 4, 1, 5)
  triads = [tuple((tonic + scale[(degree + i) % 7]) % 12 for i in (0, 2, 4)) for degree in degrees]
  bar = scores.BAR_QUARTERS[metre]
  unit = bar / 2 if metre in ("4/4", "12/8") else bar
  begin, end = float(melody[:, 0].min()), float((melody[:, 0] + melody[:, 1]).max())
  first = downbeat - bar * np.ceil((downbeat - begin) / bar)
  chords = []
  for onset in np.arange(first, end - 1e-6, unit):
    heard = passages.between(melody, onset, onset + unit)
    pitch_classes = heard[:, 2].astype(int) % 12
    fit = [
      heard[np.isin(pitch_classes, triad), 1].sum() + 0.1 * unit * (i < 3)
      for i, triad in enumerate(triads)
    ]
    chords.append((float(onset), unit, triads[int(np.argmax(fit))]))
  if int(melody[-1, 2]) % 12 == tonic:
    chords[-1] = (*chords[-1][:2], triads[0])
  return chords


def strum(harmony: list[Chord], beat: float) -> list[tuple[float, float, float]]:
  """The chords' notes on every beat, voiced from G3 to F#4."""
  return [
    (onset + i * beat, 0.9 * beat, 55 + (pitch_class - 55) % 12)
    for onset, length, triad in harmony
    for i in range(round(length / beat))
    for pitch_class in triad
  ]


def drum_pattern(metre: str, downbeat: float, end: float) -> list[tuple[float, float, float]]:
  """Bass drum on strong beats, snare on the others, hi-hat on every eighth, from a downbeat on."""
  bar, beat = scores.BAR_QUARTERS[metre], scores.BEAT_QUARTERS[metre]
  strong = (0, 2) if metre in ("4/4", "12/8") else (0,)
  rows = []
  for start in np.arange(downbeat, end - 1e-6, bar):
    for i in range(round(bar / beat)):
      rows.append((start + i * beat, 0.2, KICK if i in strong else SNARE))
    rows += [(start + x, 0.1, HAT) for x in np.arange(0, bar - 1e-6, 0.5)]
  return rows
