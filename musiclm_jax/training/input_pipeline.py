"""Batches as a pure function of (seed, step); a host reads its own rows of them.

Nothing is replayed on resuming: `batches(first_step)` starts there. Changing the number of hosts
keeps the global order. TFDS directories are read by SeqIO, arrays by numpy alone.
"""

from collections.abc import Iterator

import numpy as np

from musiclm_jax import partitioning
from musiclm_jax.datasets import arrays
from musiclm_jax.datasets.manifest import merged, provenance
from musiclm_jax.quiet import quiet
from musiclm_jax.ranges import PositiveInt, Seed
from musiclm_jax.training import array_loader
from musiclm_jax.training.examples import Examples, Reading
from musiclm_jax.training.orders import EPOCH_OFFSET, drawn


def _open(directory: str, split: str):
  """(records, loader): a loader is a module with a function `batches`."""
  if arrays.is_here(directory):
    return arrays.Arrays(directory, split), array_loader
  with quiet():  # TensorFlow, imported only where it is needed
    from musiclm_jax.datasets.tfds_reader import Records
    from musiclm_jax.training import seqio_loader

  return Records(directory, split), seqio_loader


class Dataset:
  """Batches of one split for one model.

  `order` is one of orders.py: the record at each position. `parts` {role: directory} are those that
  the examples are made with; an empty one is ignored. What the examples read of token shards is
  compared with their manifest.
  """

  def __init__(
    self,
    *,
    directory: str,
    split: str,
    examples: Examples,
    order,
    batch_size: PositiveInt,
    seed: Seed,
    parts: dict[str, str],
  ):
    self.batch_size = batch_size
    parts = {role: part for role, part in parts.items() if part}
    self.records, self._loader = _open(directory, split)
    self.provenance = provenance(directory, examples.sources, parts)
    maker = examples.open(self.records, parts, seed)
    order = order(self.records, seed)
    self.reading = Reading(self.records, order, maker, examples.shapes)
    self.shapes = partitioning.batched(examples.shapes, batch_size)

  @property
  def fingerprint(self) -> str:
    """Names the content of the records."""
    return self.records.fingerprint

  @property
  def loader(self):
    """The module that makes its batches."""
    return self._loader

  @property
  def num_batches(self) -> int:
    """Batches in one pass, the last one filled up from the beginning."""
    return -(-len(self.records) // self.batch_size)

  def records_of(self, step: int) -> list[int]:
    """Which records are in the global batch of a step, counted from 1."""
    return self.records_at(np.arange((step - 1) * self.batch_size, step * self.batch_size))

  def records_at(self, positions) -> list[int]:
    """Which records are at these positions of the run."""
    return [int(index) for index in self.reading.order(positions)]

  def batches(self, first_step: int, rows=None) -> Iterator[dict[str, np.ndarray]]:
    """The batches from `first_step` on, or these rows of them, without end: close it after use."""
    rows = np.arange(self.batch_size) if rows is None else np.asarray(rows)

    def place(step: int):
      return np.zeros_like(rows), step * self.batch_size + rows

    return self._loader.batches((self.reading,), place, first_step, len(rows))


class Mixture:
  """Batches of several Datasets at whole-number rates, with the calls of a Dataset.

  Of every sum(rates) positions, rates[i] show datasets[i], in an order that depends on their number
  and `seed` alone (`orders.drawn`). Raises ValueError where there is not one rate for each, or
  where the datasets differ in the batch size, the split, the features of their examples, the makers
  of their tokens or the kind of their files.
  """

  def __init__(self, *, datasets: tuple[Dataset, ...], rates: tuple[PositiveInt, ...], seed: Seed):
    if len(rates) != len(datasets) or any(rate < 1 for rate in rates):
      wanted = f"a whole number from 1 on for each of {len(datasets)} datasets"
      raise ValueError(f"rates: wanted {wanted}, got {rates}")
    for name, value in (
      ("batch_size", lambda each: each.batch_size),
      ("split", lambda each: each.records.split),
      ("examples", lambda each: {key: str(x) for key, x in each.shapes.items()}),
      ("loader", lambda each: each.loader.__name__),
    ):
      _same(datasets, name, value)
    self.batch_size, self.shapes = datasets[0].batch_size, datasets[0].shapes
    self.provenance = merged([(d.records.directory, d.provenance) for d in datasets])
    self._datasets, self._rates, self._seed = datasets, rates, seed
    # Each begins at another place of its order, so that two of the same records never give the
    # same crop of the same clip in one batch.
    self._begins = np.array([i * EPOCH_OFFSET * len(d.records) for i, d in enumerate(datasets)])

  @property
  def fingerprint(self) -> str:
    """Names the content of the records."""
    return " ".join(dataset.fingerprint for dataset in self._datasets)

  @property
  def num_batches(self) -> int:
    """Batches until every record of every dataset was there at least once."""
    passes = (-(-len(d.records) // rate) for d, rate in zip(self._datasets, self._rates))
    return -(-max(passes) * sum(self._rates) // self.batch_size)

  def _place(self, rows) -> tuple[np.ndarray, np.ndarray]:
    """(which dataset, position in its order) of these rows of the run."""
    which, at = drawn(self._rates, self._seed, rows)
    return which, self._begins[which] + at

  def records_of(self, step: int) -> list[tuple[str, int]]:
    """Which records are in the global batch of a step, counted from 1: (data set, record)."""
    rows = np.arange((step - 1) * self.batch_size, step * self.batch_size)
    found = []
    for which, at in zip(*self._place(rows)):
      dataset = self._datasets[which]
      found.append((dataset.records.directory, *dataset.records_at([at])))
    return found

  def batches(self, first_step: int, rows=None) -> Iterator[dict[str, np.ndarray]]:
    """The batches from `first_step` on, or these rows of them, without end: close it after use."""
    rows = np.arange(self.batch_size) if rows is None else np.asarray(rows)
    readings = tuple(dataset.reading for dataset in self._datasets)

    def place(step: int):
      return self._place(step * self.batch_size + rows)

    return self._datasets[0].loader.batches(readings, place, first_step, len(rows))


def _same(datasets: tuple, name: str, value) -> None:
  """What `value` gives must be the same of all the datasets of a mixture."""
  first = datasets[0]
  for other in datasets[1:]:
    if value(other) != value(first):
      raise ValueError(
        f"mixture: {other.records.directory} has {name} {value(other)}, "
        f"{first.records.directory} {value(first)}"
      )
