"""Small TFDS directories for tests."""

import json
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter


def write_records(directory, splits, features):
  """A TFDS directory of {split: [record, ...]}, two shards a split."""
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  features = tfds.features.FeaturesDict(features)
  infos = []
  for split, rows in splits.items():
    for shard in range(2):
      path = directory / f"tokens-{split}.array_record-{shard:05}-of-00002"
      writer = ArrayRecordWriter(str(path), "group_size:1")
      for row in rows[shard::2]:
        writer.write(features.serialize_example(row))
      writer.close()
    template = tfds.core.ShardedFileTemplate(
      dataset_name="tokens", split=split, data_dir=directory, filetype_suffix="array_record"
    )
    lengths = [len(rows[shard::2]) for shard in range(2)]
    infos.append(
      tfds.core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=0, filename_template=template
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=directory, features=features, split_infos=infos, check_data=False
  )
  return str(directory)


def write_manifest(directory, sources):
  """The manifest of token shards with {source: encoder}."""
  entries = {name: {"encoder": encoder} for name, encoder in sources.items()}
  pathlib.Path(directory, "manifest.json").write_text(json.dumps({"sources": entries}))


AUDIO_FEATURES = {
  "id": tfds.features.Text(),
  "waveform": tfds.features.Tensor(shape=(None,), dtype=np.int16),
  "caption": tfds.features.Text(),
  "aspect_list": tfds.features.Sequence(tfds.features.Text()),
  "melody": tfds.features.Text(),
}


def audio_row(index, samples, melody=""):
  """A record whose samples count up from 100 * index, so that a crop tells where it is from."""
  return {
    "id": f"clip{index}",
    "waveform": (100 * index + np.arange(samples)).astype(np.int16),
    "caption": f"a caption of clip {index}",
    "aspect_list": ["slow", "flute"],
    "melody": melody,
  }
