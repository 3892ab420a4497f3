"""The order in which a training reads records: a record for each position of the run.

An order is a function of (records, seed) to a function from positions [count] to record numbers
[count], so that a batch depends on the seed and its step alone.
"""

import functools
from collections.abc import Callable

import numpy as np

EPOCH_OFFSET = 2**24  # epochs between the datasets of a mixture; even, so that pairs stay pairs

Order = Callable[[np.ndarray], np.ndarray]


def shuffled(records, seed: int) -> Order:
  """Order of training on single records: a new permutation in each epoch."""
  size = len(records)

  @functools.lru_cache(maxsize=2)
  def permutation(epoch: int):
    return np.random.default_rng((seed, epoch)).permutation(size)

  def order(positions):
    return np.array([permutation(int(p) // size)[int(p) % size] for p in positions])

  return order


def sequential(records, seed: int) -> Order:
  """The records in their own order, again and again: for evaluation."""
  del seed
  return lambda positions: positions % len(records)


def melody_pairs(records, seed: int) -> Order:
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
