"""Passages of a work, renditions of a passage, and the waveform that is rendered from one.

A rendition depends on (seed, work, passage, number) alone, so any worker makes the same bytes.
"""

import csv
import dataclasses
import functools
import hashlib

import numpy as np

from musiclm_jax import audio
from musiclm_jax.datasets import catalogue, scores
from musiclm_jax.datasets.catalogue import Work

SAMPLE_RATE = 24_000
# symusic times a short loop's period to whole samples: at 24 kHz high notes are half a tone off.
SYNTHESIS_RATE = 4 * SAMPLE_RATE
SYNTHESIS_QUALITY = 2  # at this rate as good as symusic's best, 4, and five times faster
TEMPI = {"slow": (60, 76), "moderate": (90, 112), "fast": (130, 168)}  # beats a minute
DYNAMICS = {"soft": (48, 0.05), "medium": (80, 0.08), "loud": (112, 0.125)}  # velocity, RMS level
ARTICULATION = {"legato": 0.97, "detached": 0.6}  # sounding share of a note's value
PEAK = 0.95
DRUMS = 128  # the drum kit's number, one past the last General-MIDI program
KICK, SNARE, HAT = 36, 38, 42
TAIL_SECONDS = 0.8  # what a closing passage leaves for its last note to ring


@dataclasses.dataclass(frozen=True)
class Instrument:
  """One row of `data/instruments.csv`.

  `low` and `high` are MIDI pitches; `held_out` is the tempo word at which the instrument is not
  heard in training, or "".
  """

  program: int
  name: str
  family: str
  low: int
  high: int
  roles: str
  held_out: str


@dataclasses.dataclass(frozen=True)
class Voice:
  """What one instrument plays: notes [notes, 3] (onset, duration in quarters, MIDI pitch).

  `loudness` is relative to the velocity of the melody.
  """

  instrument: Instrument
  notes: np.ndarray
  loudness: float


@dataclasses.dataclass(frozen=True)
class Passage:
  """A part of a work that fills a clip.

  `name` is the same in all its renditions, `start` is in quarters from the beginning of the work,
  `place` is beginning, middle or ending. An ending has no fixed start: it is the last
  `clip_seconds`.
  """

  name: str
  start: float
  place: str


@dataclasses.dataclass(frozen=True)
class Rendition:
  """All facts of one clip; `melody` [notes, 3] counts quarters from the beginning of the clip."""

  work: Work
  passage: Passage
  start: float
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


@functools.cache
def instruments() -> tuple[Instrument, ...]:
  """All instruments of `data/instruments.csv`."""
  with open(catalogue.data_folder() / "instruments.csv", encoding="utf-8", newline="") as file:
    convert = {field.name: field.type for field in dataclasses.fields(Instrument)}
    return tuple(
      Instrument(**{k: convert[k](v) for k, v in row.items()}) for row in csv.DictReader(file)
    )


def with_role(role: str) -> list[Instrument]:
  """Instruments with a role: lead, consort, chords, bass, drone or percussion."""
  return [each for each in instruments() if role in each.roles.split()]


def generator(*parts) -> np.random.Generator:
  """A random generator seeded by `parts` alone: the same in every process, order and platform."""
  digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
  return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def repeated(music: scores.Music, clip_seconds: float, beat: float) -> scores.Music:
  """The work repeated as often as a clip at the fastest tempo needs; `beat` is in quarters."""
  # Fiddle tunes and verses are repeated when they are played, too.
  needed = clip_seconds * TEMPI["fast"][1] / 60.0 * beat
  times = max(1, int(np.ceil(needed / music.length)))
  step = np.array([[music.length, 0.0, 0.0]])
  parts = tuple(np.concatenate([part + i * step for i in range(times)]) for part in music.parts)
  return dataclasses.replace(music, parts=parts, length=times * music.length)


def passages_of(music: scores.Music, work: Work, clip_seconds: float) -> list[Passage]:
  """Beginning, phrases of eight bars and ending of a work from `repeated`.

  A phrase is kept where a clip at any tempo fits into the rest of the work, the melody has four or
  more notes that sound for most of it, and its notes are in the key of the work.
  """
  beat, bar = scores.BEAT_QUARTERS[work.metre], scores.BAR_QUARTERS[work.metre]
  longest, shortest = (
    clip_seconds * TEMPI[word][i] / 60.0 * beat for word, i in (("fast", 1), ("slow", 0))
  )

  def fits(start):
    heard = [between(part, start, start + shortest) for part in music.parts]
    notes = np.concatenate(heard)
    melody = scores.melody_of(heard[0]) if len(heard[0]) else heard[0]
    if len(melody) < 4 or melody[:, 1].sum() < 0.75 * shortest:
      return False
    # A tune keeps its mode throughout; what has harmony may leave the key for a while.
    in_key = len(heard) == 1 or scores.estimate_key(notes) == work.key
    return in_key and scores.share_in_scale(notes, work.key) >= 0.85

  starts = np.arange(0.0, music.length - longest + 1e-6, 8 * bar)
  found = [Passage(f"{x:g}", float(x), "middle" if x else "beginning") for x in starts if fits(x)]
  end = music.length - shortest
  return found + ([Passage("end", end, "ending")] if end >= 0 and fits(end) else [])


def between(notes: np.ndarray, start: float, stop: float) -> np.ndarray:
  """Notes [notes, 3] that sound in [start, stop), cut to it, with onsets counted from start."""
  begin = np.maximum(notes[:, 0], start)
  end = np.minimum(notes[:, 0] + notes[:, 1], stop)
  kept = end - begin > 1e-6
  return np.stack([begin - start, end - begin, notes[:, 2]], axis=1)[kept]


def render(rendition: Rendition, soundfont: str, clip_seconds: float) -> np.ndarray:
  """Waveform [samples] int16 at 24 kHz mono, without DC, at the RMS level of the dynamics.

  `soundfont` is the path of one that `soundfonts` corrected. Where peaks would exceed `PEAK` the
  whole clip is softer; nothing is clipped.
  """
  import symusic

  score = symusic.Score(480, ttype="second")
  velocity = DYNAMICS[rendition.dynamics][0]
  seconds = rendition.seconds_per_quarter
  for voice in rendition.voices:
    drums = voice.instrument.program == DRUMS
    track = symusic.Track(
      voice.instrument.name, 0 if drums else voice.instrument.program, drums, ttype="second"
    )
    for onset, duration, pitch in voice.notes.tolist():
      loud = int(np.clip(round(velocity * voice.loudness), 1, 127))
      track.notes.append(
        symusic.Note(onset * seconds, duration * seconds, int(pitch), loud, ttype="second")
      )
    score.tracks.append(track)
  # A synthesizer keeps state from render to render that some instruments make audible.
  synthesizer = symusic.Synthesizer(soundfont, SYNTHESIS_RATE, SYNTHESIS_QUALITY)
  sound = np.asarray(synthesizer.render(score, stereo=False))[0]
  sound = audio.resample(sound, SYNTHESIS_RATE, SAMPLE_RATE).astype(np.float64)
  samples = round(clip_seconds * SAMPLE_RATE)
  waveform = np.zeros(samples)
  waveform[: min(samples, len(sound))] = sound[:samples]
  waveform -= waveform.mean()
  gain = min(
    DYNAMICS[rendition.dynamics][1] / max(float(np.sqrt(np.mean(waveform**2))), 1e-9),
    PEAK / max(float(np.abs(waveform).max()), 1e-9),
  )
  return audio.to_int16(waveform * gain * audio.INT16_PEAK)
