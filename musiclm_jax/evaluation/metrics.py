"""Measures and their tests, as pure functions: retrieval, codes, paired losses, distributions."""

import math
import operator

import numpy as np
from scipy import stats

_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def figure(value, wanted: str = "", *, baseline=None, baseline_is: str = "") -> dict:
  """{value, baseline, baseline_is, wanted, met} of one number; met is None where nothing is wanted.

  >>> figure(0.5, "<= 0.6", baseline=1.0, baseline_is="silence")["met"]
  True

  Raises ValueError where a number is not finite or `wanted` is not a comparison.
  """
  for number in (value, 0 if baseline is None else baseline):
    if not math.isfinite(number):
      raise ValueError(f"a figure must be a finite number, found {number} (wanted {wanted!r})")
  met = None
  if wanted:
    comparison, _, bound = wanted.partition(" ")
    if comparison not in _OPERATORS:
      raise ValueError(f"wanted: a comparison such as '<= 0.6', found {wanted!r}")
    met = bool(_OPERATORS[comparison](value, float(bound)))
  return {
    "value": float(value),
    "baseline": None if baseline is None else float(baseline),
    "baseline_is": baseline_is,
    "wanted": wanted,
    "met": met,
  }


def unit(x: np.ndarray) -> np.ndarray:
  """x [..., dim] at length 1."""
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def ranks(similarity: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Rank [queries with a right answer] int of the best right answer, 1 for the first place.

  similarity [queries, candidates], -inf for what is no candidate; right [queries, candidates] bool.
  A wrong answer that is as near as the best right one stands before it: a model that gives
  everything the same embedding gains nothing.
  """
  right = right & np.isfinite(similarity)
  asked = right.any(axis=1)
  similarity, right = similarity[asked], right[asked]
  best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
  return 1 + ((similarity >= best) & ~right).sum(axis=1)


def retrieval(similarity: np.ndarray, right: np.ndarray, places=(1, 10)) -> dict[str, float]:
  """{recall_at_K, chance_at_K for each of `places`, mrr, chance_mrr, queries}.

  Shapes as in `ranks`. Chance is that of a random order, exactly. Raises ValueError where no query
  has a right answer.
  """
  found = ranks(similarity, right)
  if not len(found):
    raise ValueError("retrieval: no query has a right answer")
  candidates = np.isfinite(similarity)
  asked = (right & candidates).any(axis=1)
  totals, answers = candidates.sum(axis=1)[asked], (right & candidates).sum(axis=1)[asked]
  beyond = [np.ones(len(found))]  # the chance that the first k places hold no right answer
  for k in range(1, int(totals.max()) + 1):
    beyond.append(stats.hypergeom.pmf(0, totals, answers, np.minimum(k, totals)))
  result = {}
  for k in places:
    result[f"recall_at_{k}"] = float((found <= k).mean())
    result[f"chance_at_{k}"] = float(1 - beyond[min(k, len(beyond) - 1)].mean())
  result["mrr"] = float((1 / found).mean())
  chances = np.diff(-np.array(beyond), axis=0) / np.arange(1, len(beyond)).reshape(-1, 1)
  return result | {"chance_mrr": float(chances.sum(axis=0).mean()), "queries": len(found)}


def entropy(counts: np.ndarray) -> np.ndarray:
  """Entropy [...] in nats of the frequencies in counts [..., codes]."""
  return stats.entropy(np.asarray(counts, np.float64), axis=-1)


def cross_entropy(counts: np.ndarray, codes: np.ndarray) -> float:
  """Nats per code of codes [...] int under the frequencies of counts [codebook_size].

  One is added to every count, so that a code never seen costs a finite number.
  """
  share = (counts + 1.0) / (counts.sum() + len(counts))
  return float(-np.log(share)[codes].mean())


def code_counts(codes: np.ndarray, codebook_size: int) -> np.ndarray:
  """How often each code occurs at each level, [levels, codebook_size], of codes [..., levels]."""
  flat = codes.reshape(-1, codes.shape[-1])
  return np.stack([np.bincount(column, minlength=codebook_size) for column in flat.T])


def code_usage(codes: np.ndarray, codebook_size: int) -> list[dict[str, float]]:
  """{entropy_bits, perplexity, perplexity_share, used} of each level of codes [n, levels].

  perplexity_share and used are shares of the codebook.
  """
  rows = []
  for counts in code_counts(codes, codebook_size):
    nats = float(entropy(counts))
    rows.append(
      {
        "entropy_bits": nats / math.log(2),
        "perplexity": math.exp(nats),
        "perplexity_share": math.exp(nats) / codebook_size,
        "used": float((counts > 0).mean()),
      }
    )
  return rows


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
  """Mutual information in nats of two equally long rows of non-negative integers, by counting."""
  width = int(b.max()) + 1
  joint = np.bincount(a.astype(np.int64) * width + b, minlength=(int(a.max()) + 1) * width)
  joint = joint.reshape(-1, width)
  return float(entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint.ravel()))


def against_shuffled(observed: float, shuffled: np.ndarray) -> dict[str, float]:
  """{value, shuffled (their mean), z, p} of a statistic against that of shuffled data.

  z is in standard deviations of the shuffled ones; p is the share of them, the observed one
  counted in, that reach it.
  """
  spread = max(float(np.std(shuffled)), 1e-12)
  reached = (np.asarray(shuffled) >= observed - 1e-12).sum()
  return {
    "value": float(observed),
    "shuffled": float(np.mean(shuffled)),
    "z": float((observed - np.mean(shuffled)) / spread),
    "p": float((1 + reached) / (1 + len(shuffled))),
  }


def matched(scores: np.ndarray, num_shuffles: int, rng: np.random.Generator) -> dict[str, float]:
  """Whether output i fits prompt i better than other prompts, a permutation test.

  scores [prompts, outputs] says how well each output fits each prompt. The statistic is the mean
  of the diagonal, shuffled prompts are permutations; result as `against_shuffled`.
  """
  outputs = np.arange(len(scores))
  order = rng.permuted(np.tile(outputs, (num_shuffles, 1)), axis=1)
  return against_shuffled(np.diagonal(scores).mean(), scores[order, outputs[None]].mean(axis=1))


def rank_agreement(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
  """Scores [n, n] for `matched` whose mean diagonal is Spearman's correlation of two rows [n].

  All 0 where one of them is constant: it then agrees with nothing.
  """
  ranked = [stats.rankdata(row) - (len(row) + 1) / 2 for row in (wanted, found)]
  spread = [row.std() for row in ranked]
  if min(spread) == 0:
    return np.zeros((len(wanted), len(found)))
  return np.outer(ranked[0] / spread[0], ranked[1] / spread[1])


def paired(own: np.ndarray, other: np.ndarray) -> dict[str, float]:
  """{difference, p} of the losses [n] of the same clips: by how much `own` is lower on average.

  p is that of Wilcoxon's signed-rank test that own is not lower.
  """
  difference = other - own
  p = 1.0
  if np.any(difference):
    p = float(stats.wilcoxon(own, other, alternative="less").pvalue)
  return {"difference": float(difference.mean()), "p": p}


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
  """Fréchet distance of the Gaussians fitted to x [n, dim] and y [m, dim] (the formula of FAD)."""
  covariances = [np.cov(rows, rowvar=False) for rows in (x, y)]
  # the trace of the root of the product is the sum of the roots of its eigenvalues, which are >= 0
  roots = np.sqrt(np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0))
  shift = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
  return float(shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots.sum())
