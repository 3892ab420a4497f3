"""Melodies as people hum them: glides between the notes, vibrato, soft attacks."""

import numpy as np

_GLIDE_SECONDS = 0.08
_VIBRATO_HZ, _VIBRATO_SEMITONES = 5.5, 0.3
_VIBRATO_AFTER_SECONDS = 0.15
_DIP_SECONDS = 0.03  # between notes
_OVERTONES = (1.0, 0.3, 0.1, 0.03)  # of a closed mouth


def hum(onsets: np.ndarray, seconds: float, sample_rate: int) -> np.ndarray:
  """A waveform [samples] float32 of the hummed notes of onsets [notes, 2].

  Rows of onsets are (seconds, MIDI pitch) in order of time. Every note lasts until the next one;
  before the first there is silence.
  """
  samples = round(seconds * sample_rate)
  time = np.arange(samples) / sample_rate
  if not len(onsets):
    return np.zeros(samples, np.float32)
  starts, pitches = onsets[:, 0].astype(float), onsets[:, 1].astype(float)
  note = np.clip(np.searchsorted(starts, time, side="right") - 1, 0, None)
  since = np.maximum(time - starts[note], 0)
  before = pitches[np.maximum(note - 1, 0)]
  glide = np.minimum(since / _GLIDE_SECONDS, 1)
  pitch = before + (pitches[note] - before) * glide * glide * (3 - 2 * glide)
  depth = _VIBRATO_SEMITONES * np.clip(since / _VIBRATO_AFTER_SECONDS - 1, 0, 1)
  pitch = pitch + depth * np.sin(2 * np.pi * _VIBRATO_HZ * since)
  phase = 2 * np.pi * np.cumsum(440 * 2 ** ((pitch - 69) / 12)) / sample_rate
  sound = sum(level * np.sin((k + 1) * phase) for k, level in enumerate(_OVERTONES))
  level = 0.3 + 0.7 * np.minimum(since / _DIP_SECONDS, 1)
  return (0.2 * sound * level * (time >= starts[0])).astype(np.float32)
