"""What a data set holds: labels, codes, and what held-out splits share with the train split."""

import collections
import html
import pathlib

import numpy as np

from musiclm_jax import storage
from musiclm_jax.evaluation import metrics, page, pictures
from musiclm_jax.quiet import quiet
from musiclm_jax.ranges import PositiveFloat, PositiveInt

_BINS = 24


def data_report(
  *,
  data_dir: str,
  out_dir: str,
  labels: tuple[str, ...],
  most_bars: PositiveInt,
  same_seconds: PositiveFloat,
) -> str:
  """Writes out_dir/index.html about the audio records or token shards in data_dir, and returns it.

  For every split: its records; of each of `labels` that the records have (texts, lists of texts,
  numbers) how often its values occur, the `most_bars` most frequent, or a histogram; of each source
  of codes the use of its codebooks by level. Codes of the held-out splits are looked up in the
  train split: the share of spans of `same_seconds` whose codes of the first level occur there, in
  this order. Raises ValueError where there is no data set, and for none of the labels.
  """
  with quiet():  # TensorFlow is loaded when the first record is read
    from musiclm_jax.datasets import tfds_reader

    splits = [tfds_reader.Records(data_dir, name) for name in tfds_reader.splits(data_dir)]
  known = splits[0].features
  found = [name for name in labels if name in known]
  if not found:
    raise ValueError(f"{data_dir}: has none of {', '.join(labels)}; it has {', '.join(known)}")
  coded = {name: e for name, e in splits[0].entries.items() if "codebook_size" in e}
  rows = [[each.split, f"{len(each):,}"] for each in splits]
  parts = [page.section("Splits", "", page.table(["split", "records"], rows))]
  for name in found:
    columns = {each.split: each.column(name) for each in splits}
    parts.append(page.section(name, "", _distribution(name, columns, most_bars)))
  for name, entry in coded.items():
    columns = {each.split: each.column(name) for each in splits}
    note = f"Codes of {name}: {entry['width']} levels of {entry['codebook_size']}."
    inner = _usage(name, columns, entry["codebook_size"])
    frames = round(entry.get("frame_rate", 0) * same_seconds)
    if frames > 1:
      inner += _repeated(columns, frames, same_seconds)
    parts.append(page.section(name, note, inner))
  target = pathlib.Path(out_dir, "index.html")
  storage.write_text(target, page.document(f"Data: {data_dir}", "".join(parts)))
  return str(target)


def _distribution(name: str, columns: dict[str, list], most: int) -> str:
  """A chart and a table of the values of every split."""
  numbers = not any(
    isinstance(each, bytes) for column in columns.values() for each in _each(column[0])
  )
  if numbers:
    return _histogram(name, columns)
  counts = {split: collections.Counter(_texts(column)) for split, column in columns.items()}
  total = collections.Counter()
  for each in counts.values():
    total.update(each)
  values = [value for value, _ in total.most_common(most)]
  figure, plot = pictures.axes(f"{name}, share of records", "")
  figure.set_size_inches(6.2, 0.5 + 0.16 * len(values))
  height = 0.8 / len(columns)
  for index, (split, each) in enumerate(counts.items()):
    shares = [each[value] / len(columns[split]) for value in values]
    plot.barh(np.arange(len(values)) + index * height, shares, height, label=split)
  plot.set_yticks(np.arange(len(values)) + 0.4 - height / 2, values)
  plot.invert_yaxis()
  plot.legend(fontsize=7, frameon=False, labelcolor=pictures.INK)
  rows = [[value, *(f"{each[value]:,}" for each in counts.values())] for value in total]
  rows.sort(key=lambda row: row[0])
  table = page.details(f"all {len(total)} values", page.table(["", *counts], rows))
  return pictures.svg(figure, f"Values of {name}") + table


def _histogram(name: str, columns: dict[str, list]) -> str:
  values = {k: np.concatenate([np.ravel(x) for x in column]) for k, column in columns.items()}
  values = {k: x[np.isfinite(x)] for k, x in values.items()}
  figure, plot = pictures.axes(f"{name}, share of records", name)
  edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=_BINS)
  for split, each in values.items():
    counts, _ = np.histogram(each, edges)
    plot.stairs(counts / max(len(each), 1), edges, label=split)
  plot.legend(fontsize=7, frameon=False, labelcolor=pictures.INK)
  rows = [
    [split, *(page.amount(float(q)) for q in np.percentile(each, (0, 25, 50, 75, 100)))]
    for split, each in values.items()
    if len(each)
  ]
  table = page.table(["split", "least", "25 %", "50 %", "75 %", "most"], rows)
  return page.charts(pictures.svg(figure, f"Histogram of {name}")) + table


def _usage(name: str, columns: dict[str, list], codebook_size: int) -> str:
  charts, tables = [], []
  for split, column in columns.items():
    usage = metrics.code_usage(np.concatenate(column), codebook_size)
    chart = pictures.usage_chart(f"{name}, {split}", usage)
    charts.append(f"<small>{html.escape(split)}</small>{chart}")
    tables.append(page.usage_table(usage))
  return page.charts(*charts) + "".join(tables)


def _repeated(columns: dict[str, list], frames: int, seconds: float) -> str:
  """How many spans of held-out codes occur in the train split."""
  if "train" not in columns or len(columns) < 2:
    return ""
  train = np.unique(np.concatenate([spans(codes, frames) for codes in columns["train"]]))
  rows = []
  for split, column in columns.items():
    if split == "train":
      continue
    found = [_among(spans(codes, frames), train) for codes in column]
    share = np.mean(np.concatenate(found)) if sum(map(len, found)) else 0.0
    clips = np.mean([each.any() for each in found])
    rows.append([split, page.amount(float(share)), page.amount(float(clips))])
  head = ["split", f"spans of {seconds:g} s that the train split has", "records with such a span"]
  return page.table(head, rows)


def _among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
  """Whether each of values is among the ordered ones."""
  places = np.minimum(np.searchsorted(ordered, values), max(len(ordered) - 1, 0))
  return ordered[places] == values if len(ordered) else np.zeros(len(values), bool)


def spans(codes: np.ndarray, frames: int) -> np.ndarray:
  """A hash uint64 of the first level of codes [frames, levels] of every span of `frames` frames."""
  first = np.asarray(codes)[:, 0].astype(np.uint64) + np.uint64(1)
  if len(first) < frames:
    return np.zeros(0, np.uint64)
  factors = np.random.default_rng(0).integers(1, 2**63, frames, np.uint64) | np.uint64(1)
  windows = np.lib.stride_tricks.sliding_window_view(first, frames)
  return (windows * factors).sum(axis=1, dtype=np.uint64)


def _each(value) -> list:
  return np.atleast_1d(np.asarray(value, dtype=object)).tolist()


def _texts(column: list) -> list[str]:
  return [text.decode() for value in column for text in _each(value)]
