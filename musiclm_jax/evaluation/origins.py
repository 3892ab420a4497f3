"""Where the music of the built-in corpus comes from: collection, composer, tradition, region."""

import collections
import csv
import functools
import re

from musiclm_jax.datasets import catalogue
from musiclm_jax.evaluation import page, pictures

NOTE = "By the collections of the works of the built-in corpus (data/origins.csv)."
COLUMNS = ("collection", "composer", "tradition", "region", "period")


@functools.cache
def known() -> dict[str, tuple[str, ...]]:
  """{work: its COLUMNS} of the works of the built-in corpus, by data/works.csv and origins.csv.

  Raises KeyError for a work whose collection and composer are not in origins.csv.
  """
  with open(catalogue.data_folder() / "origins.csv", encoding="utf-8", newline="") as file:
    rows = [tuple(row[name] for name in COLUMNS) for row in csv.DictReader(file)]
  origins = {row[:2]: row for row in rows}
  return {work.id: origins[work.collection, work.composer] for work in catalogue.list_works()}


def works(columns: dict[str, list]) -> list[str]:
  """The work of each record of a split, from its features {name: values}: `work`.

  Where records have none, by their ids, which in the built-in corpus begin with the work; other
  records are each a work of their own, named by the id.
  """
  if "work" in columns:
    return [text.decode() for text in columns["work"]]
  return [work_of(text.decode()) for text in columns["id"]]


def work_of(name: str) -> str:
  """The work of the built-in corpus that a record of this id is of; the id where there is none.

  >>> work_of("airdsAirs-book1-119-25-05-rendition0")
  'airdsAirs/book1:119'
  """
  parts = name.split("-")
  beginnings = ("-".join(parts[:count]) for count in range(len(parts), 0, -1))
  return next((_slugs()[each] for each in beginnings if each in _slugs()), name)


def show(works_by_split: dict[str, list[str]]) -> str:
  """HTML of the shares of clips by origin in each split, from {split: work of each record}.

  "" where none of the works is of the built-in corpus. Shares are of all records of a split.
  """
  found = {
    split: [known()[work] for work in each if work in known()]
    for split, each in works_by_split.items()
  }
  if not any(found.values()):
    return ""
  sizes = {split: max(len(each), 1) for split, each in works_by_split.items()}
  counts = {split: collections.Counter(each) for split, each in found.items()}
  total = sum(counts.values(), collections.Counter())
  rows = [
    [*origin, *(_share(counts[split][origin] / sizes[split]) for split in counts)]
    for origin, _ in total.most_common()
  ]
  regions = {
    split: collections.Counter(origin[3] for origin in each) for split, each in found.items()
  }
  order = [name for name, _ in sum(regions.values(), collections.Counter()).most_common()]
  series = {split: [each[name] / sizes[split] for name in order] for split, each in regions.items()}
  chart = pictures.bars("regions, share of records", order, series)
  return page.bars(chart) + page.table([*COLUMNS, *counts], rows)


@functools.cache
def _slugs() -> dict[str, str]:
  """{what the ids of a work's clips begin with: the work}; none begins with another one."""
  return {re.sub(r"[^A-Za-z0-9]+", "-", work.id): work.id for work in catalogue.list_works()}


def _share(value: float) -> str:
  return f"{page.amount(100 * value)}\N{NO-BREAK SPACE}%" if value else ""
