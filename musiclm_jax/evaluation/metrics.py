"""Measures and their statistical tests as pure functions."""

import difflib
import math
import operator

import numpy as np
from scipy import stats

_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def figure(
  value, wanted: str = "", *, baseline=None, baseline_is: str = "", interval=None, too_few: str = ""
):
  """{value, interval, baseline, baseline_is, wanted, met, too_few} of one number.

  met is None where there is no target (`wanted` is ""). `interval` is what `bootstrap` gives;
  targets are compared with the value alone. `too_few` is what `too_few` gives: the observations do
  not suffice for the number, and a target counts as missed.

  >>> figure(0.5, "<= 0.6", baseline=1.0, baseline_is="silence")["met"]
  True

  >>> figure(0.5, "0.6 to 1.5")["met"]
  False

  Raises ValueError where a number is not finite or `wanted` is neither a comparison nor a range.
  """
  for number in (value, 0 if baseline is None else baseline, *(interval or ())):
    if not math.isfinite(number):
      raise ValueError(f"a figure must be a finite number, found {number} (wanted {wanted!r})")
  met = None
  if wanted:
    met = _meets(value, wanted) and not too_few
  return {
    "value": float(value),
    "interval": None if interval is None else [float(bound) for bound in interval],
    "baseline": None if baseline is None else float(baseline),
    "baseline_is": baseline_is,
    "wanted": wanted,
    "met": met,
    "too_few": too_few,
  }


def _meets(value: float, wanted: str) -> bool:
  """Whether a number is as wanted. Raises ValueError for neither a comparison nor a range."""
  low, _, high = wanted.partition(" to ")
  comparison, _, bound = wanted.partition(" ")
  try:
    if high:
      return float(low) <= value <= float(high)
    return bool(_OPERATORS[comparison](value, float(bound)))
  except (KeyError, ValueError):
    raise ValueError(f"wanted: '<= 0.6', or a range '0.5 to 1.5', found {wanted!r}") from None


def figures(measures: dict[str, dict], wanted: dict[str, str]) -> dict[str, dict]:
  """{name: figure} of {name: arguments of `figure`}, with the targets {name: comparison}."""
  return {name: figure(**each, wanted=wanted.get(name, "")) for name, each in measures.items()}


def check_wanted(wanted: dict[str, str], names: tuple[str, ...]) -> None:
  """Raises ValueError where a target {name: comparison} is that of none of the figures `names`."""
  for name in wanted:
    if name not in names:
      close = difflib.get_close_matches(name, names, 3) or names
      raise ValueError(f"wanted: no figure {name!r}; nearest {', '.join(close)}")


def too_few(count: int, needed: int, unit: str) -> str:
  """What a figure of `count` observations must be marked with; "" where there are enough.

  >>> too_few(4, 21, "prompts"), too_few(24, 21, "prompts")
  ('4 prompts, at least 21 are needed', '')
  """
  return "" if count >= needed else f"{count} {unit}, at least {needed} are needed"


def ratio(values, weights=None) -> float:
  """sum(values) / sum(weights), both [n]; weights None are all 1. 0 where they sum to 0."""
  total = len(values) if weights is None else np.sum(weights)
  return float(np.sum(values) / total) if total else 0.0


def bootstrap(values, groups, weights=None, *, resamples: int = 2000, seed: int = 0):
  """(low, high), a 95 % interval of `ratio(values, weights)`, by resampling whole groups.

  values [n], groups [n] of labels such as the work of each clip, weights [n], 1 where None (with
  weights the statistic is a ratio of means). Groups are drawn with replacement, because clips of
  one work are not independent (percentile bootstrap; Efron and Tibshirani 1993, Chapter 13). None
  where there are fewer than two groups, or where the weights of a resample sum to 0.

  >>> low, high = bootstrap([0.0, 1.0] * 50, list(range(100)))
  >>> low < 0.5 < high
  True
  """
  values = np.asarray(values, np.float64)
  weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
  labels, group = np.unique(np.asarray(groups), return_inverse=True)
  if len(labels) < 2:
    return None
  sums = np.stack([np.bincount(group, each) for each in (values, weights)], axis=1)
  totals = draws_of(len(labels), resamples, seed) @ sums
  if (totals[:, 1] == 0).any():
    return None
  low, high = np.percentile(totals[:, 0] / totals[:, 1], (2.5, 97.5))
  return float(low), float(high)


def draws_of(count: int, draws: int, seed: int) -> np.ndarray:
  """How often each of `count` works is drawn, [draws, count] int, where as many are drawn anew with
  replacement: the resamples of every bootstrap, so that equal works and seeds have equal ones.
  """
  return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)


