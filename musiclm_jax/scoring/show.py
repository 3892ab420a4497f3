"""Scores as text and as a page."""

import json

from musiclm_jax.evaluation import page


def text(content: dict) -> str:
  """The scores of scores.json as lines, one table for each measure."""
  lines = []
  for measure, better in content["better"].items():
    lines += ["", f"{measure}, {better} is better"]
    for name, scores in content["rows"].items():
      if measure in scores:
        lines.append(f"  {name:<40} {cell(scores[measure])}")
  return "\n".join(lines[1:])


def cell(score: dict) -> str:
  """The value of a score with its interval, or why it has none."""
  if "too_few" in score:
    return f"too few: {score['too_few']}"
  return page.interval(score["value"], score["interval"])


def document(content: dict) -> str:
  """A page with the scores, a column for each system and anchor, and the specs of the systems."""
  rows = [
    [measure, f"{better} is better", *(_cell(row, measure) for row in content["rows"].values())]
    for measure, better in content["better"].items()
  ]
  specs = "".join(
    page.bullet(f"{name}: {measure}", json.dumps(score["spec"], ensure_ascii=False))
    for name in content["systems"]
    for measure, score in content["rows"][name].items()
  )
  note = "95 % intervals by bootstrap over works. Empty: the measure does not apply."
  scores = page.section("Measures", note, page.table(["", "", *content["rows"]], rows))
  return page.document("Scores", scores + page.section("Specs", "", f"<ul>{specs}</ul>"))


def _cell(scores: dict, measure: str) -> str:
  return cell(scores[measure]) if measure in scores else ""
