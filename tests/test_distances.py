"""Distances of sets of embeddings: closed forms, bias, what they do not depend on, their draws."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy import linalg

from musiclm_jax.evaluation import distances


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.mark.parametrize(("n", "m", "dim"), [(30, 20, 10), (5, 8, 16), (1, 8, 16), (2, 2, 1)])
def test_frechet_distance_of_few_rows_is_symmetric_and_no_less_than_the_shift(n, m, dim, rng):
  x, y = rng.normal(size=(n, dim)), 3 * rng.normal(size=(m, dim)) + 1
  distance = distances.frechet_distance(x, y)
  assert distance == pytest.approx(distances.frechet_distance(y, x))
  assert distance >= np.square(x.mean(0) - y.mean(0)).sum()
  for rows in (x, y, 1e3 + y.astype(np.float32)):
    assert 0 <= distances.frechet_distance(rows, rows) < 1e-20


def test_frechet_distance_in_one_dimension_is_that_of_means_and_deviations(rng):
  x, y = rng.normal(size=(7, 1)), 2 * rng.normal(size=(5, 1)) - 1
  expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
  assert distances.frechet_distance(x, y) == pytest.approx(expected)


def test_frechet_distance_has_the_closed_form(rng):
  x = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4))
  y = rng.normal(size=(400, 4)) + 1
  a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
  expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
  assert distances.frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
  assert distances.frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
  assert distances.frechet_distance(x, x + 2) == pytest.approx(16)


@hypothesis.given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_kernel_distance_does_not_depend_on_order_scale_and_place(n, m, seed):
  rng = np.random.default_rng(seed)
  x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
  found = distances.kernel_distance(x, y)
  assert -2000 <= found <= 2000
  moved = distances.kernel_distance(7 * rng.permutation(x) + 5, 7 * rng.permutation(y) + 5)
  assert moved == pytest.approx(found, abs=1e-6)


def test_kernel_distance_is_unbiased_for_few_rows_and_grows_with_the_shift(rng):
  x, y = rng.normal(size=(2, 400, 50, 2))
  same = [distances.kernel_distance(a[:5], b) for a, b in zip(x, y)]
  assert abs(np.mean(same)) < 3 * np.std(same) / 20
  shifted = [distances.kernel_distance(x[0] + shift, y[0]) for shift in (0, 1, 2, 4)]
  assert shifted == sorted(shifted)
  with pytest.raises(ValueError, match="two rows or more, found 1 and 50"):
    distances.kernel_distance(x[0, :1], y[0])


def test_the_limit_of_the_frechet_distance_is_that_of_many_more_rows(rng):
  x, y = rng.normal(size=(4000, 20)), rng.normal(size=(4000, 20)) + 0.1
  few, many = distances.frechet_distance(x[:100], y), distances.frechet_distance(x, y)
  limit = distances.frechet_limit(x[:100], y)
  assert many < 0.4 < few and abs(limit - 0.2) < 0.3 * (few - 0.2)
  with pytest.raises(ValueError, match="wanted 40 rows or more of 20 dimensions, found 39"):
    distances.frechet_limit(x[:39], y)


def test_draws_of_works_have_the_mean_of_the_distance_and_the_spread_of_works(rng):
  works = np.repeat(np.arange(40), 3)
  place = rng.normal(size=(40, 1, 5))[works]  # clips of a work are near each other
  x, reference = place + 0.3 * rng.normal(size=(120, 2, 5)), rng.normal(size=(300, 5)) + 0.5
  draws = distances.kernel_draws(x, reference, works)
  value = distances.kernel_distance(x.reshape(-1, 5), reference)
  assert abs(draws.mean() - value) < 0.2 * draws.std()
  low, high = distances.interval(draws)
  assert low < value < high
  clips = distances.kernel_draws(x, reference, np.arange(120))
  assert draws.std() > 1.3 * clips.std()


def test_draws_of_equal_sets_are_equal_and_too_few_works_have_none(rng):
  x, reference = rng.normal(size=(6, 2, 3)), rng.normal(size=(20, 3))
  same = [distances.kernel_draws(x, reference, list("aabbcc")) for _ in range(2)]
  np.testing.assert_array_equal(*same)
  none = distances.kernel_draws(x, reference, list("aaabbb"))
  assert none.shape == (0,) and distances.interval(none) is None


def test_draws_of_works_of_a_single_row_are_finite(rng):
  draws = distances.kernel_draws(rng.normal(size=(3, 1, 3)), rng.normal(size=(20, 3)), list("abc"))
  assert 0 < len(draws) < 1000 and np.isfinite(draws).all()


def test_distances_grow_with_added_noise(rng):
  x, y = rng.normal(size=(2, 300, 10))
  noise = rng.normal(size=x.shape)
  for distance in (distances.frechet_distance, distances.kernel_distance):
    found = [distance(x + level * noise, y) for level in (0, 0.5, 1, 2, 4)]
    assert found == sorted(found)
