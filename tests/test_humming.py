"""A hum has the pitches of its notes, glides between them, and trembles."""

import librosa
import numpy as np

from musiclm_jax.evaluation.humming import hum

RATE = 24000


def test_pitch_glides_and_trembles_about_the_notes():
  onsets = np.array([[0.5, 57.0], [1.5, 64.0]])
  waveform = hum(onsets, 2.5, RATE)
  assert waveform.shape == (60000,) and waveform.dtype == np.float32
  assert not waveform[: RATE // 2].any() and 0.1 < np.abs(waveform).max() <= 0.5
  hop = 240  # 10 ms
  pitch = librosa.yin(waveform, fmin=80, fmax=800, sr=RATE, frame_length=1024, hop_length=hop)
  notes = 69 + 12 * np.log2(pitch / 440)
  assert abs(np.median(notes[80:145]) - 57) < 0.2 and abs(np.median(notes[180:240]) - 64) < 0.2
  assert 0.15 < notes[90:140].max() - 57 < 0.6  # vibrato
  glide = notes[150:158]
  assert (np.diff(glide) > -0.2).all() and 57.3 < np.median(glide) < 63.7


def test_no_notes_are_silence():
  assert not hum(np.zeros((0, 2)), 1.0, RATE).any()
