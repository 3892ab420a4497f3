"""The waveform of a clip: each part synthesized alone, set to its level, and put into a room.

symusic's synthesizer ignores velocities, so levels of notes and parts are applied to the sound.
"""

import numpy as np

from musiclm_jax import audio
from musiclm_jax.datasets.instruments import DRUMS
from musiclm_jax.datasets.performance import Part
from musiclm_jax.datasets.rendition import PREROLL_SECONDS

SAMPLE_RATE = 24_000
SYNTHESIS_RATE = 2 * SAMPLE_RATE  # at 24 kHz symusic loses up to 5 dB between 4 and 8 kHz
SYNTHESIS_QUALITY = 2  # at this rate as good as symusic's best, 4, and five times faster
LEVELS = {"soft": 0.05, "medium": 0.08, "loud": 0.125}  # RMS level of a clip
PEAK = 0.95
RAMP_SECONDS = 0.008  # in which the level changes from note to note
DRY = 0.25  # share of clips without reverberation
REVERBERATION = (0.3, 1.2)  # seconds in which the room's sound decays by 60 dB
WET = (-20.0, -12.0)  # level of the room's sound in dB
DELAY = (0.005, 0.02)  # seconds before the room answers
DAMPING = 0.5  # coefficient of the room's one-pole low-pass filter


def render(
  parts: tuple[Part, ...],
  dynamics: str,
  soundfont: str,
  clip_seconds: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Waveform [samples] int16 at 24 kHz mono, without DC, at the RMS level of the dynamics.

  `soundfont` is the path of one that `soundfonts` corrected; `rng` draws the room. Where peaks
  would exceed `PEAK` the whole clip is softer; nothing is clipped.
  """
  begin, samples = (round(x * SAMPLE_RATE) for x in (PREROLL_SECONDS, clip_seconds))
  sound = sum(stem(part, soundfont, begin + samples) * 10 ** (part.loudness / 20) for part in parts)
  waveform = reverberate(sound, rng)[begin : begin + samples]
  waveform = waveform - waveform.mean(dtype=np.float64)
  gain = min(
    LEVELS[dynamics] / max(float(np.sqrt(np.mean(waveform**2))), 1e-9),
    PEAK / max(float(np.abs(waveform).max()), 1e-9),
  )
  return audio.to_int16(waveform * gain * audio.INT16_PEAK)


def stem(part: Part, soundfont: str, samples: int) -> np.ndarray:
  """One part alone [samples] float32 from `PREROLL_SECONDS` before the clip, with RMS level 1 where
  it sounds."""
  import symusic

  drums = part.instrument.program == DRUMS
  track = symusic.Track(
    part.instrument.name, 0 if drums else part.instrument.program, drums, ttype="second"
  )
  onsets = np.maximum(part.notes[:, 0] + PREROLL_SECONDS, 0.0)
  for onset, (_, duration, pitch, _) in zip(onsets.tolist(), part.notes.tolist()):
    track.notes.append(symusic.Note(onset, duration, int(pitch), 100, ttype="second"))
  score = symusic.Score(480, ttype="second")
  score.tracks.append(track)
  # A synthesizer keeps state from render to render that some instruments make audible.
  synthesizer = symusic.Synthesizer(soundfont, SYNTHESIS_RATE, SYNTHESIS_QUALITY)
  sound = np.asarray(synthesizer.render(score, stereo=False))[0]
  sound = audio.resample(sound, SYNTHESIS_RATE, SAMPLE_RATE)
  result = np.zeros(samples, np.float32)
  result[: min(samples, len(sound))] = sound[:samples]
  result *= level_curve(onsets, part.notes[:, 3], samples)
  return result / max(sounding_level(result), 1e-9)


def level_curve(onsets: np.ndarray, levels: np.ndarray, samples: int) -> np.ndarray:
  """Gain [samples] float32 that goes to the level in dB of each onset (in seconds, at least 0)
  within `RAMP_SECONDS`."""
  onsets, first = np.unique(onsets, return_index=True)
  gains = 10 ** (levels[first] / 20)
  starts = np.minimum(np.round(onsets * SAMPLE_RATE).astype(int), samples)
  lengths = np.diff(starts, prepend=0, append=samples)
  curve = np.repeat(np.concatenate([gains[:1], gains]).astype(np.float32), lengths)
  size = round(RAMP_SECONDS * SAMPLE_RATE)
  for start, old, new in zip(starts[1:], gains[:-1], gains[1:]):
    ramp = curve[start : start + size]
    ramp[:] = np.linspace(old, new, size)[: len(ramp)]
  return curve


def sounding_level(sound: np.ndarray) -> float:
  """RMS level of the frames of 50 ms that are at most 40 dB below the loudest."""
  size = SAMPLE_RATE // 20
  power = np.square(sound[: len(sound) // size * size]).reshape(-1, size).mean(axis=1)
  return float(np.sqrt(power[power >= 1e-4 * power.max()].mean()))


def reverberate(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The sound [samples] in a random room, or, for a share `DRY` of the draws, as it is."""
  from scipy import signal

  if rng.random() < DRY:
    return sound
  seconds, wet, delay = (rng.uniform(*each) for each in (REVERBERATION, WET, DELAY))
  time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
  noise = rng.normal(size=len(time)) * 10 ** (-3 * time / seconds)
  room = signal.lfilter([1 - DAMPING], [1, -DAMPING], noise)
  room *= 10 ** (wet / 20) / np.sqrt(np.sum(room**2))
  response = np.concatenate([[1.0], np.zeros(round(delay * SAMPLE_RATE)), room]).astype(np.float32)
  return signal.oaconvolve(sound, response)[: len(sound)]
