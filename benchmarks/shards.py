"""Writes token shards of random codes, with any number of records, for the benchmarks."""

import json
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

MULAN_DIM = 128  # gin/paper/mulan_rvq.gin
_RATES = {"acoustic": 50.0, "semantic": 25.0, "mulan": 1.0}
_DISTINCT = 500  # different records; more are copies of these in other places of the files


def acoustic(seconds: float, codes: int) -> dict:
  """The columns, for `write`, that the fine stage reads, of clips of `seconds`."""
  return {"acoustic": ((round(50 * seconds), 12), codes)}


def all_sources(seconds: float, codes: int) -> dict:
  """The columns, for `write`, that all three stages read."""
  mulan = {"mulan": ((max(1, round(seconds)), MULAN_DIM), 0)}
  return {**acoustic(seconds, codes), "semantic": ((round(25 * seconds), 1), codes), **mulan}


def write(directory: str | pathlib.Path, columns: dict, counts: dict[str, int]) -> None:
  """Writes a TFDS directory with counts[split] records of each split, and its manifest.

  columns: {name: (shape of a record's array, number of codes, 0 for an embedding)}.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True)
  features = {"id": tfds.features.Text()}
  for name, ((_, width), codes) in columns.items():
    dtype = np.uint16 if codes else np.float32
    features[name] = tfds.features.Tensor(shape=(None, width), dtype=dtype)
  features = tfds.features.FeaturesDict(features)
  made = _records(columns, features, min(_DISTINCT, max(counts.values())))
  infos = [_split(directory, split, count, made) for split, count in counts.items()]
  tfds.folder_dataset.write_metadata(
    data_dir=directory, features=features, split_infos=infos, check_data=False
  )
  manifest = {}
  for name, ((_, width), codes) in columns.items():
    made = dict(codebook_size=codes) if codes else dict(window_seconds=10.0, hop_seconds=1.0)
    manifest[name] = dict(frame_rate=_RATES[name], width=width, encoder="none", **made)
  (directory / "manifest.json").write_text(json.dumps({"sources": manifest}))


def _records(columns: dict, features, count: int) -> list[bytes]:
  """Serialised records of random codes and embeddings."""
  rng, made = np.random.default_rng(0), []
  for index in range(count):
    row = {"id": f"clip{index}"}
    for name, (shape, codes) in columns.items():
      numbers = rng.integers(0, codes, shape) if codes else rng.standard_normal(shape)
      row[name] = numbers.astype(np.uint16 if codes else np.float32)
    made.append(features.serialize_example(row))
  return made


def _split(directory: pathlib.Path, split: str, count: int, made: list[bytes]):
  """Writes the shards of a split, of at most 50,000 records each; returns its SplitInfo."""
  shards = max(2, -(-count // 50_000))
  lengths = [len(range(shard, count, shards)) for shard in range(shards)]
  for shard, length in enumerate(lengths):
    path = directory / f"tokens-{split}.array_record-{shard:05}-of-{shards:05}"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for index in range(length):
      writer.write(made[(shard + index * shards) % len(made)])
    writer.close()
  template = tfds.core.ShardedFileTemplate(
    dataset_name="tokens", split=split, data_dir=directory, filetype_suffix="array_record"
  )
  return tfds.core.SplitInfo(
    name=split, shard_lengths=lengths, num_bytes=0, filename_template=template
  )
