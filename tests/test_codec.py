"""Distortion measures and Opus, on signals whose distortion is known."""

import numpy as np
import pytest

from musiclm_jax.evaluation import codec

RATE = 24000


@pytest.fixture
def music(rng):
  """Four seconds [4 * RATE] of a chord in a little noise."""
  time = np.arange(4 * RATE) / RATE
  chord = sum(np.sin(2 * np.pi * f * time) for f in (220, 277, 330, 880)) / 8
  return (chord + 0.01 * rng.normal(size=4 * RATE)).astype(np.float32)


def test_stft_distance_is_zero_for_equal_waveforms_and_grows_with_noise(music, rng):
  noise = rng.normal(size=4 * RATE).astype(np.float32)
  distances = [
    float(codec.stft_distance(music[None], (music + s * noise)[None])[0]) for s in (0, 0.01, 0.1)
  ]
  assert distances[0] == 0 and 0.1 < distances[1] < distances[2]
  silence = codec.stft_distance(music[None], np.zeros((1, 4 * RATE), np.float32))
  assert float(silence[0]) > 1  # the spectral convergence alone is then 1


def test_opus_is_aligned_and_better_and_larger_at_a_higher_rate(music):
  rates, distances = [], []
  for kbps in (6, 12, 24):
    decoded, bits = codec.through_opus(music, RATE, kbps)
    assert decoded.shape == music.shape and decoded.dtype == np.float32
    rates.append(bits / 4)
    distances.append(float(codec.stft_distance(music[None], decoded[None])[0]))
  assert rates[0] < rates[1] < rates[2] and distances[0] > distances[1] > distances[2]
  assert 12000 < rates[1] < 15000  # the container takes about 1.5 kbit/s
  assert np.corrcoef(decoded, music)[0, 1] > 0.9


def test_an_unsupported_sample_rate_of_opus_is_named():
  with pytest.raises(ValueError, match="44100 Hz.*opus_kbps"):
    codec.through_opus(np.zeros(100, np.float32), 44100, 12)
