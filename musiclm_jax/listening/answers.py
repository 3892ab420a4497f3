"""The job that reads the answers of a listening test."""

import glob
import itertools
import json
import pathlib

import numpy as np
from scipy import stats

from musiclm_jax import storage
from musiclm_jax.listening.page import CHOICES
from musiclm_jax.listening.pairs import KEY


def answers(*, out_dir: str, results: str) -> dict[str, dict]:
  """{"A over B": {answers, wins, losses, ties, preference, p, p_corrected}} of each two systems,
  and {"A": {answers, wins, share}} of each system, which are also written to out_dir/answers.json.

  `results` is a glob pattern of the files that listeners have saved. A win is a slight or a clear
  preference; `preference` is the mean from -2 to 2, for A where it is above 0; p is that of
  Wilcoxon's signed-rank test on the means of the prompts, since answers to one prompt are not
  independent, and corrected by Bonferroni (MusicLM Appendix B). Raises ValueError, naming the file,
  where it is not of this test, or a second one of the same listener.
  """
  key = json.loads(pathlib.Path(out_dir, KEY).read_text())
  given = [_read(path, key) for path in _paths(results)]
  listeners = [listener for listener, _ in given]
  if len(set(listeners)) < len(listeners):
    raise ValueError(f"{results}: two files of one listener")
  scores: dict[tuple[str, str], dict[int, list[int]]] = {
    pair: {} for pair in itertools.combinations(key["systems"], 2)
  }
  for _, each in given:
    for pair_id, value in each.items():
      pair = key["pairs"][pair_id]
      sides, preferred = (pair["a"], pair["b"]), -value
      if sides not in scores:
        sides, preferred = sides[::-1], value
      scores[sides].setdefault(pair["prompt"], []).append(preferred)
  found = {
    f"{first} over {second}": _compared(each, len(scores))
    for (first, second), each in scores.items()
    if each
  }
  found |= {name: _total(name, scores) for name in key["systems"]}
  storage.write_text(pathlib.Path(out_dir, "answers.json"), json.dumps(found, indent=1) + "\n")
  print(_table(found, len(given)))
  return found


def _paths(results: str) -> list[str]:
  paths = sorted(glob.glob(results))
  if not paths:
    raise ValueError(f"{results}: no such file")
  return paths


def _read(path: str, key: dict) -> tuple[str, dict[str, int]]:
  """(listener, {pair: answer}) of one file."""
  try:
    result = json.loads(pathlib.Path(path).read_text())
    test, listener, given = result["test"], result["listener"], dict(result["answers"])
  except (ValueError, KeyError, TypeError):
    raise ValueError(f"{path}: wanted answers as the page saves them") from None
  if test != key["test"]:
    raise ValueError(f"{path}: is of the test {test}, the key is of {key['test']}")
  allowed = {value for value, _ in CHOICES}
  for pair, value in given.items():
    if pair not in key["pairs"] or value not in allowed:
      raise ValueError(f"{path}: pair {pair}: no answer {value!r} of this test")
  return listener, given


def _compared(by_prompt: dict[int, list[int]], comparisons: int) -> dict:
  values = np.array([value for each in by_prompt.values() for value in each])
  means = np.array([np.mean(each) for each in by_prompt.values()])
  p = float(stats.wilcoxon(means).pvalue) if np.any(means) else 1.0
  return {
    "answers": len(values),
    "wins": int((values > 0).sum()),
    "losses": int((values < 0).sum()),
    "ties": int((values == 0).sum()),
    "preference": float(values.mean()),
    "p": p,
    "p_corrected": min(1.0, p * comparisons),
  }


def _total(name: str, scores: dict) -> dict:
  """The answers in which a system was one of the two, and how many it won."""
  values = [
    value if name == pair[0] else -value
    for pair, by_prompt in scores.items()
    if name in pair
    for each in by_prompt.values()
    for value in each
  ]
  wins = sum(value > 0 for value in values)
  return {"answers": len(values), "wins": wins, "share": wins / max(len(values), 1)}


def _table(found: dict[str, dict], listeners: int) -> str:
  lines = [f"{listeners} listeners"]
  for name, each in found.items():
    if "p" in each:
      counts = f"{each['wins']} wins, {each['losses']} losses, {each['ties']} ties"
      lines.append(
        f"{name}: {counts}; preference {each['preference']:+.2f}, p = {each['p_corrected']:.2g}"
      )
    else:
      lines.append(f"{name}: {each['wins']} wins of {each['answers']}")
  return "\n".join(lines)
