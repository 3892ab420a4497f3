"""Batches as a pure function of (seed, step): records on disk, their order, the rows of this host.

Nothing is replayed on resuming: `batches(first_step)` starts there. Changing the number of hosts
keeps the global order.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from musiclm_jax import checkpointing
from musiclm_jax.tokens import Stream

tf.config.set_visible_devices([], "GPU")


class Records:
  """Random access to one split of a TFDS directory: audio records and token shards alike."""

  def __init__(self, directory: str, split: str):
    if not pathlib.Path(directory, "dataset_info.json").is_file():
      raise ValueError(f"{directory}: no data set here (dataset_info.json is missing)")
    builder = tfds.builder_from_directory(directory)
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

  def __len__(self) -> int:
    return len(self._reader)

  def read(self, indices) -> list[bytes]:
    """The serialised records at `indices`. Raises ValueError naming the data set if unreadable."""
    try:
      return self._reader.__getitems__([int(i) for i in indices])
    except (RuntimeError, IndexError) as error:
      raise ValueError(f"{self.directory}: split {self.split}: corrupt shard ({error})") from None

  def column(self, name: str) -> list:
    """One feature of every record, in order."""
    decode = self.features.deserialize_example_np
    return [decode(record)[name] for record in self.read(range(len(self)))]


def _check_shard(path: str) -> None:
  if not pathlib.Path(path).is_file():
    raise ValueError(f"{path}: shard is missing")
  try:
    len(ArrayRecordDataSource([path]))
  except (RuntimeError, ValueError) as error:
    raise ValueError(f"{path}: corrupt shard ({error})") from None


def shuffled(records: Records, seed: int) -> Callable[[np.ndarray], np.ndarray]:
  """Order of training on single records: a new permutation in each epoch."""
  size = len(records)

  @functools.lru_cache(maxsize=2)
  def permutation(epoch: int):
    return np.random.default_rng((seed, epoch)).permutation(size)

  def order(positions):
    return np.array([permutation(int(p) // size)[int(p) % size] for p in positions])

  return order


def sequential(records: Records, seed: int) -> Callable[[np.ndarray], np.ndarray]:
  """The records in their own order, again and again: for evaluation."""
  del seed
  return lambda positions: positions % len(records)


def melody_pairs(records: Records, seed: int) -> Callable[[np.ndarray], np.ndarray]:
  """Order in which rows 2i and 2i + 1 are two renditions of one melody.

  Raises ValueError where no melody of the split has two renditions.
  """
  groups: dict[str, list[int]] = {}
  for index, melody in enumerate(records.column("melody")):
    if melody:
      groups.setdefault(melody, []).append(index)
  pairs = [group for _, group in sorted(groups.items()) if len(group) > 1]
  if not pairs:
    raise ValueError(
      f"{records.directory}: no melody of {records.split} has two renditions to pair; the built-in "
      "corpus has such pairs, a folder of audio has none"
    )

  @functools.lru_cache(maxsize=2)
  def permutation(epoch: int):
    return np.random.default_rng((seed, epoch)).permutation(len(pairs))

  def order(positions):
    found = []
    for p in positions:
      pair = int(p) // 2
      group = pairs[permutation(pair // len(pairs))[pair % len(pairs)]]
      found.append(np.random.default_rng((seed, pair, 1)).permutation(group)[int(p) % 2])
    return np.array(found)

  return order


class Dataset:
  """Batches of one split for one model.

  `examples` is a function of tasks.py, (source, split, seed) -> tf.data.Dataset of the model's
  features; `order` one of the functions above, which says the record at each position. `sources`
  name what is read of token shards; a Stream among them is held against the shards' manifest.
  """

  def __init__(
    self,
    *,
    directory: str,
    split: str,
    examples,
    order,
    batch_size: int,
    seed: int,
    sources: tuple[str | Stream, ...],
    parts: tuple[str, ...],
  ):
    self.directory, self.split, self.seed = directory, split, seed
    self.batch_size = batch_size
    self._examples = examples
    self._records = Records(directory, split)
    self._order = order(self._records, seed)
    self.provenance = _provenance(directory, sources, parts)

  @property
  def num_batches(self) -> int:
    """Batches in one pass, the last one filled up from the beginning."""
    return -(-len(self._records) // self.batch_size)

  def batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows of the batches from `first_step` on, without end: close it after use."""
    hosts = jax.process_count()
    if self.batch_size % hosts:
      raise ValueError(f"batch_size {self.batch_size} does not divide among {hosts} processes")
    rows = self.batch_size // hosts
    first_row = jax.process_index() * rows

    def read(step):
      positions = step * self.batch_size + first_row + np.arange(rows, dtype=np.int64)
      return positions, np.array(self._records.read(self._order(positions)), dtype=object)

    def load(split, shuffle_files, seed=None):
      del split, shuffle_files, seed
      steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
      rows = steps.map(
        lambda step: tf.numpy_function(read, [step], (tf.int64, tf.string), stateful=False)
      )
      return rows.unbatch().map(self._parse, num_parallel_calls=2)

    source = seqio.FunctionDataSource(load, splits=[self.split])
    examples = self._examples(source=source, split=self.split, seed=self.seed)
    return _closable(examples.batch(rows, drop_remainder=True).prefetch(2))

  def _parse(self, position, record):
    return {**self._records.features.deserialize_example(record), "position": position}


def _closable(dataset: tf.data.Dataset) -> Iterator:
  """The elements as numpy, by a generator, which can be closed.

  An iterator of TensorFlow that is still open when Python ends waits for threads that need Python.
  """
  yield from dataset.as_numpy_iterator()


def _provenance(directory: str, sources: tuple[str | Stream, ...], parts: tuple[str, ...]) -> dict:
  """{sources: their entries in the manifest, parts: {folder: fingerprint}}."""
  streams = [source for source in sources if isinstance(source, Stream)]
  sources = [source.source if isinstance(source, Stream) else source for source in sources]
  if not sources:
    return {"sources": {}, "parts": {}}
  path = pathlib.Path(directory, "manifest.json")
  if not path.is_file():
    raise ValueError(f"{directory}: no token shards here (manifest.json is missing)")
  made = json.loads(path.read_text())["sources"]
  for name in sources:
    if name not in made:
      raise ValueError(f"{path}: no source {name!r}; the shards hold {', '.join(sorted(made))}")
  for stream in streams:
    if stream.frame_rate:  # MuLan's are embeddings, which the stage quantises
      _check_stream(stream, made[stream.source], path)
  for part in parts:
    _, _, provenance = checkpointing.read_part(part)
    for name, entry in provenance["sources"].items():
      if name in made and made[name]["encoder"] != entry["encoder"]:
        raise ValueError(
          f"{directory}: its {name} is of encoder {made[name]['encoder']}, "
          f"but {part} was trained on that of {entry['encoder']}"
        )
  fingerprints = {pathlib.Path(part).name: checkpointing.fingerprint(part) for part in parts}
  return {"sources": {name: made[name] for name in sources}, "parts": fingerprints}


def _check_stream(stream: Stream, made: dict, path: pathlib.Path) -> None:
  """The codes in the shards must be those that the stage was told of."""
  for name in ("frame_rate", "codebook_size"):
    if made[name] != getattr(stream, name):
      raise ValueError(
        f"{path}: the {stream.source} codes have {name} {made[name]:g}, "
        f"stream {stream.name} wants {getattr(stream, name):g}"
      )
  last = stream.first_quantizer + stream.num_quantizers
  if made["width"] < last:
    raise ValueError(
      f"{path}: there are {made['width']} levels of {stream.source} codes, "
      f"stream {stream.name} wants {last}"
    )
