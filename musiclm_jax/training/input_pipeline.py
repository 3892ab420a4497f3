"""Batches as a pure function of (seed, step), of which a host reads its rows.

Nothing is replayed on resuming: `batches(first_step)` starts there. Changing the number of hosts
keeps the global order.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import seqio
import tensorflow as tf

from musiclm_jax import partitioning
from musiclm_jax.datasets.manifest import merged, provenance
from musiclm_jax.datasets.tfds_reader import Records
from musiclm_jax.tokens import Stream

tf.config.set_visible_devices([], "GPU")
_EPOCH_OFFSET = 2**24  # epochs between the datasets of a mixture; even, so that pairs stay pairs
# How SeqIO gives examples that have no end, and so can be neither repeated nor kept in memory.
_ENDLESS = dict(sequence_length=None, shuffle=False, num_epochs=1, try_in_mem_cache=False)


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

  `examples` is a kind of examples of tasks.py; `order` one of the functions above, which says the
  record at each position. `sources` name what is read of token shards; a Stream among them is held
  against the shards' manifest.
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
    parts: dict[str, str],
  ):
    self.records, self.batch_size = Records(directory, split), batch_size
    self._order = order(self.records, seed)
    self.provenance = provenance(directory, sources, parts)
    source = RecordSource(self.records, self._order, lambda step: np.array([step]), 0)
    self._task = examples.task(source, seed)
    self.shapes = partitioning.batched(examples.shapes, batch_size)

  @property
  def fingerprint(self) -> str:
    """Names the files of the records."""
    return self.records.fingerprint

  @property
  def num_batches(self) -> int:
    """Batches in one pass, the last one filled up from the beginning."""
    return -(-len(self.records) // self.batch_size)

  def records_of(self, step: int) -> list[int]:
    """Which records are in the global batch of a step, counted from 1."""
    return self.records_at(np.arange((step - 1) * self.batch_size, step * self.batch_size))

  def records_at(self, positions) -> list[int]:
    """Which records are at these positions of the run."""
    return [int(index) for index in self._order(positions)]

  def task(self, name: str, positions, first_step: int) -> seqio.Task:
    """The task whose examples are those at positions(step) for each step from `first_step` on."""
    source = RecordSource(self.records, self._order, positions, first_step)
    return self._task.replace(name=name, source=source)

  def batches(self, first_step: int, rows=None) -> Iterator[dict[str, np.ndarray]]:
    """The batches from `first_step` on, or these rows of them, without end: close it after use."""
    rows = np.arange(self.batch_size) if rows is None else rows
    task = self.task(self._task.name, lambda step: step * self.batch_size + rows, first_step)
    return _batches(task, self.records.split, len(rows))


class Mixture:
  """Batches of several Datasets at whole-number rates, with the calls of a Dataset.

  Of every sum(rates) positions, rates[i] show datasets[i], in an order that depends on their number
  and `seed` alone (`drawn`). Raises ValueError where there is not one rate for each, or where the
  datasets differ in the batch size, the split, the features of their examples or the makers of
  their tokens.
  """

  def __init__(self, *, datasets: tuple, rates: tuple[int, ...], seed: int):
    if len(rates) != len(datasets) or any(rate < 1 for rate in rates):
      wanted = f"a whole number from 1 on for each of {len(datasets)} datasets"
      raise ValueError(f"rates: wanted {wanted}, got {rates}")
    for name, value in (
      ("batch_size", lambda each: each.batch_size),
      ("split", lambda each: each.records.split),
      ("examples", lambda each: {key: str(x) for key, x in each.shapes.items()}),
    ):
      _same(datasets, name, value)
    self.batch_size, self.shapes = datasets[0].batch_size, datasets[0].shapes
    self.provenance = merged([(d.records.directory, d.provenance) for d in datasets])
    self._datasets, self._rates, self._seed = datasets, rates, seed

  @property
  def fingerprint(self) -> str:
    """Names the files of the records."""
    return " ".join(dataset.fingerprint for dataset in self._datasets)

  @property
  def num_batches(self) -> int:
    """Batches until every record of every dataset was there at least once."""
    passes = (-(-len(d.records) // rate) for d, rate in zip(self._datasets, self._rates))
    return -(-max(passes) * sum(self._rates) // self.batch_size)

  def records_of(self, step: int) -> list[tuple[str, int]]:
    """Which records are in the global batch of a step, counted from 1: (data set, record)."""
    rows = np.arange((step - 1) * self.batch_size, step * self.batch_size)
    found = []
    for which, at in zip(*drawn(self._rates, self._seed, rows)):
      dataset = self._datasets[which]
      (record,) = dataset.records_at([self._begin(which) + at])
      found.append((dataset.records.directory, record))
    return found

  def _begin(self, index: int) -> int:
    """Where a dataset begins in its order: elsewhere than the others, as two of the same records
    must not show the same clip, cropped alike, side by side.
    """
    return index * _EPOCH_OFFSET * len(self._datasets[index].records)

  def batches(self, first_step: int, rows=None) -> Iterator[dict[str, np.ndarray]]:
    """The batches from `first_step` on, or these rows of them, without end: close it after use."""
    rows = np.arange(self.batch_size) if rows is None else rows

    def choices(step):
      return drawn(self._rates, self._seed, int(step) * self.batch_size + rows)[0]

    def task(index):
      def positions(step):
        which, at = drawn(self._rates, self._seed, step * self.batch_size + rows)
        return self._begin(index) + at[which == index]

      # SeqIO sorts the tasks of a mixture by their names.
      return self._datasets[index].task(f"dataset_{index:04}", positions, first_step)

    def choose(examples, rates, seed):
      del rates, seed
      steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
      which = steps.map(lambda step: tf.numpy_function(choices, [step], tf.int64, stateful=False))
      which = which.map(lambda x: tf.ensure_shape(x, [len(rows)])).unbatch()
      return tf.data.Dataset.choose_from_datasets(examples, which)

    tasks = [(task(index), rate) for index, rate in enumerate(self._rates)]
    mixture = seqio.Mixture("mixture", tasks, sample_fn=choose)
    return _batches(mixture, self._datasets[0].records.split, len(rows))


def drawn(rates: tuple[int, ...], seed: int, positions) -> tuple[np.ndarray, np.ndarray]:
  """(which dataset, how many of it came before), both int64 [count], of positions [count].

  Positions are taken in blocks of sum(rates); each block is a permutation of rates[i] times i. So
  with rates (2, 1) and blocks [0 1 0] [1 0 0], position 4 is (0, 2).
  """
  blocks, places = np.divmod(np.asarray(positions, np.int64), sum(rates))
  known, block = np.unique(blocks, return_inverse=True)
  each = np.repeat(np.arange(len(rates)), rates)
  orders = np.stack([np.random.default_rng((seed, int(k), 2)).permutation(each) for k in known])
  earlier = np.tril(orders[:, :, None] == orders[:, None, :], -1).sum(axis=-1)
  which = orders[block, places]
  return which, blocks * np.array(rates)[which] + earlier[block, places]


def _same(datasets: tuple, name: str, value) -> None:
  """What `value` gives must be the same of all the datasets of a mixture."""
  first = datasets[0]
  for other in datasets[1:]:
    if value(other) != value(first):
      raise ValueError(
        f"mixture: {other.records.directory} has {name} {value(other)}, "
        f"{first.records.directory} {value(first)}"
      )


def _batches(provider: seqio.Task | seqio.Mixture, split: str, rows: int) -> Iterator:
  examples = provider.get_dataset(split=split, **_ENDLESS)
  return _closable(examples.batch(rows, drop_remainder=True).prefetch(2))


def _closable(dataset: tf.data.Dataset) -> Iterator:
  """The elements as numpy, by a generator, which can be closed.

  An iterator of TensorFlow that is still open when Python ends waits for threads that need Python.
  """
  yield from dataset.as_numpy_iterator()
