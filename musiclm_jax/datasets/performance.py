"""How a rendition is played: the small deviations of time, duration and level that players make.

Voices share a slow deviation, so that they stay together; each adds a faster one of its own.
"""

import dataclasses

import numpy as np

from musiclm_jax.datasets import scores
from musiclm_jax.datasets.instruments import Instrument
from musiclm_jax.datasets.rendition import Rendition, Voice

SHARED_SECONDS, OWN_SECONDS = 0.010, 0.006  # standard deviations of onsets
SHARED_STEP = 0.7  # seconds between independent values of the shared deviation
OWN_MEMORY = 0.7  # correlation of a voice's deviations from note to note
LARGEST = 2.5  # standard deviations; larger ones are cut
SHORTER = 0.08  # standard deviation of the share by which notes are shorter
DOWNBEAT, BEAT, OFFBEAT = 1.5, 0.5, -1.0  # accents in dB
ARC, PHRASE_BARS = 1.5, 8  # a phrase is louder by this many dB in its middle than at its ends
CONTOUR = 0.08  # dB per semitone above the mean pitch
LEVEL_NOISE = 0.8  # standard deviation in dB


@dataclasses.dataclass(frozen=True)
class Part:
  """What one instrument plays: notes [notes, 4], onset and duration in seconds from the beginning
  of the clip, MIDI pitch, level in dB. Notes that begin before the clip have negative onsets.

  `loudness` in dB is the level of the whole part in the mix, relative to the melody.
  """

  instrument: Instrument
  notes: np.ndarray
  loudness: float


def perform(rendition: Rendition, rng: np.random.Generator) -> tuple[Part, ...]:
  """One part for each voice of a rendition, in the same order."""
  notes = np.concatenate([voice.notes for voice in rendition.voices])
  begin, end = (f(notes[:, 0]) * rendition.seconds_per_quarter for f in (np.min, np.max))
  grid = np.arange(begin, end + 2 * SHARED_STEP, SHARED_STEP)
  drift = SHARED_SECONDS * normal(rng, len(grid))
  return tuple(
    play(voice, rendition, lambda seconds: np.interp(seconds, grid, drift), rng)
    for voice in rendition.voices
  )


def play(voice: Voice, rendition: Rendition, drift, rng: np.random.Generator) -> Part:
  """The notes of a voice as they are played; `drift` maps seconds to the shared deviation."""
  quarters, which = np.unique(voice.notes[:, 0], return_inverse=True)  # notes of a chord are one
  seconds = quarters * rendition.seconds_per_quarter
  own = np.empty(len(quarters))
  for i, step in enumerate(normal(rng, len(quarters))):
    own[i] = OWN_MEMORY * own[i - 1] + np.sqrt(1 - OWN_MEMORY**2) * step if i else step
  onsets = seconds + drift(seconds) + OWN_SECONDS * own
  shares = 1.0 - SHORTER * np.abs(normal(rng, len(voice.notes)))
  durations = voice.notes[:, 1] * rendition.seconds_per_quarter * shares
  levels = accents(quarters, rendition) + LEVEL_NOISE * normal(rng, len(quarters))
  pitches = voice.notes[:, 2]
  contour = CONTOUR * (pitches - pitches.mean())
  played = np.stack([onsets[which], durations, pitches, levels[which] + contour], axis=1)
  return Part(voice.instrument, played, voice.loudness)


def accents(quarters: np.ndarray, rendition: Rendition) -> np.ndarray:
  """Level in dB [notes] of onsets in quarters by their place in the bar and in the phrase."""
  metre = rendition.work.metre
  bar, beat = scores.BAR_QUARTERS[metre], scores.BEAT_QUARTERS[metre]
  place = quarters + rendition.start - rendition.pickup

  def is_multiple(period):
    return np.abs((place + period / 2) % period - period / 2) < 1e-3

  accent = np.where(is_multiple(bar), DOWNBEAT, np.where(is_multiple(beat), BEAT, OFFBEAT))
  phrase = place / (PHRASE_BARS * bar)
  return accent + ARC * (np.sin(np.pi * (phrase % 1.0)) - 0.5)


def normal(rng: np.random.Generator, count: int) -> np.ndarray:
  """Standard normal numbers [count], at most `LARGEST` in size."""
  return np.clip(rng.normal(size=count), -LARGEST, LARGEST)
