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
  """A page with the scores, a row for each system and anchor, and their specs."""
  measures = list(content["better"])
  head = ["", *(f"{name}, {content['better'][name]} is better" for name in measures)]
  rows = [
    [name, *(cell(scores[m]) if m in scores else "" for m in measures)]
    for name, scores in content["rows"].items()
  ]
  specs = {}
  for name in content["systems"]:
    for measure, score in content["rows"][name].items():
      specs[f"{name}: {measure}"] = score["spec"]
  listed = "".join(
    page.bullet(name, json.dumps(spec, ensure_ascii=False)) for name, spec in specs.items()
  )
  note = "95 % intervals by bootstrap over works. Empty: the measure does not apply."
  inner = page.section("Scores", note, page.table(head, rows))
  return page.document("Scores", inner + page.section("Specs", "", f"<ul>{listed}</ul>"))
