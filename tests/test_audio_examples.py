"""Crops of audio records that are moved in pitch."""

import numpy as np
import pytest

from musiclm_jax.training.audio_examples import Waveforms

RATE, HERTZ = 24000, 440.0


@pytest.fixture(scope="module")
def make():
  examples = Waveforms(crop_seconds=1.0, sample_rate=RATE, max_semitones=2)
  return examples.open(None, {}, seed=3).make


def record(seconds: float) -> dict:
  """A tone of HERTZ."""
  time = np.arange(round(seconds * RATE)) / RATE
  return {"waveform": (8000 * np.sin(2 * np.pi * HERTZ * time)).astype(np.int16)}


def semitones(waveform: np.ndarray) -> float:
  """How far the loudest frequency is above HERTZ."""
  spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 16 * RATE))
  return 12 * np.log2(spectrum.argmax() / 16 / HERTZ)


def test_crops_are_moved_by_whole_semitones_within_the_range(make):
  crops = [make(record(3.0), position)["waveform"] for position in range(24)]
  assert all(crop.shape == (RATE,) and crop.dtype == np.float32 for crop in crops)
  found = np.array([semitones(crop) for crop in crops])
  np.testing.assert_allclose(found, found.round(), atol=0.01)
  assert set(found.round()) == {-2, -1, 0, 1, 2}


def test_a_position_has_one_crop(make):
  first, again = (make(record(3.0), 5)["waveform"] for _ in range(2))
  np.testing.assert_array_equal(first, again)


def test_silence_follows_a_record_that_is_shorter_than_the_crop(make):
  for position in range(6):
    crop = make(record(0.5), position)["waveform"]
    assert crop.shape == (RATE,) and not crop[round(0.6 * RATE) :].any() and crop.any()
