"""The table of what is known of clips: their captions, works, tempi and keys."""

import pathlib

from musiclm_jax.datasets import table_rows

FACTS = ("captions", "bpm", "key")  # fields of score.Judged
_COLUMNS = {"captions": "caption", "bpm": "bpm", "key": "key"}


def read(path: str) -> dict[str, dict[str, str]]:
  """{name: {column: value}} of a CSV with a column `file`; a clip's name is its file's, without
  folders and ending.

  Raises ValueError as `table_rows.read_rows`, and for two rows of one name.
  """
  rows: dict[str, dict[str, str]] = {}

  def take(line: int, row: dict[str, str]) -> None:
    name = pathlib.Path(row["file"]).stem
    if name in rows:
      raise ValueError(f"a second row of {name}")
    rows[name] = row

  table_rows.read_rows(path, ("file",), take)
  return rows


def works(rows: dict[str, dict[str, str]], names: tuple[str, ...]) -> tuple[str, ...]:
  """The works of clips; one that has none in the table is a work of its own."""
  return tuple(rows.get(name, {}).get("work") or name for name in names)


def facts(rows: dict[str, dict[str, str]], names: tuple[str, ...]) -> dict[str, tuple | None]:
  """{field of FACTS: values [clips], or None where the table has no such column}.

  Raises ValueError for a clip without a row or without a value, or a tempo that is no number.
  """
  found: dict[str, tuple | None] = dict.fromkeys(FACTS)
  for field, column in _COLUMNS.items():
    if any(column in row for row in rows.values()):
      found[field] = tuple(_value(rows, name, column) for name in names)
  return found


def _value(rows: dict[str, dict[str, str]], name: str, column: str) -> str | float:
  value = rows.get(name, {}).get(column)
  if not value:
    raise ValueError(f"the table of clips has no {column} of {name}")
  if column != "bpm":
    return value
  try:
    return float(value)
  except ValueError:
    raise ValueError(f"the bpm of {name}: wanted a number, found {value!r}") from None
