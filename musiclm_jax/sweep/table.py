"""The rows of a sweep: what the commands of every point have left in its folder."""

import csv
import dataclasses
import io
import pathlib

from musiclm_jax import command_list
from musiclm_jax.evaluation.report import read_results
from musiclm_jax.sweep.points import Point
from musiclm_jax.training.writers import read_lines

FOLDER, DONE = "sweep", "done.json"  # of what the sweep itself writes beside a point's results


@dataclasses.dataclass(frozen=True)
class Row:
  """A point that has ended: its folder's name, its values, how long it took, and its figures
  {name: (value, interval or None)}.
  """

  name: str
  values: dict[str, object]
  seconds: float
  figures: dict[str, tuple[float, tuple[float, float] | None]]


def ended(out: pathlib.Path, name: str, lines: list[str]) -> bool:
  """Whether all command lines of a point have ended."""
  return len(command_list.finished(lines, out / name / FOLDER / DONE)) == len(lines)


def read(out: pathlib.Path, planned: list[tuple[Point, list[str]]]) -> list[Row]:
  """The rows of those points (with their command lines) that have ended.

  Raises ValueError where a point has left nothing that can be read.
  """
  rows = []
  for point, lines in planned:
    if ended(out, point.name, lines):
      seconds = command_list.finished(lines, out / point.name / FOLDER / DONE)
      values = {k: v.name if isinstance(v, pathlib.Path) else v for k, v in point.values.items()}
      rows.append(Row(point.name, values, sum(seconds.values()), _figures(out / point.name)))
  return rows


def _figures(folder: pathlib.Path) -> dict[str, tuple[float, tuple[float, float] | None]]:
  """Figures of an evaluation (SECTION.FIGURE), and last losses of a training."""
  found = {}
  if (folder / "metrics.json").is_file():
    for section, result in read_results(str(folder)).items():
      for name, each in result["figures"].items():
        found[f"{section}.{name}"] = each["value"], each["interval"]
  if (folder / "metrics.jsonl").is_file():
    for line in read_lines(folder / "metrics.jsonl"):
      found[f"{line['split']}.loss"] = line["loss"], None
  if not found:
    raise ValueError(f"{folder}: wanted metrics.json or metrics.jsonl from the commands")
  return found


def csv_text(rows: list[Row]) -> str:
  """All rows with all figures; intervals are two more columns."""
  names = list(dict.fromkeys(name for row in rows for name in row.figures))
  keys = list(dict.fromkeys(key for row in rows for key in row.values))
  wide = {name for row in rows for name, (_, interval) in row.figures.items() if interval}
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  columns = [[name, f"{name} low", f"{name} high"] if name in wide else [name] for name in names]
  writer.writerow(["point", *keys, "seconds", *sum(columns, [])])
  for row in rows:
    cells = [row.name, *(row.values.get(key, "") for key in keys), round(row.seconds, 1)]
    for name in names:
      value, interval = row.figures.get(name, ("", None))
      cells += [value, *(interval or ("", ""))] if name in wide else [value]
    writer.writerow(cells)
  return text.getvalue()
