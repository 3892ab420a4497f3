"""Measures of a set of clips against a reference set, by embeddings."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from musiclm_jax.embedders.embedder import Embedder
from musiclm_jax.evaluation import distances, divergence, metrics, similarities
from musiclm_jax.ranges import PositiveInt, Seed
from musiclm_jax.scoring.clips import Clips, features
from musiclm_jax.scoring.score import Judged, Score, of_clips, of_draws, recentred, require


@dataclasses.dataclass(frozen=True)
class KernelDistance:
  """distances.kernel_distance: unbiased, its bandwidth is that of the reference."""

  embedder: Embedder
  draws: PositiveInt

  label, better, needs = "kernel distance × 1000", "less", ("reference",)
  settings = {"kernel": "Gaussian, median of the reference", "unbiased": True}

  def __call__(self, judged: Judged) -> Score:
    each, reference = _embeddings(judged, self.embedder)
    require(min(_rows(each).shape[0], len(reference)), 2, "patches")
    kernel = _kernel(judged.reference, self.embedder)
    sums = distances.KernelSums.of(each, kernel, judged.works)
    return of_draws(sums.distance(), sums.draws(self.draws))


@dataclasses.dataclass(frozen=True)
class FrechetDistance:
  """distances.frechet_distance (FAD): all patches pooled, covariances with n - 1."""

  embedder: Embedder
  draws: PositiveInt
  seed: Seed

  label, better, needs = "Fréchet distance", "less", ("reference",)
  settings = {"covariance": "n - 1, patches pooled"}

  def __call__(self, judged: Judged) -> Score:
    each, reference = _embeddings(judged, self.embedder)
    require(min(len(_rows(each)), len(reference)), each.shape[2] + 1, "patches")
    value = distances.frechet_distance(_rows(each), reference)
    draws = distances.frechet_draws(each, reference, judged.works, draws=self.draws, seed=self.seed)
    return of_draws(value, recentred(draws, value))


@dataclasses.dataclass(frozen=True)
class FrechetLimit:
  """distances.frechet_limit: the Fréchet distance for infinitely many patches (FAD-inf)."""

  embedder: Embedder
  draws: PositiveInt
  seed: Seed

  label, better, needs = "Fréchet distance, limit", "less", ("reference",)
  settings = {"covariance": "n - 1, patches pooled", "limit": "linear in 1 / n"}

  def __call__(self, judged: Judged) -> Score:
    each, reference = _embeddings(judged, self.embedder)
    require(min(len(_rows(each)), len(reference)), 2 * each.shape[2], "patches")
    value = distances.frechet_limit(_rows(each), reference, seed=self.seed)
    draws = [
      distances.frechet_limit(_rows(each[some]), reference, subsets=4, seed=self.seed)
      for some in _drawn(judged.works, self.draws, self.seed)
      if some.size * each.shape[1] >= 2 * each.shape[2]
    ]
    return of_draws(value, recentred(np.array(draws), value))


@dataclasses.dataclass(frozen=True)
class FrechetOfEach:
  """The mean over clips of divergence.frechet_of_each: of each clip alone (per-song FAD)."""

  embedder: Embedder

  label, better, needs = "Fréchet distance of each clip", "less", ("reference",)
  settings = {"covariance": "n - 1, of each clip"}

  def __call__(self, judged: Judged) -> Score:
    each, reference = _embeddings(judged, self.embedder)
    require(each.shape[1], 2, "patches in a clip")
    require(len(reference), each.shape[2] + 1, "patches of the reference")
    return of_clips(divergence.frechet_of_each(each, reference), judged.works)


@dataclasses.dataclass(frozen=True)
class Mauve:
  """divergence.mauve: the area under the divergence frontier of clusters; 1 for equal sets."""

  embedder: Embedder
  clusters: PositiveInt
  draws: PositiveInt
  seed: Seed

  label, better, needs = "MAUVE", "more", ("reference",)

  @property
  def settings(self) -> dict:
    """The clusters and their seed."""
    return {"clusters": self.clusters, "seed": self.seed}

  def __call__(self, judged: Judged) -> Score:
    each, reference = _embeddings(judged, self.embedder)
    require(min(len(_rows(each)), len(reference)), 2 * self.clusters, "patches")
    labels, other = divergence.clustered(
      _rows(each), reference, clusters=self.clusters, seed=self.seed
    )
    own, others = labels.reshape(len(each), -1), self._shares(other)
    value = divergence.frontier_area(self._shares(own), others)
    draws = np.array(  # the clusters stay
      [
        divergence.frontier_area(self._shares(own[some]), others)
        for some in _drawn(judged.works, self.draws, self.seed)
      ]
    )
    return of_draws(value, np.clip(recentred(draws, value), 0, 1))

  def _shares(self, labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels.ravel(), minlength=self.clusters) / labels.size


def _embeddings(judged: Judged, embedder: Embedder) -> tuple[np.ndarray, np.ndarray]:
  """Those of the clips [clips, patches, dim], and those of the reference [m, dim]."""
  each = features(judged.clips, embedder, "embed")
  return each, _rows(features(judged.reference, embedder, "embed"))


@functools.lru_cache(maxsize=4)
def _kernel(reference: Clips, embedder: Embedder) -> similarities.Kernel:
  """That of a reference; kept, since every system is compared with the same one."""
  return distances.kernel(_rows(features(reference, embedder, "embed")))


def _rows(embeddings: np.ndarray) -> np.ndarray:
  return embeddings.reshape(-1, embeddings.shape[-1])


def _drawn(works: tuple[str, ...], draws: int, seed: int) -> Iterator[np.ndarray]:
  """Indices of the clips of works that are drawn with replacement, `draws` times; none where there
  are fewer than three works. The same for two systems with the same works.
  """
  labels, group = np.unique(works, return_inverse=True)
  if len(labels) > 2:
    for counts in metrics.draws_of(len(labels), draws, seed):
      yield np.repeat(np.arange(len(works)), counts[group])
