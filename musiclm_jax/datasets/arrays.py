"""Records as plain arrays, which numpy reads: for machines without TensorFlow and TFDS.

A directory holds, for each split and feature, SPLIT/NAME.npy, the rows of all records one after
another, and SPLIT/NAME.ends.npy, where each record ends; arrays.json lists them. manifest.json is
that of token shards.
"""

import hashlib
import itertools
import json
import pathlib
import shutil
import sys
from collections.abc import Iterable, Iterator

import numpy as np

from musiclm_jax.quiet import quiet
from musiclm_jax.storage import digest, write_text

_INDEX, _MANIFEST = "arrays.json", "manifest.json"


def is_here(directory: str) -> bool:
  """Whether a directory holds arrays."""
  return pathlib.Path(directory, _INDEX).is_file()


class Arrays:
  """One split of a directory of arrays, with the calls of `tfds_reader.Records`.

  Raises ValueError, naming the file, where the split or a file is missing or incomplete.
  """

  def __init__(self, directory: str, split: str):
    self.directory, self.split = directory, split
    index = json.loads(pathlib.Path(directory, _INDEX).read_text())
    if "scalars" not in index:
      raise ValueError(f"{directory}/{_INDEX}: of an earlier version; write the arrays again")
    if split not in index["splits"]:
      raise ValueError(f"{directory}: no split {split!r}; it has {', '.join(index['splits'])}")
    manifest = pathlib.Path(directory, _MANIFEST)
    self.entries = json.loads(manifest.read_text())["sources"] if manifest.is_file() else {}
    self.features = tuple(index["features"])
    self.fingerprint = index["fingerprints"][split]  # of the content
    self._count, self._scalars = index["splits"][split], frozenset(index["scalars"])
    self._values, self._ends = {}, {}
    for name in self.features:
      self._values[name] = self._read(name)
      self._ends[name] = self._read(f"{name}.ends")
      ends = self._ends[name]
      if len(ends) != self._count or (len(ends) and ends[-1] != len(self._values[name])):
        raise ValueError(f"{directory}/{split}/{name}.npy: does not hold {self._count} records")

  def _read(self, name: str) -> np.ndarray:
    path = pathlib.Path(self.directory, self.split, f"{name}.npy")
    try:
      return np.load(path, mmap_mode="r")
    except FileNotFoundError:
      raise ValueError(f"{path}: is missing") from None
    except ValueError as error:
      raise ValueError(f"{path}: not a whole array ({error})") from None

  def __len__(self) -> int:
    return self._count

  def record(self, index: int) -> dict[str, np.ndarray]:
    """All features of one record; texts are bytes."""
    return {name: self._value(name, index) for name in self.features}

  def _value(self, name: str, index: int):
    ends = self._ends[name]
    rows = self._values[name][ends[index - 1] if index else 0 : ends[index]]
    return rows[0] if name in self._scalars else np.asarray(rows)

  def rows(self, names: tuple[str, ...], count: int) -> Iterator[dict]:
    """The features `names` of the first `count` records, or of all where there are fewer."""
    for index in range(min(count, self._count)):
      yield {name: self._value(name, index) for name in names}

  def column(self, name: str) -> list:
    """One feature of every record, in order."""
    return [self._value(name, index) for index in range(self._count)]


def convert(*, data_dir: str, output_dir: str) -> dict[str, int]:
  """Writes the records of a TFDS directory as arrays, whole or not at all; gives {split: records}.

  Raises ValueError where data_dir is no such directory, or output_dir something else than arrays.
  """
  with quiet():
    from musiclm_jax.datasets.tfds_reader import Records, splits

  if not pathlib.Path(data_dir, "dataset_info.json").is_file():
    raise ValueError(f"{data_dir}: no data set here (dataset_info.json is missing)")
  opened = {split: Records(data_dir, split) for split in splits(data_dir)}
  manifest = pathlib.Path(data_dir, _MANIFEST)
  return write(
    output_dir,
    {
      split: records.rows(tuple(records.features), len(records))
      for split, records in opened.items()
    },
    manifest.read_text() if manifest.is_file() else "",
  )