def unit(x: np.ndarray) -> np.ndarray:
  """x [..., dim] scaled to length 1."""
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def ranks(similarity: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Rank [queries with a right answer] int of the best right answer, from 1.

  similarity [queries, candidates], -inf where something is not a candidate; right [queries,
  candidates] bool. A wrong answer as similar as the best right one ranks before it, so that a model
  that gives everything the same embedding gains nothing.
  """
  right = right & np.isfinite(similarity)
  asked = right.any(axis=1)
  similarity, right = similarity[asked], right[asked]
  best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
  return 1 + ((similarity >= best) & ~right).sum(axis=1)


def retrieval(similarity: np.ndarray, right: np.ndarray, places=(1, 10)) -> dict[str, float]:
  """{recall_at_K, chance_at_K for each of `places`, mrr, chance_mrr, queries}.

  Shapes as in `ranks`. Chance is the exact expectation for a random order. Raises
  ValueError where no query has a right answer.
  """
  found = ranks(similarity, right)
  if not len(found):
    raise ValueError("retrieval: no query has a right answer")
  candidates = np.isfinite(similarity)
  asked = (right & candidates).any(axis=1)
  totals, answers = candidates.sum(axis=1)[asked], (right & candidates).sum(axis=1)[asked]
  # probabilities that the first k places hold no right answer
  beyond = [np.ones(len(found))]
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
  """Entropy [...] in nats of the distribution of counts [..., codes]."""
  return stats.entropy(np.asarray(counts, np.float64), axis=-1)


def cross_entropy(counts: np.ndarray, codes: np.ndarray) -> float:
  """Nats per code of codes [...] int under the frequencies of counts [codebook_size].

  One is added to every count, so that an unseen code has a finite cost.
  """
  share = (counts + 1.0) / (counts.sum() + len(counts))
  return float(-np.log(share)[codes].mean())


def code_counts(codes: np.ndarray, codebook_size: int) -> np.ndarray:
  """Counts [levels, codebook_size] of each code at each level of codes [..., levels]."""
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
  """Mutual information in nats of a and b, [n] non-negative int each, by counting."""
  width = int(b.max()) + 1
  joint = np.bincount(a.astype(np.int64) * width + b, minlength=(int(a.max()) + 1) * width)
  joint = joint.reshape(-1, width)
  return float(entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint.ravel()))


def against_shuffled(observed: float, shuffled: np.ndarray) -> dict[str, float]:
  """{value, shuffled, z, p} of a statistic of the data and of shuffled data [n].

  `shuffled` is their mean and z in their standard deviations; p is the share, with the observed
  value among them, that reach the observed value. Raises ValueError where all shuffles give one
  value and the data another: there is too little data to shuffle.
  """
  difference, spread = float(observed - np.mean(shuffled)), float(np.std(shuffled))
  if spread < 1e-12:
    if abs(difference) > 1e-9:
      raise ValueError(f"all {len(shuffled)} shuffles give one value: too little data to shuffle")
    difference, spread = 0.0, 1.0
  reached = (np.asarray(shuffled) >= observed - 1e-12).sum()
  return {
    "value": float(observed),
    "shuffled": float(np.mean(shuffled)),
    "z": difference / spread,
    "p": float((1 + reached) / (1 + len(shuffled))),
  }


def matched(scores: np.ndarray, num_shuffles: int, rng: np.random.Generator) -> dict[str, float]:
  """Whether output i fits prompt i better than other prompts, a permutation test.

  scores [prompts, outputs] tells how well each output fits each prompt. The statistic is the mean
  of the diagonal; the prompts are shuffled. Returns and raises as `against_shuffled`.
  """
  outputs = np.arange(len(scores))
  order = rng.permuted(np.tile(outputs, (num_shuffles, 1)), axis=1)
  return against_shuffled(np.diagonal(scores).mean(), scores[order, outputs[None]].mean(axis=1))


def rank_agreement(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
  """Scores [n, n] for `matched`; the mean of their diagonal is Spearman's correlation of two [n].

  All 0 where one of the two is constant.
  """
  ranked = [stats.rankdata(row) - (len(row) + 1) / 2 for row in (wanted, found)]
  spread = [row.std() for row in ranked]
  if min(spread) == 0:
    return np.zeros((len(wanted), len(found)))
  return np.outer(ranked[0] / spread[0], ranked[1] / spread[1])


def paired(own: np.ndarray, other: np.ndarray) -> dict[str, float]:
  """{difference, p} of losses [n] of the same clips: how much lower `own` is on average.

  p is that of Wilcoxon's signed-rank test that own is not lower.
  """
  difference = other - own
  p = 1.0
  if np.any(difference):
    p = float(stats.wilcoxon(own, other, alternative="less").pvalue)
  return {"difference": float(difference.mean()), "p": p}
