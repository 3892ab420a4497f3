"""The job that compares systems by their scores, pair by pair."""

import itertools
import json
import pathlib

import numpy as np
from scipy import stats

from musiclm_jax import storage
from musiclm_jax.evaluation import metrics, page


def compare(*, files: tuple[str, ...], out: str) -> list[dict]:
  """Each two systems of files scores.json, by every measure that both have: rows of
  {first, second, measure, better, difference, interval, p, p_corrected, works}, also printed.

  The difference is the first system's value less the second's, with a 95 % interval by a bootstrap
  over works, the same works for both. p is two-sided: for means over clips that of Wilcoxon's
  signed-rank test on the means of the works, for distances the share of the draws beyond 0; both
  corrected by Bonferroni for the number of tests. Writes all that to `out`, a JSON file; "": none.

  Raises ValueError where fewer than two systems are given, one is in two files, a file holds no
  scores, or two scores differ in what they depend on or in their clips.
  """
  systems = _systems(files)
  if len(systems) < 2:
    raise ValueError(f"wanted the scores of two systems or more, found {', '.join(systems)}")
  found = []
  for (first, a), (second, b) in itertools.combinations(systems.items(), 2):
    for measure in a["scores"]:
      if measure in b["scores"]:
        one, other = a["scores"][measure], b["scores"][measure]
        _check(measure, first, one, second, other)
        if "too_few" not in one:
          row = {"first": first, "second": second, "measure": measure}
          row["better"] = a["better"][measure]
          found.append(row | _difference(one, other))
  if not found:
    raise ValueError(f"{' and '.join(systems)} have no measure in common")
  for row in found:
    row["p_corrected"] = min(1.0, row["p"] * len(found))
  if out:
    storage.write_text(out, json.dumps(found, indent=1) + "\n")
  print(_table(found))
  return found


def _systems(files: tuple[str, ...]) -> dict[str, dict]:
  """{system: {"scores": {measure: score}, "better": {measure: word}}} of all files."""
  systems: dict[str, dict] = {}
  for path in files:
    try:
      content = json.loads(pathlib.Path(path).read_text())
      rows, better = content["rows"], content["better"]
      names = content["systems"]
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError):
      raise ValueError(f"{path}: not a file scores.json of `musiclm score`") from None
    for name in names:
      if name in systems:
        raise ValueError(f"{path}: has a system {name!r}, as a file before it")
      systems[name] = {"scores": rows[name], "better": better}
  return systems


def _check(measure: str, first: str, one: dict, second: str, other: dict) -> None:
  """Raises ValueError where two scores cannot be compared."""
  for key in dict.fromkeys((*one["spec"], *other["spec"])):
    a, b = (score["spec"].get(key, "none") for score in (one, other))
    if a != b:
      raise ValueError(
        f"{measure}: {first} and {second} cannot be compared: {key} is {a!r} and {b!r}"
      )
  if one.get("works") != other.get("works"):
    raise ValueError(f"{measure}: {first} and {second} are of clips of different names or works")


def _difference(one: dict, other: dict) -> dict:
  """{difference, interval, p, works} of two scores of the same clips."""
  value = one["value"] - other["value"]
  if "values" in one:
    works = one["works"]
    labels, group = np.unique(works, return_inverse=True)
    sums = []
    for score in (one, other):
      weights = score.get("weights") or np.ones(len(works))
      sums.append([np.bincount(group, each) for each in (score["values"], weights)])
    means = [top / np.maximum(bottom, 1e-12) for top, bottom in sums]
    apart = means[0] - means[1]
    p = float(stats.wilcoxon(apart).pvalue) if np.any(apart) else 1.0
    draws = _paired_draws(sums)
  else:
    draws = np.subtract(one["draws"], other["draws"])
    labels = set(one["works"])
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, float(2 * (1 + beyond) / (1 + len(draws))))
  interval = np.percentile(draws, (2.5, 97.5)).tolist() if len(draws) else None
  return {"difference": value, "interval": interval, "p": p, "works": len(labels)}


def _paired_draws(sums: list, draws: int = 2000, seed: int = 0) -> np.ndarray:
  """Differences [draws] of two ratios of sums over works [2][works] when works are drawn anew."""
  drawn = metrics.draws_of(len(sums[0][0]), draws, seed)
  one, other = ((drawn @ top) / np.maximum(drawn @ bottom, 1e-12) for top, bottom in sums)
  return one - other


def _table(found: list[dict]) -> str:
  lines = []
  for row in found:
    difference = page.interval(row["difference"], row["interval"])
    lines.append(
      f"{row['first']} - {row['second']}: {row['measure']}, {row['better']} is better: "
      f"{difference}, p {row['p']:.2g}, corrected {row['p_corrected']:.2g} ({row['works']} works)"
    )
  return "\n".join(lines)