def write(output_dir: str, splits: dict[str, Iterable[dict]], manifest: str = "") -> dict[str, int]:
  """Writes the records of each split as arrays, whole or not at all; gives {split: records}.

  All records have the same features: numbers, texts, lists of texts, or arrays whose rows count.
  Only texts are kept in memory. Raises ValueError where output_dir holds something else than
  arrays, and for a split without records.
  """
  out, partial = pathlib.Path(output_dir), pathlib.Path(f"{output_dir}.partial")
  if out.exists() and not is_here(output_dir):
    raise ValueError(f"{output_dir}: exists and holds no arrays; choose another directory")
  shutil.rmtree(partial, ignore_errors=True)
  counts, fingerprints, scalars = {}, {}, set()
  for split, records in splits.items():
    records = iter(records)
    first = next(records, None)
    if first is None:
      raise ValueError(f"{output_dir}: split {split} would have no records")
    (partial / split).mkdir(parents=True)
    columns = {name: _Column(partial / split / f"{name}.npy", first[name]) for name in first}
    for record in itertools.chain([first], records):
      for name, column in columns.items():
        column.add(record[name])
    marks = {name: column.close() for name, column in sorted(columns.items())}
    counts[split] = len(next(iter(columns.values())).ends)
    fingerprints[split] = digest(repr(marks))
    scalars |= {name for name, column in columns.items() if column.scalar}
  names = sorted(columns)
  if manifest:
    write_text(partial / _MANIFEST, manifest)
  index = {"splits": counts, "features": names, "scalars": sorted(scalars)}
  write_text(partial / _INDEX, json.dumps(index | {"fingerprints": fingerprints}, indent=1) + "\n")
  if out.exists():
    shutil.rmtree(out)
  partial.rename(out)
  print(f"{output_dir}: {counts} records of {', '.join(names)}", file=sys.stderr)
  return counts


class _Column:
  """The files of one feature: rows that are appended, and where each record ends."""

  def __init__(self, path: pathlib.Path, first):
    example = _array(first)
    self.scalar, self.ends = example.ndim == 0, []
    self._path, self._texts = path, [] if example.dtype.kind == "S" else None
    self._dtype, self._shape = example.dtype, example.shape[1:]
    self._digest, self._rows = hashlib.sha256(), 0
    self._file = open(path, "wb")  # noqa: SIM115
    self._header()

  def add(self, value) -> None:
    """Appends the rows of one record."""
    rows = np.atleast_1d(_array(value))
    self._rows += len(rows)
    self.ends.append(self._rows)
    if self._texts is not None:
      self._texts += rows.tolist()
    elif (rows.dtype, rows.shape[1:]) != (self._dtype, self._shape):
      found = f"{self._dtype} {self._shape}, then {rows.dtype} {rows.shape[1:]}"
      raise ValueError(f"{self._path}: the rows of a feature have one shape; got {found}")
    else:
      self._append(rows)

  def close(self) -> str:
    """Completes the files; a digest of the content."""
    if self._texts is not None:  # now that the longest is known
      texts = np.array(self._texts or [b""], np.bytes_)
      self._dtype = texts.dtype
      self._file.seek(0)
      self._header()
      self._append(texts[: self._rows])
    self._file.seek(0)
    self._header()
    self._file.close()
    np.save(self._path.with_name(self._path.stem + ".ends.npy"), np.array(self.ends))
    self._digest.update(repr(self.ends).encode())
    return self._digest.hexdigest()

  def _append(self, rows: np.ndarray) -> None:
    content = rows.tobytes()
    self._digest.update(content)
    self._file.write(content)

  def _header(self) -> None:
    """The header of a .npy file, which leaves room for any number of rows."""
    shape = (self._rows, *self._shape)
    header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(self._file, header)


def _array(value) -> np.ndarray:
  """A value of a record as an array; texts as bytes."""
  array = np.asarray(value)
  if array.dtype.kind == "U":
    array = np.char.encode(array, "utf-8")
  # TFDS has bytes as objects, and an empty list has another type.
  return array.astype(np.bytes_) if array.dtype.kind == "O" else array
