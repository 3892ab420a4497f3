"""The captions of a folder's files, from a CSV in MusicCaps' columns."""

import ast
import collections
import csv
import dataclasses
import io
import itertools
import os
import pathlib
import posixpath
from collections.abc import Collection

from musiclm_jax.datasets.audio_folder import composed
from musiclm_jax.datasets.faults import raise_faults

_DELIMITERS = (",", ";", "\t")  # spreadsheets write semicolons where a comma is the decimal sign
_WANTED = ("file", "caption")
_SHOWN = 5  # files without a row that are named


@dataclasses.dataclass(frozen=True)
class Caption:
  """The caption of a file, and phrases that describe it."""

  text: str
  aspects: tuple[str, ...]


def read_captions(path: str, folder: str, files: Collection[str]) -> dict[str, Caption]:
  """{file: caption} of a CSV with the columns `file`, `caption` and, if it is there, `aspect_list`.

  Values are separated by commas, semicolons or tabs. A file is named by its path within `folder`,
  in any spelling (./NAME, composed or decomposed Unicode, absolute). Raises ValueError, with the
  line where there is one, for missing or repeated columns, and with all faults at once for rows
  whose file is not among `files`, second rows of a file, empty captions, malformed aspect lists,
  and files without a row.
  """
  columns, rows = _read(path)
  captions, lines, faults = {}, {}, []
  by_base_name = {posixpath.basename(file).casefold(): file for file in files}
  for line, values in rows:
    try:
      row = _row(columns, values)
      file = _file(row["file"], folder)
      if file not in files:
        close = by_base_name.get(posixpath.basename(file).casefold())
        hint = f"; it has {close!r}" if close else ""
        raise ValueError(f"no audio file {row['file']!r} in the folder{hint}")
      if file in lines:
        raise ValueError(f"a second row of {file}, the first is in line {lines[file]}")
      lines[file] = line
      captions[file] = _caption(row, file)
    except ValueError as error:
      faults.append(f"{path}:{line}: {error}")
  without = [file for file in files if file not in lines]
  if without and not faults:
    more = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
    faults.append(f"{path}: no row of the file {', '.join(without[:_SHOWN])}{more}")
  raise_faults(faults, f"{path}: {len(faults)} of {len(rows)} rows cannot be used")
  return captions


def _read(path: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
  """The columns of the CSV, and (line, values) of every row."""
  text = _text(path)
  header = text.partition("\n")[0]
  delimiter = max(_DELIMITERS, key=lambda each: len(set(_WANTED) & set(_split(header, each))))
  reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
  try:
    columns = [name.strip() for name in next(reader, [])]
    _check_columns(path, columns)
    rows = [(reader.line_num, values) for values in reader if values]
  except csv.Error as error:
    raise ValueError(f"{path}:{reader.line_num}: not CSV ({error})") from None
  return columns, rows


def _row(columns: list[str], values: list[str]) -> dict[str, str]:
  """{column: value}; values that are missing at the end of a row are empty."""
  if len(values) > len(columns):
    wanted = f"{len(columns)} columns, found {len(values)} values"
    raise ValueError(f"wanted {wanted}; a value with the separator in it needs quotes")
  return dict(itertools.zip_longest(columns, values, fillvalue=""))


def _text(path: str) -> str:
  data = pathlib.Path(path).read_bytes()
  try:
    return data.decode("utf-8-sig")  # spreadsheets begin with a byte order mark
  except UnicodeDecodeError as error:
    line = 1 + data.count(b"\n", 0, error.start)
    raise ValueError(f"{path}:{line}: not UTF-8; save the file as CSV in UTF-8") from None


def _split(line: str, delimiter: str) -> list[str]:
  return [name.strip(' "\r') for name in line.split(delimiter)]


def _check_columns(path: str, columns: list[str]) -> None:
  twice = [name for name, count in collections.Counter(columns).items() if name and count > 1]
  if twice:
    raise ValueError(f"{path}:1: two columns are named {twice[0]}")
  missing = [name for name in _WANTED if name not in columns]
  if missing:
    found = f"found {', '.join(map(repr, columns))}" if columns else "the file is empty"
    raise ValueError(f"{path}:1: wanted a column {' and '.join(missing)}, {found}")


def _file(value: str, folder: str) -> str:
  """The name, as in `audio_folder.Listing`, of a value of the column `file`."""
  path = os.path.relpath(value, os.path.abspath(folder)) if os.path.isabs(value) else value
  return posixpath.normpath(composed(path.strip()))


def _caption(row: dict[str, str], file: str) -> Caption:
  text = row["caption"].strip()
  if not text:
    raise ValueError(f"the caption of {file} is empty")
  return Caption(text, _aspects(row.get("aspect_list", "")))


def _aspects(text: str) -> tuple[str, ...]:
  """The phrases of MusicCaps' notation: _aspects("['slow', 'flute']") == ("slow", "flute")."""
  try:
    value = ast.literal_eval(text.strip() or "[]")
  except (ValueError, SyntaxError):
    value = None
  if type(value) is not list or any(type(phrase) is not str for phrase in value):
    raise ValueError(f"aspect_list wants ['slow', 'flute'], got {text!r}")
  return tuple(value)
