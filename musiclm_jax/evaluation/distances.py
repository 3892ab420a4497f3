"""Distances of two sets of embeddings, of clips that are judged and of a reference."""

import dataclasses
import math

import numpy as np
from scipy import linalg

from musiclm_jax.evaluation import metrics, similarities

_MATRICES = 1 << 24  # elements of the matrices of several works or draws at once: 128 MB


@similarities.one_thread
def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
  """Fréchet distance of the Gaussians fitted to x [n, dim] and y [m, dim] (the formula of FAD).

  |mean difference|^2 + tr(A + B - 2 (AB)^(1/2)) with A and B the covariances of x and y. Computed
  as the squared distance of a root of A and a root of B after the best rotation of one of them
  (orthogonal Procrustes): never negative, and 0 for equal sets however few their rows. A single row
  has the covariance 0. With fewer rows than dimensions the value is far too high.
  """
  means, roots = [], []
  for rows in (np.asarray(x, np.float64), np.asarray(y, np.float64)):
    means.append(rows.mean(axis=0))
    centred = (rows - means[-1]) / math.sqrt(max(len(rows) - 1, 1))
    tall = np.pad(centred, ((0, max(0, centred.shape[1] - len(centred))), (0, 0)))
    roots.append(np.linalg.qr(tall, mode="r"))  # [dim, dim], root.T @ root = covariance
  rotation, _ = linalg.orthogonal_procrustes(roots[1].T, roots[0].T)
  shift = np.square(means[0] - means[1]).sum()
  return float(shift + np.square(roots[0] - rotation.T @ roots[1]).sum())


