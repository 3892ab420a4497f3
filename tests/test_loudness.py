"""The level of long music."""

import numpy as np
import pytest

from musiclm_jax import loudness

RATE = 1000


def noise(seconds, level=1.0):
  return (level * np.random.default_rng(0).normal(size=(2, round(RATE * seconds)))).astype("f")


def level(music):
  return 10 * np.log10(np.square(music).mean(axis=1))


@pytest.mark.parametrize("end", [0.6, 1.8])
def test_music_that_becomes_louder_or_softer_is_taken_back(end):
  gain = np.interp(np.arange(60 * RATE), [0, 10 * RATE, 60 * RATE], [1, 1, end])
  music = noise(60) * gain
  assert (abs(level(music[:, -10 * RATE :]) - level(music[:, : 10 * RATE])) > 3).all()
  steady = loudness.steady(music, RATE)
  assert (abs(level(steady[:, -10 * RATE :]) - level(steady[:, : 10 * RATE])) < 1).all()
  np.testing.assert_array_equal(steady[:, : 10 * RATE], music[:, : 10 * RATE].astype("f"))


def test_the_gain_has_limits_and_follows_from_the_past_alone():
  music = np.concatenate([noise(12), noise(20, 1e-4)], axis=1)
  steady = loudness.steady(music, RATE)
  assert np.abs(steady).max() < 2.01 * np.abs(music).max()
  assert (np.abs(steady[:, 25 * RATE :]) <= 2.01 * np.abs(music[:, 25 * RATE :])).all()
  np.testing.assert_allclose(loudness.steady(music[:, :15_000], RATE), steady[:, :15_000])


@pytest.mark.parametrize("seconds", [0.05, 9.97, 10.0])
def test_short_music_stays_as_it_is(seconds):
  music = noise(seconds)
  np.testing.assert_array_equal(loudness.steady(music, RATE), music)


def test_silence_stays_silent():
  assert not loudness.steady(np.zeros((1, 20 * RATE), np.float32), RATE).any()
