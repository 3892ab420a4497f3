"""Sums of the kernel block by block, against the same of whole matrices of distances."""

import numpy as np
import pytest
import threadpoolctl
from scipy.spatial import distance

from musiclm_jax.evaluation import distances, similarities


def whole(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
  """The kernel of all rows of x with all of y."""
  return np.exp(-distance.cdist(x, y, "sqeuclidean") / width)


@pytest.mark.parametrize("m", [2, 3, 700, 2500])
def test_the_kernel_has_the_exact_median_and_mean_of_the_pairs(m, rng):
  reference = 2 + rng.normal(size=(m, 5)) * np.where(np.arange(m) % 7, 1, 4)[:, None]
  found = similarities.kernel(reference)
  squares = distance.pdist(reference, "sqeuclidean")
  assert found.width == pytest.approx(2 * np.median(squares), rel=1e-12)
  assert found.within == pytest.approx(np.exp(-squares / found.width).mean(), rel=1e-12)


def test_a_sample_that_errs_about_the_median_does_no_harm(rng, monkeypatch):
  reference = rng.normal(size=(2500, 4))
  monkeypatch.setattr(similarities, "_BRACKET", 1e-9)  # the median is hardly ever in it
  squares = distance.pdist(reference, "sqeuclidean")
  assert similarities.kernel(reference).width == pytest.approx(2 * np.median(squares), rel=1e-12)


@pytest.mark.parametrize("block", [1, 64, 5000, 1 << 20])
def test_sums_by_groups_are_those_of_the_whole_matrix(block, rng, monkeypatch):
  monkeypatch.setattr(similarities, "_BLOCK", block)
  x, reference, group = rng.normal(size=(90, 3)), rng.normal(size=(40, 3)), rng.integers(0, 9, 90)
  kernel = similarities.kernel(reference)
  own = whole(x, x, kernel.width)
  np.fill_diagonal(own, 0)
  member = np.eye(9)[group]
  found = similarities.among(kernel, x, group, 9)
  np.testing.assert_allclose(found, member.T @ own @ member, rtol=1e-12, atol=1e-12)
  near = whole(x, reference, kernel.width).mean(axis=1)
  np.testing.assert_allclose(similarities.across(kernel, x), near, rtol=1e-12)


def test_equal_rows_far_from_the_origin_are_no_further_than_0(rng):
  reference = 1e3 + rng.normal(size=(30, 4))
  same = np.repeat(reference[:1], 10, axis=0)
  kernel = similarities.kernel(reference)
  sums = similarities.among(kernel, same, np.zeros(10, int), 1)
  assert sums[0, 0] == pytest.approx(90, rel=1e-12)


def test_draws_of_the_frechet_distance_are_those_of_the_drawn_rows(rng, monkeypatch):
  monkeypatch.setattr(distances, "_MATRICES", 40)  # several blocks of works and of draws
  works = np.array(list("abcabcdd"))
  x, y = rng.normal(size=(8, 6, 4)), 2 * rng.normal(size=(50, 4)) + 1
  found = distances.frechet_draws(x, y, works, draws=5, seed=3)
  counts = np.random.default_rng(3).multinomial(4, np.full(4, 0.25), size=5)
  for value, count in zip(found, counts):
    drawn = [x[works == work] for work, times in zip("abcd", count) for _ in range(times)]
    wanted = distances.frechet_distance(np.concatenate(drawn).reshape(-1, 4), y)
    assert value == pytest.approx(wanted, rel=1e-7)


def test_a_distance_leaves_the_threads_of_blas_as_they_were(rng):
  with threadpoolctl.threadpool_limits(2, "blas"):
    before = [each["num_threads"] for each in threadpoolctl.threadpool_info()]
    distances.frechet_limit(rng.normal(size=(40, 3)), rng.normal(size=(40, 3)), subsets=3)
    similarities.kernel(rng.normal(size=(1500, 3)))
    assert [each["num_threads"] for each in threadpoolctl.threadpool_info()] == before
