"""How two sets of clips differ, pair by pair, clip by clip and as clouds of embeddings."""

import math

import numpy as np
from scipy import integrate, special
from sklearn import cluster

from musiclm_jax.evaluation import metrics, similarities


def mauve(x: np.ndarray, y: np.ndarray, *, clusters: int, seed: int = 0) -> float:
  """MAUVE of embeddings x [n, dim] and y [m, dim] (Pillutla et al. 2021, 2102.01454).

  Rows of length 1 are projected on the principal components that keep 90 % of their variance and
  clustered together (k-means, the best of five); the value is `frontier_area` of the two sets'
  shares of the clusters. 1 for equal sets, 0.004 for sets with no cluster in common. The published
  choice is a tenth of the smaller set's rows as `clusters`; values of different numbers of clusters
  or of rows are not comparable. The order of the sets matters only as far as the clusters of
  k-means depend on the order of rows.

  Raises ValueError as `clustered`.
  """
  labels = clustered(x, y, clusters=clusters, seed=seed)
  return frontier_area(*(np.bincount(each, minlength=clusters) / len(each) for each in labels))


def clustered(
  x: np.ndarray, y: np.ndarray, *, clusters: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """The clusters [n] and [m] int of the rows of x [n, dim] and y [m, dim], as `mauve` makes them.

  Raises ValueError where a set is empty or there are fewer rows than clusters.
  """
  n, m = len(x), len(y)
  if min(n, m) < 1 or not 1 <= clusters <= n + m:
    raise ValueError(f"MAUVE: wanted rows of both and no more clusters, found {n}, {m}, {clusters}")
  rows = metrics.unit(np.concatenate([x, y]).astype(np.float64))
  rows -= rows.mean(axis=0)
  variances, axes = np.linalg.eigh(rows.T @ rows)
  kept = np.cumsum(variances[::-1]) >= 0.9 * variances.sum()
  rows = rows @ axes[:, ::-1][:, : 1 + kept.argmax()]
  labels = cluster.KMeans(clusters, n_init=5, max_iter=500, random_state=seed).fit_predict(rows)
  return labels[:n], labels[n:]


def frontier_area(
  p: np.ndarray, q: np.ndarray, *, scaling: float = 5.0, mixtures: int = 25
) -> float:
  """The area below the divergence frontier of shares p and q [bins], in 0 to 1 (2102.01454).

  The frontier is (exp(-scaling KL(q || r)), exp(-scaling KL(p || r))) of the mixtures r of p and q,
  joined by straight lines and continued to (1, 0) and (0, 1). It is the same for q and p.
  """
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  weights = np.linspace(1e-6, 1 - 1e-6, mixtures).reshape(-1, 1)
  mixed = weights * p + (1 - weights) * q
  across, up = (np.exp(-scaling * special.rel_entr(each, mixed).sum(axis=1)) for each in (q, p))
  # from (0, 1) to (1, 0); published code also takes the area from the other axis, which is the same
  across, up = [0.0, *across[::-1], 1.0], [1.0, *up[::-1], 0.0]
  return float(integrate.trapezoid(up, across))


def kl_divergence(real: np.ndarray, generated: np.ndarray, *, epsilon: float = 1e-6) -> np.ndarray:
  """KL(real || generated) [clips] in nats of shares of classes [clips, classes], pair by pair.

  AudioCraft's formula (`kld_pq`): epsilon is added to the generated share within the logarithm, so
  that a class that was never heard costs at most -log(epsilon). Equal shares therefore have not 0
  but a value in -classes * epsilon to 0. The other direction is that of swapped arguments.
  """
  real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
  return (special.xlogy(real, real) - real * np.log(generated + epsilon)).sum(axis=-1)


@similarities.one_thread
def frechet_of_each(clips: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """Fréchet distances [clips] of each clip's patches to a reference (2311.01616, Section 4).

  clips [clips, patches, dim], reference [m, dim]. Each is that of `distances.frechet_distance`; the
  trace of (AB)^(1/2) is the sum of the singular values of a root of A by a root of B, and A has a
  root of few rows. With fewer patches than dimensions the values are far too high, but those of one
  reference and one number of patches can be ranked: they find the clips least like the reference.
  """
  reference = np.asarray(reference, np.float64)
  place, root = _root(reference)
  if len(root) > root.shape[1]:
    root = np.linalg.qr(root, mode="r")
  spread, found = np.square(root).sum(), []
  for rows in clips:
    mean, own = _root(np.asarray(rows, np.float64))
    common = np.linalg.svd(own @ root.T, compute_uv=False).sum()
    found.append(np.square(mean - place).sum() + np.square(own).sum() + spread - 2 * common)
  return np.maximum(np.array(found), 0.0)  # the distance of equal sets can round below it


def _root(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The mean [dim] of rows [n, dim] and a root [n, dim] of their covariance, root.T @ root."""
  mean = rows.mean(axis=0)
  return mean, (rows - mean) / math.sqrt(max(len(rows) - 1, 1))
