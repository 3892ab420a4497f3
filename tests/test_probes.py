"""Probes of codes: what is planted in them is found, in other works, and nothing else."""

import numpy as np
import pytest

from musiclm_jax.evaluation import probes

CLIPS, FRAMES, RATE = 24, 50, 25.0
FAMILIES = ("brass", "keyboard", "strings")


@pytest.fixture
def clips(rng):
  """Clips of two a work, with nine notes of random pitches at random times."""
  return [
    {
      "work": str(index // 2),
      "family": FAMILIES[rng.integers(3)],
      "onsets": np.stack([rng.uniform(0, FRAMES / RATE, 9), rng.integers(48, 84, 9)], axis=1),
    }
    for index in range(CLIPS)
  ]


def test_the_truth_of_a_frame_is_that_of_its_middle():
  clip = {"work": "a", "family": "brass", "onsets": np.array([[0.3, 61.0], [0.1, 72.0]])}
  known = probes.truth([clip], 10, RATE)
  # a frame is 40 ms; the middle of frame 2 is at 0.1 s, that of frame 7 at 0.3 s
  np.testing.assert_array_equal(known.pitch_class, [[-1, -1, 0, 0, 0, 0, 0, 1, 1, 1]])
  np.testing.assert_array_equal(known.onset, [[0, 1, 1, 1, 0, 0, 1, 1, 1, 0]])
  assert known.family.shape == (1, 10) and list(known.works) == ["a"]


def test_what_is_planted_in_a_level_is_found_and_the_rest_is_not(clips, rng):
  known = probes.truth(clips, FRAMES, RATE)
  planted = np.stack([known.pitch_class + 1, 2 * known.family + known.onset], axis=-1)
  found = probes.probe(planted, known, folds=3, seed=0)
  assert found["pitch_class"]["value"] == 1 and found["family"]["value"] == 1
  assert found["onset"]["value"] > 0.99
  noise = rng.integers(0, 13, planted.shape)
  nothing = probes.probe(noise, known, folds=3, seed=0)
  for name, each in found.items():
    assert abs(nothing[name]["value"] - nothing[name]["majority"]) < 0.15, name
    assert each["shuffled"] < each["interval"][0] <= each["value"] <= each["interval"][1], name


def test_an_area_is_that_of_its_definition(clips, rng):
  known = probes.truth(clips, FRAMES, RATE)
  noisy = np.where(rng.random(known.onset.shape) < 0.8, known.onset, 1 - known.onset)[..., None]
  found = probes.probe(noisy, known, folds=3, seed=0)["onset"]["value"]
  hits = (noisy[known.onset == 1] == 1).mean()
  false = (noisy[known.onset == 0] == 1).mean()
  assert found == pytest.approx((1 + hits - false) / 2, abs=0.02)  # of one threshold


def test_fewer_works_than_folds_are_an_error(clips):
  known = probes.truth(clips, FRAMES, RATE)
  with pytest.raises(ValueError, match="wanted 13 works or more, the held-out clips have 12"):
    probes.probe(known.onset[..., None], known, folds=13, seed=0)
