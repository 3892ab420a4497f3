"""Distances of two sets of embeddings, of clips that are judged and of a reference."""

import math

import numpy as np
from scipy import linalg
from scipy.spatial import distance


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
  share = np.full(len(labels), 1 / len(labels))
  counts = np.random.default_rng(seed).multinomial(len(labels), share, size=draws)
  y = np.asarray(y, np.float64)
  place, covariance = y.mean(axis=0), np.cov(y, rowvar=False)
  variances, axes = np.linalg.eigh(covariance)
  root, found = np.sqrt(np.maximum(variances, 0))[:, None] * axes.T, []
  rows = x.reshape(-1, x.shape[-1]).astype(np.float64) - place
  for each in counts:
    weights = each[group].astype(np.float64)
    mean = weights @ rows / weights.sum()
    own = (rows * weights[:, None]).T @ rows - weights.sum() * np.outer(mean, mean)
    own /= max(weights.sum() - 1, 1)
    common = np.sqrt(np.maximum(linalg.eigvalsh(root @ own @ root.T), 0)).sum()
    found.append(np.square(mean).sum() + np.trace(own) + np.trace(covariance) - 2 * common)
  return np.array(found)


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
  own, across, within = _similarities(x, reference)
  n = len(own)
  return float(1000 * (own.sum() / (n * (n - 1)) + within - 2 * across.mean()))


def kernel_draws(
  x: np.ndarray, reference: np.ndarray, works: list[str], *, draws: int = 1000, seed: int = 0
) -> np.ndarray:
  """Kernel distances [draws] of clips x [clips, patches, dim] to reference [m, dim] when the works
  [clips] of the clips are drawn anew, with replacement; the reference stays.

  Copies of a work are not compared with each other, so that the mean of the draws is the distance.
  Two sets of clips with the same works and seed have the same draws. [0] where there are fewer than
  three works. Raises as `kernel_distance`.
  """
  own, across, within = _similarities(x.reshape(-1, x.shape[-1]), reference)
  labels, group = np.unique(np.repeat(works, x.shape[1]), return_inverse=True)
  if len(labels) < 3:
    return np.zeros(0)
  member = np.eye(len(labels))[group]  # [rows, works]
  sums, sizes = member.T @ own @ member, member.sum(axis=0)
  pairs = np.outer(sizes, sizes) - np.diag(sizes)
  share = np.full(len(labels), 1 / len(labels))
  counts = np.random.default_rng(seed).multinomial(len(labels), share, size=draws).astype(float)

  def total(each):
    """Of all pairs: those within a work once for each copy, those of two works for both copies."""
    diagonal = np.diagonal(each)
    return np.einsum("dg,dg->d", counts @ (each - np.diag(diagonal)), counts) + counts @ diagonal

  near, some = counts @ (member.T @ across) / (counts @ sizes), total(pairs)
  kept = some > 0  # a single work of a single row has no pairs
  return 1000 * (total(sums)[kept] / some[kept] + within - 2 * near[kept])


def _similarities(x: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
  """The kernel of x's rows with each other [n, n], 0 with themselves, their mean one with the
  reference [n], and the mean one within the reference.
  """
  x, reference = np.asarray(x, np.float64), np.asarray(reference, np.float64)
  if min(len(x), len(reference)) < 2:
    found = f"{len(x)} and {len(reference)}"
    raise ValueError(f"kernel distance: wanted two rows or more, found {found}")
  within = distance.pdist(reference, "sqeuclidean")
  width = 2 * max(np.median(within), 1e-12)  # the median of squares is the square of the median
  own = np.exp(-distance.squareform(distance.pdist(x, "sqeuclidean")) / width)
  np.fill_diagonal(own, 0.0)
  across = np.exp(-distance.cdist(x, reference, "sqeuclidean") / width).mean(axis=1)
  return own, across, float(np.exp(-within / width).mean())


def interval(draws: np.ndarray) -> list[float] | None:
  """The middle 95 % of draws [draws], None where there are none."""
  if not len(draws):
    return None
  return np.percentile(draws, (2.5, 97.5)).tolist()
