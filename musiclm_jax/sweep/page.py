"""The page of a sweep: the best point, plots, a table that sorts, and players; one file."""

import base64
import dataclasses
import html
import itertools
import pathlib

import soundfile

from musiclm_jax import audio
from musiclm_jax.configuration import nearest
from musiclm_jax.evaluation import page, pictures
from musiclm_jax.sweep.table import Row

_COLOURS = ("#6f8fb8", "#d0662f", "#5a9367", "#9a6fb0", "#b0a03c", "#8a8a8a")
_SORT = """
document.querySelectorAll("th").forEach(head => head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex;
  const up = head.dataset.up !== "true";
  head.closest("tr").querySelectorAll("th").forEach(other => delete other.dataset.up);
  head.dataset.up = up;
  const key = row => { const text = row.cells[column].textContent.replaceAll(",", "");
    const number = parseFloat(text); return isNaN(number) ? text : number; };
  [...body.rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (up ? 1 : -1))
    .forEach(row => body.append(row));
}));
"""


@dataclasses.dataclass(frozen=True)
class View:
  """What the page shows of a sweep: a title, `figures` in the table and in plots, all if there are
  none; the point where the figure `best` is "most" or "least" is marked; and players of at most
  `shown` files of each point that match the glob pattern `audio`.
  """

  title: str
  figures: tuple[str, ...]
  best: str
  best_is: str
  audio: str
  shown: int

  def __post_init__(self):
    if self.best_is not in ("most", "least"):
      raise ValueError(f"best_is: wanted most or least, found {self.best_is!r}")


def document(rows: list[Row], view: View, out: pathlib.Path) -> str:
  """The page as HTML, with pictures and audio in it.

  Raises ValueError for a figure that no row has.
  """
  known = list(dict.fromkeys(name for row in rows for name in row.figures))
  for name in (*view.figures, *([view.best] if view.best else ())):
    if name not in known:
      raise ValueError(f"figures: no {name!r} among the results{nearest(name, known)}")
  names = view.figures or tuple(known)
  best = best_row(rows, view) if view.best else None
  parts = [_lead(best, view, rows), _table(rows, names, best, view), _plots(rows, names)]
  parts += [_players(row, view, out) for row in rows] if view.shown else []
  return page.document(view.title, "".join(parts) + f"<script>{_SORT}</script>")


def best_row(rows: list[Row], view: View) -> Row:
  """The row whose figure `view.best` is the most or the least."""
  having = [row for row in rows if view.best in row.figures]
  choose = max if view.best_is == "most" else min
  return choose(having, key=lambda row: row.figures[view.best][0])


def _near(row: Row, best: Row, name: str) -> bool:
  """Whether the interval of the row's figure reaches the best value."""
  value, interval = row.figures.get(name, (None, None))
  low, high = interval or (value, value)
  return value is not None and low <= best.figures[name][0] <= high


def _lead(best: Row | None, view: View, rows: list[Row]) -> str:
  if best is None:
    return f"<p class=lead>{len(rows)} points.</p>"
  near = sum(_near(row, best, view.best) for row in rows if row is not best)
  value = page.interval(*best.figures[view.best])
  return (
    f"<p class=lead><b>{html.escape(_spaced(best.name))}</b> has the {view.best_is} "
    f"{_label(view.best)}: {value}. Intervals of {near} of the other {len(rows) - 1} points "
    "reach it.</p>"
  )


def _table(rows: list[Row], names: tuple[str, ...], best: Row | None, view: View) -> str:
  keys = list(dict.fromkeys(key for row in rows for key in row.values))
  cells = []
  for row in rows:
    mark = ""
    if best is not None:
      near = _near(row, best, view.best)
      mark = "<span class=good>best</span>" if row is best else "within its interval" * near
    values = [html.escape(str(row.values.get(key, ""))) for key in keys]
    figures = [page.interval(*row.figures[n]) if n in row.figures else "" for n in names]
    cells.append([*values, mark, *figures, page.amount(row.seconds)])
  head = [*keys, "", *map(_label, names), "seconds"]
  note = "A click on a head sorts. In brackets: 95 % intervals."
  return page.section("Points", note, page.table(head, cells, safe=True))


def _plots(rows: list[Row], names: tuple[str, ...]) -> str:
  """Charts of every figure by every value that is a number, with a line for each of the others."""
  keys = list(dict.fromkeys(key for row in rows for key in row.values))
  sections = []
  for key in keys:
    numbers = {row.name: _number(row.values.get(key)) for row in rows}
    if None in numbers.values() or len(set(numbers.values())) < 2:
      continue
    others = {row.name: _others(row, key) for row in rows}
    colours = dict(zip(dict.fromkeys(others.values()), itertools.cycle(_COLOURS)))
    charts = []
    for name in names:
      lines: dict[str, list] = {}
      for row in rows:
        if name in row.figures:
          point = numbers[row.name], *row.figures[name]
          lines.setdefault(colours[others[row.name]], []).append(point)
      charts.append(_chart(_label(name), key, lines))
    legend = "".join(
      f'<span><i style="background:{colour}"></i>{html.escape(label)}</span>'
      for label, colour in colours.items()
    )
    inner = f"<p class=legend>{legend}</p>{page.charts(*charts)}"
    sections.append(page.section(f"By {key}", "Bars are 95 % intervals.", inner))
  return "".join(sections)


def _others(row: Row, key: str) -> str:
  return ", ".join(f"{name} {value}" for name, value in row.values.items() if name != key)


def _chart(name: str, key: str, lines: dict[str, list]) -> str:
  """An SVG of lines {colour: points (x, value, interval)}."""
  figure, plot = pictures.axes(name, key)
  for colour, points in lines.items():
    x, y, intervals = zip(*sorted(points, key=lambda point: point[0]))
    reach = [[abs(v - (i or (v, v))[side]) for v, i in zip(y, intervals)] for side in (0, 1)]
    plot.errorbar(x, y, yerr=reach, color=colour, marker="o", markersize=3, lw=1.2)
  return pictures.svg(figure, f"{name} by {key}")


def _label(name: str) -> str:
  """A figure's name for people: "generation.notes_share" is "notes share"."""
  return name.rpartition(".")[2].replace("_", " ")


def _spaced(name: str) -> str:
  return name.replace(",", ", ")


def _number(value) -> float | None:
  try:
    return float(value)
  except (TypeError, ValueError):
    return None


def _players(row: Row, view: View, out: pathlib.Path) -> str:
  """Players of a point's files, with the audio in the page, as Ogg Vorbis."""
  figures = []
  for path in sorted((out / row.name).glob(view.audio))[: view.shown]:
    waveform, rate = soundfile.read(path, dtype="float32")
    content = base64.b64encode(audio.encoded("x.ogg", waveform, rate)).decode()
    source = f"data:audio/ogg;base64,{content}"
    figures.append(page.player(path.stem, pictures.spectrogram(waveform, rate), source))
  inner = f"<div class=players>{''.join(figures)}</div>"
  return page.section(_spaced(row.name), "", inner) if figures else ""
