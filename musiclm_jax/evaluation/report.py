"""report.html: the results of an evaluation on one page, which opens from disk with no network."""

import html
import importlib
import json
import pathlib

from musiclm_jax import storage
from musiclm_jax.evaluation import page, pictures
from musiclm_jax.training.writers import read_lines


def report(*, out_dir: str, runs_dir: str, progress: str, title: str) -> str:
  """Writes out_dir/report.html from what `evaluate` left in out_dir, and returns its path.

  Each section shows its own results (section.Section), in the order of metrics.json; nothing is
  measured again. Pictures are inside the page, audio files beside it. Loss curves are of all runs
  in runs_dir with a metrics.jsonl; `progress` is the JSON file of commands and seconds, which may
  be absent. Raises ValueError, naming the path, where a file is missing or not a result.
  """
  path = pathlib.Path(out_dir, "metrics.json")
  results = read_results(out_dir)
  parts = [
    _summary(results),
    *(_shown(path, name, result, out_dir) for name, result in results.items()),
    _losses(read_runs(runs_dir)),
    _figures(results),
    _how(results, progress),
  ]
  target = pathlib.Path(out_dir, "report.html")
  storage.write_text(target, page.document(title, "".join(parts)))
  return str(target)


def read_results(out_dir: str) -> dict[str, dict]:
  """{section: result} of out_dir/metrics.json. Raises ValueError where it is missing or none."""
  path = pathlib.Path(out_dir, "metrics.json")
  if not path.is_file():
    raise ValueError(f"{path}: missing; run the evaluation first")
  try:
    results = json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{path}: not JSON ({error})") from None
  for name, result in results.items():
    missing = [key for key in ("section", "figures", "took_seconds") if key not in result]
    if missing:
      raise ValueError(f"{path}: {name} has no {missing[0]!r}; run the evaluation again")
    if not all("interval" in figure for figure in result["figures"].values()):
      raise ValueError(f"{path}: figures of {name} have no interval; run the evaluation again")
  return results


def _shown(path: pathlib.Path, name: str, result: dict, out_dir: str) -> str:
  """The HTML of one section, by the class that its result names; "" where it shows nothing."""
  module, _, cls = result["section"].rpartition(".")
  try:
    show = getattr(importlib.import_module(module), cls).show
  except (ValueError, ImportError, AttributeError):
    raise ValueError(f"{path}: {name}: no section {result['section']!r} is installed") from None
  try:
    return show(result, out_dir) or ""
  except KeyError as error:  # measured by another version of the section
    raise ValueError(f"{path}: {name} has no {error}; run the evaluation again") from error


def read_runs(runs_dir: str) -> dict[str, list[dict]]:
  """The lines of metrics.jsonl of every run, by its name, the oldest run first.

  Where a step was repeated after a restart the later line counts; an incomplete last line is
  ignored. Raises ValueError where there is no run, or another line is not one of metrics.
  """
  runs = {}
  paths = pathlib.Path(runs_dir).glob("*/metrics.jsonl")
  for path in sorted(paths, key=lambda p: p.stat().st_mtime):
    try:
      lines = {(line["step"], line["split"]): line for line in read_lines(path)}
    except KeyError as error:
      raise ValueError(f"{path}: a line of metrics without {error}") from None
    runs[path.parent.name] = [lines[key] for key in sorted(lines)]
  if not runs:
    raise ValueError(f"{runs_dir}: no run with a metrics.jsonl")
  return runs


def _targets(results: dict) -> list[tuple[str, str, dict]]:
  """(section, name, figure) of all figures with a target."""
  return [
    (part, name, figure)
    for part, result in results.items()
    for name, figure in result["figures"].items()
    if figure["met"] is not None
  ]


def _summary(results: dict) -> str:
  targets = _targets(results)
  missed = [(part, name, figure) for part, name, figure in targets if not figure["met"]]
  lines = [
    f"<p class=lead><b>{len(targets) - len(missed)} of {len(targets)}</b> targets met on works "
    "that no training has seen.</p>"
  ]
  if missed:
    items = (
      page.bullet(f"{part}: {name.replace('_', ' ')}", _missed(figure))
      for part, name, figure in missed
    )
    lines.append(f"<p>Missed:</p><ul>{''.join(items)}</ul>")
  return "".join(lines)


def _missed(figure: dict) -> str:
  few = f" ({figure['too_few']})" if figure["too_few"] else ""
  return f"{page.interval(figure['value'], figure['interval'])}, wanted {figure['wanted']}{few}"


def _losses(runs: dict[str, list[dict]]) -> str:
  charts = page.charts(*(pictures.loss_chart(name, lines) for name, lines in runs.items()))
  legend = "".join(
    f'<span><i style="background:{pictures.SERIES[key]}"></i>{label}</span>'
    for key, label in (("train", "train"), ("eval", "held-out"), ("chance", "chance"))
  )
  note = "The loss of every training and that of chance. The units differ."
  return page.section("Trainings", note, f"<p class=legend>{legend}</p>{charts}")


def _figures(results: dict) -> str:
  rows = []
  for part, result in results.items():
    for name, figure in result["figures"].items():
      baseline = "" if figure["baseline"] is None else page.amount(figure["baseline"])
      value = page.interval(figure["value"], figure["interval"])
      where = f"{baseline} {html.escape(figure['baseline_is'])}".strip()
      rows.append(
        [
          html.escape(part),
          html.escape(name.replace("_", " ")),
          f"{value} <small>{html.escape(figure['too_few'])}</small>",
          where,
          html.escape(figure["wanted"]),
          page.mark(figure["met"]),
        ]
      )
  head = ["", "figure", "value", "baseline", "wanted", ""]
  note = "The same as in metrics.json. In brackets: 95 % intervals by bootstrap over works."
  return page.section("All figures", note, page.table(head, rows, safe=True))


def _how(results: dict, progress: str) -> str:
  """Seconds of every command and of every section of the evaluation."""
  rows = [
    [f"evaluation: {name}", page.amount(result["took_seconds"])] for name, result in results.items()
  ]
  path = pathlib.Path(progress)
  if path.is_file():
    commands = json.loads(path.read_text())
    rows = [[f"musiclm {command}", page.amount(took)] for command, took in commands.items()] + rows
  note = "Commands in the order in which they ran."
  return page.section("How it was made", note, page.table(["command", "seconds"], rows))
