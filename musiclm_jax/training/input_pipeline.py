"""Batches as a pure function of (seed, step): the order of records, the rows of this host.

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

from musiclm_jax import checkpointing
from musiclm_jax.datasets.records import Records
from musiclm_jax.tokens import Stream

tf.config.set_visible_devices([], "GPU")


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


class RecordSource(seqio.FunctionDataSource):
  """The `records` at positions(step) for each step from `first_step` on, and their positions."""

  def __init__(self, records: Records, order, positions, first_step: int):
    self.records = records

    def read(step):
      chosen = positions(int(step))
      return chosen, np.array(records.read(order(chosen)), dtype=object)

    def parse(position, record):
      return {**records.features.deserialize_example(record), "position": position}

    def load(split, shuffle_files, seed=None):
      del split, shuffle_files, seed
      steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
      rows = steps.map(
        lambda step: tf.numpy_function(read, [step], (tf.int64, tf.string), stateful=False)
      )
      return rows.unbatch().map(parse, num_parallel_calls=2)

    super().__init__(load, splits=[records.split])


class Dataset:
  """Batches of one split for one model.

  `examples` is a function of tasks.py, (source, seed) -> seqio.Task; `order` one of the functions
  above, which says the record at each position. `sources` name what is read of token shards; a
  Stream among them is held against the shards' manifest.
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
    self.records, self.batch_size = Records(directory, split), batch_size
    self._order = order(self.records, seed)
    self.provenance = _provenance(directory, sources, parts)
    source = RecordSource(self.records, self._order, lambda step: np.array([step]), 0)
    self._task = examples(source=source, seed=seed)

  @property
  def num_batches(self) -> int:
    """Batches in one pass, the last one filled up from the beginning."""
    return -(-len(self.records) // self.batch_size)

  def task(self, name: str, positions, first_step: int) -> seqio.Task:
    """The task whose examples are those at positions(step) for each step from `first_step` on."""
    source = RecordSource(self.records, self._order, positions, first_step)
    return self._task.replace(name=name, source=source)

  def batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows of the batches from `first_step` on, without end: close it after use."""
    rows = _own_rows(self.batch_size)
    task = self.task(self._task.name, lambda step: step * self.batch_size + rows, first_step)
    return _batches(task, self.records.split, len(rows))


def _own_rows(batch_size: int) -> np.ndarray:
  """The rows of a batch that this process reads."""
  hosts = jax.process_count()
  if batch_size % hosts:
    raise ValueError(f"batch_size {batch_size} does not divide among {hosts} processes")
  return np.arange(batch_size, dtype=np.int64).reshape(hosts, -1)[jax.process_index()]


def _batches(provider: seqio.Task | seqio.Mixture, split: str, rows: int) -> Iterator:
  # What has no end must not be repeated, nor kept in memory.
  settings = dict(sequence_length=None, shuffle=False, num_epochs=1, try_in_mem_cache=False)
  examples = provider.get_dataset(split=split, **settings)
  return _closable(examples.batch(rows, drop_remainder=True).prefetch(2))


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
