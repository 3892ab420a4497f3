"""Arrangements: a passage for instruments, alone or with bass, drone, chords and percussion.

Every random choice depends on (seed, work, passage, number) alone.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from musiclm_jax.datasets import accompaniment, draws, instruments, passages, scores
from musiclm_jax.datasets.catalogue import Work
from musiclm_jax.datasets.instruments import Instrument
from musiclm_jax.datasets.passages import Passage
from musiclm_jax.datasets.rendition import PREROLL_SECONDS, Rendition, Voice
from musiclm_jax.datasets.scores import Music
from musiclm_jax.datasets.synthesis import LEVELS

ARTICULATION = {"legato": 0.97, "detached": 0.6}  # sounding share of a note's value
TAIL_SECONDS = 0.8  # what a closing passage leaves for its last note to ring
OCTAVES = (0, -12, 12, -24, 24)
LOWER_PARTS = -2.0  # dB, relative to the highest part


class Casting(NamedTuple):
  """A tempo, the start in quarters, and voices transposed by `shift` semitones that can play it."""

  tempo_word: str
  bpm: float
  start: float
  shift: int
  voices: tuple[Voice, ...]


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
  """Rendition `number` (of `renditions`) of a passage of a work from `passages.repeated`.

  The renditions of a passage are one melody: they share the tempo word and, where the instruments
  allow it, the key; the leading instrument, the accompaniment, the exact tempo, dynamics and
  articulation differ. With `held_out` the leading instrument and the tempo are one of the pairs
  of the split `combinations`; without it no instrument plays at its held-out tempo. Raises
  ValueError where no instrument can play the passage.
  """
  place = (seed, work.id, passage.name, held_out)
  shared, own = draws.generator(*place), draws.generator(*place, number)
  tempo = str(shared.choice(list(passages.TEMPI)))
  kind = str(shared.permutation(accompaniment.KINDS)[number % len(accompaniment.KINDS)])
  leads = shared.permutation(np.array(instruments.with_role("lead"), object))
  shifts = shared.permutation(np.arange(-5, 7)).tolist()
  found: list[Casting | None] = [None] * len(leads)
  for i, lead in enumerate(leads):
    word = lead.held_out if held_out else tempo
    if word and (lead.held_out == word) == held_out:
      bpm = draw_bpm(word, draws.generator(*place, number, word))
      start, parts = excerpt(music, work, passage, bpm, clip_seconds)
      found[i] = first_casting(parts, lead, shifts, word, bpm, start)
  if not any(found):
    raise ValueError(f"{work.id}: no instrument's range holds passage {passage.name}")
  word, bpm, start, shift, voices = found[choose([*map(bool, found)], number, renditions)]
  key = transpose_key(work.key, shift)
  melody = scores.melody_of(voices[0].notes)
  articulation, voices = articulate(voices, passage, own)
  if len(voices) == 1:
    downbeat = (music.pickup - start) % scores.BAR_QUARTERS[work.metre]
    lead = voices[0].instrument
    voices += accompaniment.accompany(
      kind, melody, key, work.metre, downbeat=downbeat, lead=lead, word=word, rng=own
    )
  else:
    kind = "parts"
  return Rendition(
    work=work,
    passage=passage,
    start=start,
    pickup=music.pickup,
    bpm=bpm,
    tempo_word=word,
    key=key,
    arrangement=kind,
    dynamics=str(own.choice(list(LEVELS))),
    articulation=articulation,
    voices=voices,
    melody=melody,
  )


def draw_bpm(word: str, rng: np.random.Generator) -> float:
  """Beats a minute that a tempo word allows."""
  low, high = passages.TEMPI[word]
  return float(rng.integers(low, high + 1))


def first_casting(
  parts: list[np.ndarray], lead: Instrument, shifts: list[int], word: str, bpm: float, start: float
) -> Casting | None:
  """The casting by the first of `shifts` at which all parts are in range, or None."""
  for shift in shifts:
    if voices := cast(parts, lead, shift, word):
      return Casting(word, bpm, start, shift, voices)
  return None


def choose(able: list[bool], number: int, renditions: int) -> int:
  """The index of an instrument that is able to play, for rendition `number`.

  The renditions search from places that are equally far apart, and no two have the same instrument
  where enough are able.
  """
  chosen: list[int] = []
  for each in range(number + 1):
    begin = each * (len(able) // renditions)
    order = [i for i in (*range(begin, len(able)), *range(begin)) if able[i]]
    chosen.append(next((i for i in order if i not in chosen), order[0]))
  return chosen[-1]


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
    start = music.length - np.floor((clip_seconds - TAIL_SECONDS) * bpm / 60.0) * beat
  preroll, length = (x * bpm / 60.0 * beat for x in (PREROLL_SECONDS, clip_seconds))
  begun = [part[part[:, 0] < start + length] for part in music.parts]
  parts = [passages.between(part, start - preroll, np.inf) for part in begun]
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
    family = [each for each in instruments.with_role("consort") if each.family == lead.family]
    members = [each for each in family if each is lead or each.held_out != word]
  voices = []
  for part in parts:
    notes = part + shift * step
    able = [each for each in ([lead] if not voices else members) if in_range(notes, each)]
    if not able:
      return ()
    middle = notes[:, 2].mean()
    best = min(able, key=lambda each: abs((each.low + each.high) / 2 - middle))
    voices.append(Voice(best, notes, LOWER_PARTS if voices else 0.0))
  return tuple(voices)


def articulate(
  voices: tuple[Voice, ...], passage: Passage, rng: np.random.Generator
) -> tuple[str, tuple[Voice, ...]]:
  """A random articulation, and the voices with notes that sound for its share of their value."""
  articulation = str(rng.choice(["legato", "legato", "detached"]))
  if passage.place == "ending":
    articulation = "legato"  # so that the last note rings out
  share = np.array([[1.0, ARTICULATION[articulation], 1.0]])
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
