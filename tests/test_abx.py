"""ABX: triples differ in one label alone, and embeddings that hold a label are found."""

import numpy as np
import pytest

from musiclm_jax.evaluation import layers

CLIPS, FRAMES = 12, 30


@pytest.fixture
def truth(rng):
  """Labels [CLIPS * FRAMES] of frames: pitch class, instrument, clip, work; two clips to a work."""
  clip = np.repeat(np.arange(CLIPS), FRAMES)
  pitch = np.repeat(rng.integers(-1, 12, CLIPS * FRAMES // 5), 5)
  return pitch, clip % 3, clip, clip // 2


def test_triples_differ_in_one_thing_alone(truth, rng):
  pitch, instrument, clip, work = truth
  a, b, x = layers.draw_triples(pitch, instrument, clip, work, 500, rng).T
  assert (pitch[a] == pitch[x]).all() and (pitch[a] != pitch[b]).all() and pitch[a].min() >= 0
  assert (clip[a] == clip[b]).all() and (work[a] != work[x]).all()
  assert (instrument[a] != instrument[x]).all()
  a, b, x = layers.draw_triples(instrument, pitch, clip, work, 500, rng).T
  assert (instrument[a] == instrument[x]).all() and (instrument[a] != instrument[b]).all()
  assert (
    (pitch[a] == pitch[b]).all() and (pitch[a] != pitch[x]).all() and (work[a] != work[x]).all()
  )


def test_what_is_planted_is_heard_and_the_rest_is_not(truth, rng):
  pitch, instrument, clip, work = truth
  hears = 5 * np.eye(13)[pitch] + rng.normal(size=(len(pitch), 13))
  by_pitch = layers.draw_triples(pitch, instrument, clip, work, 4000, rng)
  by_instrument = layers.draw_triples(instrument, pitch, clip, work, 4000, rng)
  assert layers.abx(hears, by_pitch) > 0.9
  assert layers.abx(rng.normal(size=hears.shape), by_pitch) == pytest.approx(0.5, abs=0.05)
  # b has the pitch of a and x has not: hearing pitch alone does not help with instruments
  assert layers.abx(hears, by_instrument) == pytest.approx(0.5, abs=0.05)


def test_ties_are_chance():
  assert layers.abx(np.ones((3, 2)), np.array([[0, 1, 2]])) == 0.5


def test_too_few_works_are_an_error(rng):
  clip = np.repeat([0, 1], 10)
  with pytest.raises(ValueError, match="wanted 5 ABX triples, the held-out clips have 0"):
    layers.draw_triples(clip, clip, clip, np.zeros(20, int), 5, rng)
