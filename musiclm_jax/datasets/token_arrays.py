"""Token shards as plain arrays, which numpy reads: for machines without TensorFlow and TFDS.

A directory holds, for each split and feature, SPLIT/NAME.npy, the rows of all records one after
another, and SPLIT/NAME.ends.npy, where each record ends; arrays.json lists them, manifest.json is
that of the shards.
"""

import json
import pathlib
import shutil
import sys

import numpy as np

from musiclm_jax.quiet import quiet
from musiclm_jax.storage import fingerprint, write_text

_INDEX = "arrays.json"


def is_here(directory: str) -> bool:
  """Whether a directory holds token arrays."""
  return pathlib.Path(directory, _INDEX).is_file()


class TokenArrays:
  """One split of a directory of token arrays, with the calls of `tfds_reader.Records`.

  Raises ValueError, naming the file, where the split or a file is missing or incomplete.
  """

  def __init__(self, directory: str, split: str):
    self.directory, self.split = directory, split
    index = json.loads(pathlib.Path(directory, _INDEX).read_text())
    if split not in index["splits"]:
      raise ValueError(f"{directory}: no split {split!r}; it has {', '.join(index['splits'])}")
    self.entries = json.loads(pathlib.Path(directory, "manifest.json").read_text())["sources"]
    self._count = index["splits"][split]
    self.fingerprint = index["fingerprints"][split]  # of the content
    self._values, self._ends = {}, {}
    for name in index["features"]:
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
    """All features of one record."""
    found = {}
    for name, values in self._values.items():
      ends = self._ends[name]
      found[name] = np.asarray(values[ends[index - 1] if index else 0 : ends[index]])
    return found


def convert(*, data_dir: str, output_dir: str) -> dict[str, int]:
  """Writes the token shards of data_dir as arrays, whole or not at all; gives {split: records}.

  Raises ValueError where data_dir holds no token shards, or output_dir something else.
  """
  with quiet():
    from musiclm_jax.datasets.tfds_reader import Records, splits

  out, partial = pathlib.Path(output_dir), pathlib.Path(f"{output_dir}.partial")
  if out.exists() and not is_here(output_dir):
    raise ValueError(f"{output_dir}: exists and holds no token arrays; choose another directory")
  manifest = pathlib.Path(data_dir, "manifest.json")
  if not manifest.is_file():
    raise ValueError(f"{data_dir}: no token shards here (manifest.json is missing)")
  shutil.rmtree(partial, ignore_errors=True)
  names = tuple(json.loads(manifest.read_text())["sources"])
  counts, fingerprints = {}, {}
  for split in splits(data_dir):
    records = Records(data_dir, split)
    counts[split] = len(records)
    columns = {name: [] for name in names}
    for row in records.rows(names, len(records)):
      for name in names:
        columns[name].append(np.atleast_1d(row[name]))
    (partial / split).mkdir(parents=True)
    for name, values in columns.items():
      rows = np.concatenate(values)
      rows = rows.astype(np.bytes_) if rows.dtype == object else rows  # texts
      np.save(partial / split / f"{name}.npy", rows)
      np.save(partial / split / f"{name}.ends.npy", np.cumsum([len(value) for value in values]))
    fingerprints[split] = fingerprint(sorted((partial / split).iterdir()))
  shutil.copy(manifest, partial / "manifest.json")
  index = {"splits": counts, "features": names, "fingerprints": fingerprints}
  write_text(partial / _INDEX, json.dumps(index, indent=1) + "\n")
  if out.exists():
    shutil.rmtree(out)
  partial.rename(out)
  print(f"{output_dir}: {counts} records of {', '.join(names)}", file=sys.stderr)
  return counts
