"""Arrangements: a passage for instruments, alone or with bass, drone, chords and percussion.

Every random choice depends on (seed, work, passage, number) alone.
"""

import dataclasses
import itertools

import numpy as np

from musiclm_jax.datasets import mixing, scores, synthesis
from musiclm_jax.datasets.catalogue import Work
from musiclm_jax.datasets.scores import Music
from musiclm_jax.datasets.synthesis import Instrument, Passage, Rendition, Voice

ACCOMPANIMENTS = ("solo", "drone", "bass", "chords", "band")
OCTAVES = (0, -12, 12, -24, 24)
# Level in dB of what accompanies, relative to the melody.
LOUDNESS = {"parts": -2.0, "drone": -13.0, "bass": -6.0, "chords": -9.0, "percussion": -9.0}
# Onset and duration in quarters, pitch classes from the root.
Chord = tuple[float, float, tuple[int, ...]]


def arrange(
  music: Music,
  work: Work,
  passage: Passage,
  number: int,
  *,
  seed: int,
  clip_seconds: float,
  renditions: int,
  held_out: bool,
) -> Rendition:
  """Rendition `number` (of `renditions`) of a passage of a work from `synthesis.repeated`.

  The renditions of a passage are one melody: they share the tempo word and, where the instruments
  allow it, the key; the leading instrument, the accompaniment, the exact tempo, dynamics and
  articulation differ. With `held_out` the leading instrument and the tempo are one of the pairs
  of the split `combinations`; without it no instrument plays at its held-out tempo. Raises
  ValueError where no instrument can play the passage.
  """
  place = (seed, work.id, passage.name, held_out)
  shared, own = synthesis.generator(*place), synthesis.generator(*place, number)
  tempo = str(shared.choice(list(synthesis.TEMPI)))
  accompaniment = str(shared.permutation(ACCOMPANIMENTS)[number % len(ACCOMPANIMENTS)])
  leads = shared.permutation(np.array(synthesis.with_role("lead"), object))
  shifts = shared.permutation(np.arange(-5, 7))
  leads = np.roll(leads, -number * (len(leads) // renditions))
  for lead, shift in itertools.product(leads, shifts):
    word = lead.held_out if held_out else tempo
    if not word or (lead.held_out == word) != held_out:
      continue
    low, high = synthesis.TEMPI[word]
    bpm = float(synthesis.generator(*place, number, word).integers(low, high + 1))
    start, parts = excerpt(music, work, passage, bpm, clip_seconds)
    voices = cast(parts, lead, int(shift), word)
    if voices:
      break
  else:
    raise ValueError(
      f"{work.id}: wanted an instrument for passage {passage.name}, found none whose range holds it"
    )
  key = transpose_key(work.key, int(shift))
  melody = scores.melody_of(voices[0].notes)
  articulation, voices = articulate(voices, passage, own)
  if len(parts) == 1:
    downbeat = (music.pickup - start) % scores.BAR_QUARTERS[work.metre]
    voices += accompany(
      accompaniment, melody, key, work.metre, downbeat=downbeat, lead=lead, word=word, rng=own
    )
  return Rendition(
    work=work,
    passage=passage,
    start=start,
    pickup=music.pickup,
    bpm=bpm,
    tempo_word=word,
    key=key,
    arrangement=accompaniment if len(parts) == 1 else "parts",
    dynamics=str(own.choice(list(mixing.LEVELS))),
    articulation=articulation,
    voices=voices,
    melody=melody,
  )


def excerpt(
  music: Music, work: Work, passage: Passage, bpm: float, clip_seconds: float
) -> tuple[float, list[np.ndarray]]:
  """Start in quarters and the notes [notes, 3] of each part of a clip.

  Onsets count from the start, and the notes of `PREROLL_SECONDS` before it are there. An ending
  starts on a beat and leaves `TAIL_SECONDS` for the last note.
  """
  beat = scores.BEAT_QUARTERS[work.metre]
  start = passage.start
  if passage.place == "ending":
    start = music.length - np.floor((clip_seconds - synthesis.TAIL_SECONDS) * bpm / 60.0) * beat
  preroll, length = (x * bpm / 60.0 * beat for x in (synthesis.PREROLL_SECONDS, clip_seconds))
  begun = [part[part[:, 0] < start + length] for part in music.parts]
  parts = [synthesis.between(part, start - preroll, np.inf) for part in begun]
  return float(start), [part - [[preroll, 0.0, 0.0]] for part in parts if len(part)]


def cast(parts: list[np.ndarray], lead: Instrument, shift: int, word: str) -> tuple[Voice, ...]:
  """Voices for the parts transposed by `shift` semitones, or () where one is out of range.

  A single part may move by octaves. Several parts go to the leading instrument or, where it plays
  in consorts, to the members of its family whose range fits best; members held out at the tempo
  `word` are not used.
  """
  step = np.array([[0.0, 0.0, 1.0]])
  if len(parts) == 1:
    for octave in OCTAVES:
      notes = parts[0] + (shift + octave) * step
      if in_range(notes, lead):
        return (Voice(lead, notes, 0.0),)
    return ()
  members = [lead]
  if "consort" in lead.roles:
    family = [each for each in synthesis.with_role("consort") if each.family == lead.family]
    members = [each for each in family if each is lead or each.held_out != word]
  voices = []
  for part in parts:
    notes = part + shift * step
    able = [each for each in ([lead] if not voices else members) if in_range(notes, each)]
    if not able:
      return ()
    middle = notes[:, 2].mean()
    best = min(able, key=lambda each: abs((each.low + each.high) / 2 - middle))
    voices.append(Voice(best, notes, LOUDNESS["parts"] if voices else 0.0))
  return tuple(voices)


def articulate(
  voices: tuple[Voice, ...], passage: Passage, rng: np.random.Generator
) -> tuple[str, tuple[Voice, ...]]:
  """A random articulation, and the voices with notes that sound for its share of their value."""
  articulation = str(rng.choice(["legato", "legato", "detached"]))
  if passage.place == "ending":
    articulation = "legato"  # so that the last note rings out
  share = np.array([[1.0, synthesis.ARTICULATION[articulation], 1.0]])
  return articulation, tuple(
    dataclasses.replace(voice, notes=voice.notes * share) for voice in voices
  )


def in_range(notes: np.ndarray, instrument: Instrument) -> bool:
  """Whether all pitches of notes [notes, 3] are in the instrument's range."""
  return bool(notes[:, 2].min() >= instrument.low and notes[:, 2].max() <= instrument.high)


def transpose_key(key: str, shift: int) -> str:
  """transpose_key("D dorian", 3) == "F dorian"."""
  tonic, mode = scores.split_key(key)
  return f"{scores.TONICS[(tonic + shift) % 12]} {mode}"


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

  `kind` is one of `ACCOMPANIMENTS`; () for "solo". The instrument `lead` of the melody and those
  that are held out at the tempo `word` are not used.
  """
  if kind == "solo":
    return ()
  begin, end = float(melody[:, 0].min()), float((melody[:, 0] + melody[:, 1]).max())

  def pick(role):
    able = [each for each in synthesis.with_role(role) if each.held_out != word and each != lead]
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
  return synthesis.between(notes, begin, end) + [[begin, 0.0, 0.0]]


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
    heard = synthesis.between(melody, onset, onset + unit)
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
      rows.append((start + i * beat, 0.2, synthesis.KICK if i in strong else synthesis.SNARE))
    rows += [(start + x, 0.1, synthesis.HAT) for x in np.arange(0, bar - 1e-6, 0.5)]
  return rows
