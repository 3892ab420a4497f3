"""Rows of a CSV or TSV file that a person or a publisher wrote, with every fault in its place."""

import ast
import collections
import csv
import itertools
from collections.abc import Callable, Iterator

from musiclm_jax.datasets.faults import raise_faults

DELIMITERS = (",", ";", "\t")  # spreadsheets write semicolons where a comma is the decimal sign
_LONGEST = 2**31 - 1  # characters of one value; published biographies may exceed csv's own limit


def read_rows(
  path: str,
  wanted: tuple[str, ...],
  take: Callable[[int, dict[str, str]], None],
  *,
  delimiters: tuple[str, ...] = DELIMITERS,
  header_rows: int = 1,
  open_end: bool = False,
) -> None:
  """Calls take(line, {column: value}) for every row of a file in UTF-8 with the columns `wanted`.

  Of the `delimiters` the one that separates the header is used. Of several header rows a column's
  name is that of all, "set split". With `open_end` the values after the last column belong to it,
  separated by the delimiter. Raises ValueError, with the line where there is one, for missing or
  repeated columns and text that is not CSV, and with all faults at once for rows with too many
  values and for those for which `take` raises ValueError.
  """
  csv.field_size_limit(_LONGEST)
  count, faults = 0, []
  with open(path, encoding="utf-8-sig", newline="") as file:  # spreadsheets begin with a mark
    try:
      header = file.readline()
      file.seek(0)
      delimiter = max(delimiters, key=lambda each: len(set(wanted) & set(_split(header, each))))
      rows = _rows(path, csv.reader(file, delimiter=delimiter, strict=True))
      names = itertools.zip_longest(
        *(values for _, values in itertools.islice(rows, header_rows)), fillvalue=""
      )
      columns = [" ".join(filter(None, map(str.strip, each))) for each in names]
      _check_columns(path, columns, wanted)
      for line, values in rows:
        count += 1
        try:
          if open_end:
            end = len(columns) - 1
            values = [*values[:end], delimiter.join(values[end:])]
          take(line, _row(columns, values))
        except ValueError as error:
          faults.append(f"{path}:{line}: {error}")
    except UnicodeDecodeError:
      line = _line_not_utf8(path)
      raise ValueError(f"{path}:{line}: not UTF-8; save the file as CSV in UTF-8") from None
  raise_faults(faults, f"{path}: {len(faults)} of {count} rows cannot be used")


def parse_list(column: str, text: str, kind: type = str) -> tuple:
  """The values of Python's notation: parse_list("aspect_list", "['slow', 'flute']").

  An empty text is an empty list. Raises ValueError, naming the column, for anything but a list of
  values of the kind.
  """
  try:
    value = ast.literal_eval(text.strip() or "[]")
  except (ValueError, SyntaxError):
    value = None
  if type(value) is not list or any(type(each) is not kind for each in value):
    example = "['slow', 'flute']" if kind is str else "[21, 103]"
    raise ValueError(f"{column} wants {example}, got {text!r}")
  return tuple(value)


def _rows(path: str, reader) -> Iterator[tuple[int, list[str]]]:
  """(first line, values) of every row that is not empty."""
  line = 1
  try:
    for values in reader:
      if values:
        yield line, values
      line = reader.line_num + 1
  except csv.Error as error:
    raise ValueError(f"{path}:{reader.line_num}: not CSV ({error})") from None


def _row(columns: list[str], values: list[str]) -> dict[str, str]:
  """{column: value}; values that are missing at the end of a row are empty."""
  if len(values) > len(columns):
    wanted = f"{len(columns)} columns, found {len(values)} values"
    raise ValueError(f"wanted {wanted}; a value with the separator in it needs quotes")
  return dict(itertools.zip_longest(columns, values, fillvalue=""))


def _line_not_utf8(path: str) -> int:
  """The first line with bytes that are not UTF-8."""
  with open(path, "rb") as file:
    for number, line in enumerate(file, 1):
      try:
        line.decode()
      except UnicodeDecodeError:
        return number
  return 1


def _split(line: str, delimiter: str) -> list[str]:
  return [name.strip(' "\r\n') for name in line.split(delimiter)]


def _check_columns(path: str, columns: list[str], wanted: tuple[str, ...]) -> None:
  twice = [name for name, count in collections.Counter(columns).items() if name and count > 1]
  if twice:
    raise ValueError(f"{path}:1: two columns are named {twice[0]}")
  missing = [name for name in wanted if name not in columns]
  if missing:
    found = f"found {', '.join(map(repr, columns))}" if columns else "the file is empty"
    raise ValueError(f"{path}:1: wanted a column {' and '.join(missing)}, {found}")