@similarities.one_thread
def frechet_draws(
  x: np.ndarray, y: np.ndarray, works: list[str], *, draws: int = 200, seed: int = 0
) -> np.ndarray:
  """Fréchet distances [draws] of clips x [clips, patches, dim] to y [m, dim] when the works [clips]
  of the clips are drawn anew, with replacement; y stays. [0] where there are fewer than three
  works.

  Copies of a clip lower the rank of the covariance, so that the draws are too high by about as much
  as the distance itself is: their spread is that of the distance, their mean is not.
  """
  labels, group = np.unique(np.repeat(works, x.shape[1]), return_inverse=True)
  if len(labels) < 3:
    return np.zeros(0)
  counts = metrics.draws_of(len(labels), draws, seed)
  y = np.asarray(y, np.float64)
  place, covariance = y.mean(axis=0), np.cov(y, rowvar=False)
  variances, axes = np.linalg.eigh(covariance)
  root, found = np.sqrt(np.maximum(variances, 0))[:, None] * axes.T, []
  rows = x.reshape(-1, x.shape[-1]).astype(np.float64) - place
  members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
  of_works = [rows[each] for each in members]
  totals = counts.astype(np.float64) @ np.bincount(group)
  means = counts @ np.stack([each.sum(axis=0) for each in of_works]) / totals[:, None]
  at_once = max(1, _MATRICES // rows.shape[1] ** 2)
  for start in range(0, draws, at_once):
    some = slice(start, start + at_once)
    for own, mean, total in zip(_moments(of_works, counts[some]), means[some], totals[some]):
      own = (own - total * np.outer(mean, mean)) / max(total - 1, 1)
      common = np.sqrt(np.maximum(linalg.eigvalsh(root @ own @ root.T), 0)).sum()
      found.append(np.square(mean).sum() + np.trace(own) + np.trace(covariance) - 2 * common)
  return np.array(found)


def _moments(works: list[np.ndarray], counts: np.ndarray) -> np.ndarray:
  """Sums [draws, dim, dim] of rows.T @ rows of works [works][rows, dim], each as often as counts
  [draws, works] say.
  """
  dim = works[0].shape[1]
  sums, at_once = np.zeros((len(counts), dim * dim)), max(1, _MATRICES // dim**2)
  for start in range(0, len(works), at_once):
    each = np.stack([rows.T @ rows for rows in works[start : start + at_once]])
    sums += counts[:, start : start + at_once].astype(np.float64) @ each.reshape(len(each), -1)
  return sums.reshape(len(counts), dim, dim)


@similarities.one_thread
def frechet_limit(x: np.ndarray, y: np.ndarray, *, subsets: int = 48, seed: int = 0) -> float:
  """Fréchet distance of x [n, dim] to y [m, dim] as n goes to infinity (FAD-inf, 2311.01616).

  The distance of random subsets of x is nearly linear in one over their size; the line is continued
  to 0. Subsets are drawn without replacement and have from n / 2 rows, at least dim + 1, to n;
  those of few rows are off the line and would make the limit too low. Raises ValueError for fewer
  than 2 * dim rows.
  """
  n, dim = np.shape(x)
  if n < 2 * dim:
    raise ValueError(f"Fréchet limit: wanted {2 * dim} rows or more of {dim} dimensions, found {n}")
  sizes = np.linspace(max(dim + 1, n // 2), n, subsets).round().astype(int)
  rng = np.random.default_rng(seed)
  found = [frechet_distance(x[rng.choice(n, size, replace=False)], y) for size in sizes]
  return extrapolated(sizes, found)


def extrapolated(sizes: np.ndarray, found: np.ndarray) -> float:
  """The value at 0 of the line fitted to found [n] over 1 / sizes [n]."""
  return float(np.polyfit(1 / np.asarray(sizes, np.float64), found, 1)[1])


def kernel_distance(x: np.ndarray, reference: np.ndarray) -> float:
  """Kernel distance of x [n, dim] to reference [m, dim], times 1000 (KAD, 2502.15602, which
  multiplies by 100).

  The unbiased squared maximum mean discrepancy with the kernel exp(-d^2 / 2 s^2) of the distance d,
  where s is the median distance in the reference. About 0, and so also below it, for two samples of
  one distribution, however few their rows. Raises ValueError for fewer than two rows.
  """
  _require_two(len(x), len(reference))
  return KernelSums.of(x[:, None], kernel(reference), [0] * len(x)).distance()


def kernel_draws(
  x: np.ndarray, reference: np.ndarray, works: list[str], *, draws: int = 1000, seed: int = 0
) -> np.ndarray:
  """`KernelSums.draws` of clips x [clips, patches, dim] of works [clips] to reference [m, dim].

  Raises as `kernel_distance`.
  """
  _require_two(x.shape[0] * x.shape[1], len(reference))
  return KernelSums.of(x, kernel(reference), works).draws(draws, seed)


def kernel(reference: np.ndarray) -> similarities.Kernel:
  """The kernel of a reference [m, dim]. Raises ValueError for fewer than two rows."""
  _require_two(len(reference))
  return similarities.kernel(reference)


@dataclasses.dataclass(frozen=True)
class KernelSums:
  """What the kernel distance and its draws are computed from: sums of the kernel by works.

  pairs [works, works] over pairs of rows of two works, in both orders, without a row and itself;
  near [works] of the means over the reference; sizes [works], numbers of rows; `within`, the mean
  over pairs of the reference.
  """

  pairs: np.ndarray
  near: np.ndarray
  sizes: np.ndarray
  within: float

  @classmethod
  def of(cls, x: np.ndarray, kernel: similarities.Kernel, works: list) -> "KernelSums":
    """The sums of clips x [clips, patches, dim] of works [clips]. Raises as `kernel_distance`."""
    rows = x.reshape(-1, x.shape[-1])
    _require_two(len(rows))
    labels, group = np.unique(np.repeat(works, x.shape[1]), return_inverse=True)
    pairs = similarities.among(kernel, rows, group, len(labels))
    near = np.bincount(group, similarities.across(kernel, rows))
    return cls(pairs, near, np.bincount(group).astype(np.float64), kernel.within)

  def distance(self) -> float:
    """The kernel distance, times 1000."""
    n = self.sizes.sum()
    own, near = self.pairs.sum() / (n * (n - 1)), self.near.sum() / n
    return float(1000 * (own + self.within - 2 * near))

  def draws(self, draws: int, seed: int = 0) -> np.ndarray:
    """Kernel distances [draws] when the works of the clips are drawn anew, with replacement; the
    reference stays.

    Copies of a work are not compared with each other, so that the mean of the draws is the
    distance. Two sets of clips with the same works and seed have the same draws. [0] where there
    are fewer than three works.
    """
    if len(self.sizes) < 3:
      return np.zeros(0)
    counts = metrics.draws_of(len(self.sizes), draws, seed).astype(np.float64)
    # pairs within a work count once for each copy, those of two works for both copies of both
    again = np.square(counts) - counts
    sums = ((counts @ self.pairs) * counts).sum(axis=1) - again @ np.diagonal(self.pairs)
    rows = counts @ self.sizes
    some = np.square(rows) - again @ np.square(self.sizes) - counts @ self.sizes
    kept = some > 0  # a single work of a single row has no pairs
    near = (counts @ self.near)[kept] / rows[kept]
    return 1000 * (sums[kept] / some[kept] + self.within - 2 * near)


def _require_two(*counts: int) -> None:
  if min(counts) < 2:
    found = " and ".join(map(str, counts))
    raise ValueError(f"kernel distance: wanted two rows or more, found {found}")


def interval(draws: np.ndarray) -> list[float] | None:
  """The middle 95 % of draws [draws], None where there are none."""
  if not len(draws):
    return None
  return np.percentile(draws, (2.5, 97.5)).tolist()
