"""Rows through a function in batches of one shape, so that it is compiled once."""

import functools

import jax
import numpy as np

from musiclm_jax import partitioning


class Weights:
  """Arrays {name: array} of a network, `alone` on the first device and `everywhere`, a copy on each
  device of this process.
  """

  def __init__(self, arrays: dict):
    self.alone = jax.device_put(arrays)

  @functools.cached_property
  def everywhere(self) -> dict[str, jax.Array]:
    """Made when it is first asked for."""
    return jax.device_put(self.alone, partitioning.replicated(partitioning.local_mesh()))


def on_devices(network, weights: Weights, rows: np.ndarray, size: int) -> np.ndarray:
  """`network(arrays, rows)` of all rows [n, ...], n > 0, as `in_batches`: on each device of this
  process `size` at a time, or on one alone where they are no more.
  """
  mesh = partitioning.local_mesh()
  if mesh.size == 1 or len(rows) <= size:
    return in_batches(lambda x: network(weights.alone, x), rows, size)
  split = partitioning.batch_sharding(mesh)
  return in_batches(
    lambda x: network(weights.everywhere, jax.device_put(x, split)), rows, size * mesh.size
  )


def in_batches(function, rows: np.ndarray, size: int) -> np.ndarray:
  """`function` of all rows [n, ...], n > 0, `size` at a time; its results [n, ...].

  The last batch is filled up with copies of its last row, whose results are left out.
  """
  results = []
  for start in range(0, len(rows), size):
    some = rows[start : start + size]
    filled = np.pad(some, [(0, size - len(some))] + [(0, 0)] * (some.ndim - 1), mode="edge")
    results.append(np.asarray(function(filled))[: len(some)])
  return np.concatenate(results)


def whole_windows(waveforms: np.ndarray, samples: int) -> np.ndarray:
  """The windows [clips, windows, samples] that follow each other in waveforms [clips, n].

  What is left at the end is left out. Raises ValueError where the clips are shorter than one.
  """
  count = waveforms.shape[1] // samples
  if not count:
    raise ValueError(f"wanted clips of {samples} samples or more, found {waveforms.shape[1]}")
  return waveforms[:, : count * samples].reshape(len(waveforms), count, samples)
