"""Records of audio as files, and the table of what is known of them."""

import csv
import io
import itertools
import os
import pathlib
import re

from musiclm_jax import audio, storage
from musiclm_jax.datasets import table_rows
from musiclm_jax.quiet import quiet
from musiclm_jax.ranges import NonNegativeInt, PositiveFloat, PositiveInt

TABLE = "clips.csv"
COLUMNS = ("file", "caption", "work", "bpm", "key")


def write_clips(
  *,
  data_dir: str,
  split: str,
  count: NonNegativeInt,
  seconds: PositiveFloat,
  sample_rate: PositiveInt,
  out_dir: str,
) -> str:
  """Writes the first `seconds` of `count` records (0: all) of a split, or of several such
  as "train+test", which are at sample_rate Hz, as WAV files, and out_dir/clips.csv, a row for each;
  returns the table's path.

  Files are named by the records' ids, with letters, digits, dots, dashes and underscores alone.
  Raises ValueError where there is no such split, it has fewer records, or a record is shorter.
  """
  with quiet():  # TensorFlow is loaded with the first record
    from musiclm_jax.datasets.tfds_reader import Records

    parts = [Records(data_dir, name) for name in split.split("+")]
    next(parts[0].rows(("id",), 1))
  there = sum(map(len, parts))
  if count > there:
    raise ValueError(f"{data_dir}: wanted {count} records of {split}, it has {there}")
  fields = [name for name in COLUMNS[1:] if name in parts[0].features]
  every = itertools.chain.from_iterable(
    part.rows(("id", "waveform", *fields), len(part)) for part in parts
  )
  rows, names = [], set()
  for record in itertools.islice(every, count or there):
    name = re.sub(r"[^\w.-]", "_", record["id"].decode()) + ".wav"
    if name in names:
      raise ValueError(f"{data_dir}: two records would be {name}")
    names.add(name)
    waveform = audio.from_int16(record["waveform"][: round(seconds * sample_rate)])
    if len(waveform) < round(seconds * sample_rate):
      found = len(waveform) / sample_rate
      raise ValueError(f"{data_dir}: {name}: wanted {seconds:g} s or more, found {found:g} s")
    audio.write(os.path.join(out_dir, name), waveform, sample_rate)
    rows.append({"file": name} | {field: _text(record[field]) for field in fields})
  path = os.path.join(out_dir, TABLE)
  write_table(path, rows)
  return path


def write_table(path: str, rows: list[dict]) -> None:
  """Writes a CSV of those of COLUMNS that all rows have."""
  columns = [name for name in COLUMNS if all(name in row for row in rows)]
  text = io.StringIO(newline="")
  writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  storage.write_text(pathlib.Path(path), text.getvalue())


def read_table(path: str, wanted: tuple[str, ...] = ("file",)) -> dict[str, dict[str, str]]:
  """{name: {column: value}} of a CSV with the columns `wanted`, of which none may be empty; a
  clip's name is its file's, without folders and ending.

  Raises ValueError as `table_rows.read_rows`, and with the line for an empty value or a second row
  of one name; also where there are no rows.
  """
  rows: dict[str, dict[str, str]] = {}

  def take(line: int, row: dict[str, str]) -> None:
    name = pathlib.Path(row["file"]).stem
    for column in wanted:
      if not row[column].strip():
        raise ValueError(f"the {column} of {row['file']} is empty")
    if name in rows:
      raise ValueError(f"a second row of {name}")
    rows[name] = row

  table_rows.read_rows(path, wanted, take)
  if not rows:
    raise ValueError(f"{path}: no rows")
  return rows


def _text(value):
  return value.decode() if isinstance(value, bytes) else value
