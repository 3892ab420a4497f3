"""Audio records to token shards, as an Apache Beam pipeline.

Each element of the pipeline is one output shard, so that a killed extraction continues with the
shards that are missing, on any runner and any number of workers. The result is a TFDS directory
with a manifest that lists the tokenizers that made it.
"""

import dataclasses
import functools
import json
import os
import pathlib
import sys
import time

import apache_beam as beam
import numpy as np
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions
from array_record.python.array_record_module import ArrayRecordWriter

from musiclm_jax import storage
from musiclm_jax.datasets.features import Encoder, Feature, TextEncoder, TextFeature
from musiclm_jax.ranges import PositiveInt


@functools.lru_cache(maxsize=1)
def _load(sources: tuple, sample_rate: int) -> tuple[Encoder | TextEncoder, ...]:
  """The encoders, loaded once per worker process."""
  return tuple(source.open(sample_rate) for source in sources)


@dataclasses.dataclass(frozen=True)
class Job:
  """What every shard needs to know."""

  data_dir: str
  output_dir: str
  sources: tuple[Feature | TextFeature, ...]
  sample_rate: int
  batch_size: int
  num_shards: int
  fingerprint: str
  labels: tuple[str, ...]

  def shard_path(self, split: str, shard: int) -> pathlib.Path:
    """Where a shard goes: TFDS's file name."""
    name = f"tokens-{split}.array_record-{shard:05}-of-{self.num_shards:05}"
    return pathlib.Path(self.output_dir, name)


def extract_shard(job: Job, split: str, shard: int) -> tuple[str, int, int]:
  """Writes one shard unless it is there, whole or not at all; gives (split, shard, records)."""
  path = job.shard_path(split, shard)
  done = path.with_name(path.name + ".json")
  if path.exists() and done.exists():
    return split, shard, json.loads(done.read_text())["records"]
  builder = tfds.builder_from_directory(job.data_dir)
  data = builder.as_data_source(split)
  clips = [data[i] for i in range(shard, len(data), job.num_shards)]
  rows = _encode_clips(_load(job.sources, job.sample_rate), clips, job.batch_size)
  features = _features(job, builder, rows[0]) if rows else None
  partial = f"{path}.partial"
  writer = ArrayRecordWriter(partial, "group_size:1")
  for clip, row in zip(clips, rows):
    labels = {name: clip[name] for name in job.labels}
    writer.write(features.serialize_example({"id": clip["id"], **labels, **row}))
  writer.close()
  os.replace(partial, path)
  storage.write_text(done, json.dumps({"records": len(clips)}))
  return split, shard, len(clips)


def _encode_clips(encoders, clips, batch_size: int) -> list[dict[str, np.ndarray]]:
  """The features of each clip."""
  columns = {each.source.name: each.encode(clips, batch_size) for each in encoders}
  return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _features(job: Job, builder, row: dict[str, np.ndarray]) -> tfds.features.FeaturesDict:
  labels = {name: builder.info.features[name] for name in job.labels}
  specs = {
    name: tfds.features.Tensor(shape=(None, value.shape[-1]), dtype=value.dtype.type)
    for name, value in row.items()
  }
  return tfds.features.FeaturesDict({"id": tfds.features.Text(), **labels, **specs})


def extract(
  *,
  data_dir: str,
  output_dir: str,
  splits: tuple[str, ...],
  sources: tuple[Feature | TextFeature, ...],
  sample_rate: PositiveInt,
  batch_size: PositiveInt,
  num_shards: PositiveInt,
  labels: tuple[str, ...],
  beam_options: tuple[str, ...],
) -> dict:
  """Token shards of `splits` in output_dir, and their manifest, which it gives.

  The shards keep the fields `labels` of the records as they are, for `sources.Label`.

  Runs on any Beam runner by `beam_options` (("--runner=DirectRunner",) on this machine); the
  directories must then be on storage that all workers see. Raises ValueError where output_dir holds
  shards of other tokenizers or of other audio, or the records have no such label, OSError where
  data_dir holds no data set.
  """
  made = [source.fingerprinted() for source in sources]
  audio = pathlib.Path(data_dir, "dataset_info.json").read_text()  # tells its shards and bytes
  known = tfds.builder_from_directory(data_dir).info.features
  for label in labels:
    if label not in known:
      there = ", ".join(sorted(known))
      raise ValueError(f"{data_dir}: no label {label!r}; the records have {there}")
  identity = storage.digest(json.dumps([[*map(dataclasses.astuple, made)], labels, audio]))
  manifest_path = pathlib.Path(output_dir, "manifest.json")
  job = Job(data_dir, output_dir, sources, sample_rate, batch_size, num_shards, identity, labels)
  shards = [(split, shard) for split in splits for shard in range(num_shards)]
  if manifest_path.exists() and all(job.shard_path(*shard).exists() for shard in shards):
    manifest = json.loads(manifest_path.read_text())
    if manifest["identity"] == identity and set(splits) <= set(manifest["records"]):
      print(f"{output_dir}: already extracted", file=sys.stderr)
      return manifest
  _claim(output_dir, identity)
  began = time.perf_counter()

  with beam.Pipeline(options=PipelineOptions(list(beam_options))) as pipeline:
    _ = (
      pipeline
      | beam.Create(shards)
      | beam.Reshuffle()
      | beam.MapTuple(lambda split, shard: _report(extract_shard(job, split, shard), began))
    )
  return _write_manifest(job, splits, manifest_path)


def _claim(output_dir: str, identity: str) -> None:
  """Marks a directory as this extraction's; shards of another one are refused."""
  path = pathlib.Path(output_dir, "identity.txt")
  if path.exists() and path.read_text() != identity:
    raise ValueError(
      f"{output_dir}: holds shards of other tokenizers or audio (identity {path.read_text()}, "
      f"this extraction is {identity}); choose another directory"
    )
  storage.write_text(path, identity)


def _report(result, began: float):
  split, shard, records = result
  seconds = time.perf_counter() - began
  print(f"extract {split} shard {shard}: {records} records, {seconds:.0f} s", file=sys.stderr)
  return result


def _write_manifest(job: Job, splits, path: pathlib.Path) -> dict:
  """Counts the shards and writes the manifest and what TFDS needs to read them."""
  counts = {
    split: [
      json.loads(
        job.shard_path(split, i).with_name(job.shard_path(split, i).name + ".json").read_text()
      )["records"]
      for i in range(job.num_shards)
    ]
    for split in splits
  }
  builder = tfds.builder_from_directory(job.data_dir)
  data = builder.as_data_source(splits[0])
  encoders = _load(job.sources, job.sample_rate)
  row = _encode_clips(encoders, [data[0]], job.batch_size)[0]
  infos = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=counts[split],
      num_bytes=sum(job.shard_path(split, i).stat().st_size for i in range(job.num_shards)),
      filename_template=tfds.core.ShardedFileTemplate(
        dataset_name="tokens", split=split, data_dir=job.output_dir, filetype_suffix="array_record"
      ),
    )
    for split in splits
  ]
  tfds.folder_dataset.write_metadata(
    data_dir=job.output_dir,
    features=_features(job, builder, row),
    split_infos=infos,
    check_data=False,
  )
  manifest = {
    "identity": job.fingerprint,
    "audio": job.data_dir,
    "sample_rate": job.sample_rate,
    "records": {split: sum(counts[split]) for split in splits},
    "sources": {e.source.name: e.describe(row[e.source.name]) for e in encoders}
    | {name: {"encoder": ""} for name in job.labels},  # no part has made them
  }
  storage.write_text(path, json.dumps(manifest, indent=1) + "\n")
  return manifest
