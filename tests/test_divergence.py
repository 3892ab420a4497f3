"""Divergences of equal sets and shares, what they grow with and what does not count."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from musiclm_jax.evaluation import distances, divergence


def _shares(rng, clips: int, classes: int) -> np.ndarray:
  return rng.dirichlet(np.full(classes, 0.3), size=clips)


def test_mauve_is_1_of_equal_sets_near_0_of_far_ones_and_falls_with_the_shift(rng):
  x, y = rng.normal(size=(2, 300, 8)) + 3 * np.eye(8)[0]
  shift = np.eye(8)[1]
  found = [divergence.mauve(x, y + by * shift, clusters=15) for by in (0, 1, 2, 4, 40)]
  assert found == sorted(found, reverse=True) and found[0] > 0.8 and found[-1] < 0.01
  assert divergence.mauve(x, x, clusters=15) == pytest.approx(1)
  assert divergence.mauve(x, 7 * x, clusters=15) == pytest.approx(1)  # directions alone count


def test_the_order_of_the_sets_matters_to_mauve_as_little_as_the_seed(rng):
  x, y = rng.normal(size=(300, 8)), rng.normal(size=(250, 8)) + 0.5
  found = [divergence.mauve(x, y, clusters=15, seed=seed) for seed in range(6)]
  swapped = [divergence.mauve(y, x, clusters=15, seed=seed) for seed in range(6)]
  assert abs(np.mean(found) - np.mean(swapped)) < 3 * max(np.std(found), np.std(swapped))


def test_mauve_of_sets_of_one_direction_is_1_and_too_few_rows_are_refused():
  x = np.ones((5, 3))
  assert divergence.mauve(x, x[:2], clusters=1) == pytest.approx(1)
  for given in ((x, x, 11), (x, x[:0], 2), (x, x, 0)):
    with pytest.raises(ValueError, match="no more clusters, found 5"):
      divergence.mauve(*given[:2], clusters=given[2])


@hypothesis.given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_area_is_symmetric_and_1_of_equal_shares(bins, seed):
  p, q = _shares(np.random.default_rng(seed), 2, bins)
  area = divergence.frontier_area(p, q)
  assert area == pytest.approx(divergence.frontier_area(q, p), abs=1e-12)
  assert 0.004 < area < 1 + 1e-9
  assert divergence.frontier_area(p, p) == pytest.approx(1)


@hypothesis.given(st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_divergence_of_equal_shares_is_0_but_for_the_epsilon(classes, seed):
  p, q = _shares(np.random.default_rng(seed), 14, classes).reshape(2, 7, classes)
  same = divergence.kl_divergence(p, p)
  assert same.shape == (7,) and (-1e-6 * classes - 1e-12 <= same).all() and (same <= 0).all()
  assert (divergence.kl_divergence(p, q) >= -1e-6 * classes - 1e-12).all()


def test_divergence_is_that_of_its_definition_and_not_symmetric():
  real, generated = np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, 0.25, 0.5]])
  assert divergence.kl_divergence(real, generated) == pytest.approx(np.log(2), abs=1e-5)
  back = 0.5 * np.log(0.5) + 0.5 * np.log(0.5 / 1e-6)
  assert divergence.kl_divergence(generated, real) == pytest.approx(back, abs=1e-5)


def test_the_right_pairs_diverge_less_than_other_pairs(rng):
  real = _shares(rng, 50, 30)
  generated = 0.7 * real + 0.3 * _shares(rng, 50, 30)
  right = divergence.kl_divergence(real, generated).mean()
  assert right < divergence.kl_divergence(real, np.roll(generated, 1, axis=0)).mean() / 2


@pytest.mark.parametrize(
  ("patches", "rows", "dim"), [(1, 30, 6), (4, 100, 16), (20, 100, 16), (5, 8, 12), (3, 1, 5)]
)
def test_the_distance_of_each_clip_is_that_of_its_patches(patches, rows, dim, rng):
  clips = rng.normal(size=(7, patches, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)
  reference = rng.normal(size=(rows, dim))
  found = divergence.frechet_of_each(clips, reference)
  wanted = [distances.frechet_distance(clip, reference) for clip in clips]
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
  assert 0 <= divergence.frechet_of_each(reference[None], reference)[0] < 1e-6


def test_the_clip_that_is_least_like_the_reference_has_the_largest_distance(rng):
  clips, reference = rng.normal(size=(20, 5, 8)), rng.normal(size=(200, 8))
  clips[13] += 3
  assert divergence.frechet_of_each(clips, reference).argmax() == 13
