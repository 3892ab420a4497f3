"""What a data set holds: labels, codes, and what held-out splits share with the train split."""

import collections
import html
import pathlib

import numpy as np

from musiclm_jax import storage
from musiclm_jax.evaluation import (
  duplicates_page,
  metrics,
  origins,
  page,
  pictures,
  representation_page,
)
from musiclm_jax.quiet import quiet
from musiclm_jax.ranges import PositiveInt

_BINS = 24
_FACTS = ("id", "work", "key", "bpm")  # what the report asks for besides the labels


def data_report(
  *,
  data_dir: str,
  out_dir: str,
  labels: tuple[str, ...],
  most_bars: PositiveInt,
  duplicates: duplicates_page.Duplicates,
  generated: representation_page.Generated,
) -> str:
  """Writes out_dir/index.html about the audio records or token shards in data_dir, and returns it.

  First, where `generated` names files, what is heard in them beside real clips. Then for every
  split: its records; where the works of the built-in corpus come from; of each of `labels` that the
  records have (texts, lists of texts, numbers) how often its values occur, the `most_bars` most
  frequent, or a histogram; of each source of codes the use of its codebooks by level; and what the
  held-out splits share with the train split by these codes and by embeddings, see `duplicates`.

  Raises ValueError where there is no data set, for audio records with none of the labels, and as
  `generated` does.
  """
  with quiet():  # TensorFlow is loaded when the first record is read
    from musiclm_jax.datasets import tfds_reader

    splits = [tfds_reader.Records(data_dir, name) for name in tfds_reader.splits(data_dir)]
  known = splits[0].features
  found = [name for name in labels if name in known]
  if not found and not splits[0].entries:
    raise ValueError(f"{data_dir}: has none of {', '.join(labels)}; it has {', '.join(known)}")
  train = next((each for each in splits if each.split == "train"), None)
  if generated.generated:
    generated.check(train)
  facts = dict.fromkeys((*found, *(name for name in _FACTS if name in known)))
  columns = {each.split: each.columns(tuple(facts)) for each in splits}  # audio is read once
  parts = []
  if generated.generated:
    parts.append(generated.show(train, columns.get("train", {})))
  rows = [[each.split, f"{len(each):,}"] for each in splits]
  parts.append(page.section("Splits", "", page.table(["split", "records"], rows)))
  works = {split: origins.works(each) for split, each in columns.items()}
  if table := origins.show(works):
    parts.append(page.section("Where the music comes from", origins.NOTE, table))
  for name in found:
    values = {split: each[name] for split, each in columns.items()}
    parts.append(page.section(name, "", _distribution(name, values, most_bars)))
  ids = {split: [text.decode() for text in each["id"]] for split, each in columns.items()}
  for name, entry in splits[0].entries.items():
    if "codebook_size" in entry:
      codes = {each.split: each.column(name) for each in splits}
      note = f"Codes of {name}: {entry['width']} levels of {entry['codebook_size']}."
      inner = _usage(name, codes, entry["codebook_size"])
      inner += duplicates.of_codes(name, codes, works, ids, entry.get("frame_rate", 0))
      parts.append(page.section(name, note, inner))
    elif entry.get("window_seconds"):
      vectors = {each.split: each.column(name) for each in splits}
      note = f"Embeddings of {name}, the mean over the windows of a record."
      if inner := duplicates.of_embeddings(name, vectors, works, ids):
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
  series = {
    split: [each[value] / len(columns[split]) for value in values] for split, each in counts.items()
  }
  chart = pictures.bars(f"{name}, share of records", values, series)
  rows = [[value, *(f"{each[value]:,}" for each in counts.values())] for value in total]
  rows.sort(key=lambda row: row[0])
  table = page.details(f"all {len(total)} values", page.table(["", *counts], rows))
  return page.bars(chart) + table


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


def _each(value) -> list:
  return np.atleast_1d(np.asarray(value, dtype=object)).tolist()


def _texts(column: list) -> list[str]:
  return [text.decode() for value in column for text in _each(value)]
