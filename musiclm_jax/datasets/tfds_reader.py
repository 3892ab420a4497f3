"""Random access to the records of a TFDS directory: audio records and token shards alike."""

import functools
import json
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from musiclm_jax.storage import digest

_CHUNK = 64  # records in memory at once


class Records:
  """One split of a TFDS directory.

  Raises ValueError, naming the file, where there is no such split or a shard of it is corrupt.
  """

  def __init__(self, directory: str, split: str):
    builder = _builder(directory)
    if split not in builder.info.splits:
      known = ", ".join(sorted(builder.info.splits))
      raise ValueError(f"{directory}: no split {split!r}; it has {known}")
    self.directory, self.split = directory, split
    self.features = builder.info.features
    info = builder.info.splits[split]
    self.paths = [str(path) for path in info.filepaths]
    for path in self.paths:
      _check_shard(path)
    self._reader = ArrayRecordDataSource(self.paths)
    if len(self._reader) != info.num_examples or not info.num_examples:
      raise ValueError(
        f"{directory}: split {split} should hold {info.num_examples} records, "
        f"its shards hold {len(self._reader)}"
      )

  @functools.cached_property
  def entries(self) -> dict[str, dict]:
    """The manifest's entries {source: how it was made} of token shards; none of audio records."""
    path = pathlib.Path(self.directory, "manifest.json")
    return json.loads(path.read_text())["sources"] if path.is_file() else {}

  def __len__(self) -> int:
    return len(self._reader)

  @property
  def fingerprint(self) -> str:
    """Twelve hexadecimal digits, a digest of the shards' names and sizes."""
    shards = [(path.name, path.stat().st_size) for path in map(pathlib.Path, self.paths)]
    return digest(repr(shards))

  def read(self, indices) -> list[bytes]:
    """The serialised records at `indices`. Raises ValueError naming the data set if unreadable."""
    if not len(indices):  # the reader would raise
      return []
    try:
      return self._reader.__getitems__([int(i) for i in indices])
    except (RuntimeError, IndexError) as error:
      raise ValueError(f"{self.directory}: split {self.split}: corrupt shard ({error})") from None

  def rows(self, names: tuple[str, ...], count: int) -> Iterator[dict]:
    """The features `names` of the first `count` records, or of all where there are fewer."""
    some = self.select(names)
    count = min(count, len(self))
    for start in range(0, count, _CHUNK):
      yield from map(
        some.deserialize_example_np, self.read(range(start, min(start + _CHUNK, count)))
      )

  def select(self, names: tuple[str, ...]):
    """What reads these features of a serialised record, and no others."""
    return tfds.decode.PartialDecoding(dict.fromkeys(names, True)).extract_features(self.features)

  def column(self, name: str) -> list:
    """One feature of every record, in order."""
    return self.columns((name,))[name]

  def columns(self, names: tuple[str, ...]) -> dict[str, list]:
    """{name: that feature of every record, in order}, by reading the records once."""
    found = {name: [] for name in names}
    for row in self.rows(names, len(self)):
      for name in names:
        found[name].append(row[name])
    return found


def splits(directory: str) -> list[str]:
  """The splits of a TFDS directory. Raises ValueError, naming it, where it is none."""
  return sorted(_builder(directory).info.splits)


def _builder(directory: str):
  if not pathlib.Path(directory, "dataset_info.json").is_file():
    raise ValueError(f"{directory}: no data set here (dataset_info.json is missing)")
  return tfds.builder_from_directory(directory)


def _check_shard(path: str) -> None:
  if not pathlib.Path(path).is_file():
    raise ValueError(f"{path}: shard is missing")
  try:
    len(ArrayRecordDataSource([path]))
  except (RuntimeError, ValueError) as error:
    raise ValueError(f"{path}: corrupt shard ({error})") from None
