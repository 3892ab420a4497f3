"""Batches of arrays with numpy alone: the same examples as those of seqio_loader.py."""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from musiclm_jax.training.examples import Reading

_AHEAD = 4  # batches that are made, each by a thread, while the device works


def batches(
  readings: tuple[Reading, ...], place: Callable, first_step: int, rows: int
) -> Iterator[dict[str, np.ndarray]]:
  """Batches of `rows` examples from `first_step` on, without end: close it after use.

  place(step) gives (which reading, position in its order), [rows] each.
  """

  def example(which: int, position: int) -> dict[str, np.ndarray]:
    reading = readings[which]
    (index,) = reading.order(np.array([position]))
    return reading.maker.make(reading.records.record(int(index)), int(position))

  def batch(step: int) -> dict[str, np.ndarray]:
    made = [example(which, position) for which, position in zip(*place(step))]
    shapes = readings[0].shapes
    return {name: np.stack([each[name] for each in made]) for name in shapes}

  with ThreadPoolExecutor(_AHEAD) as executor:
    step = first_step
    pending = collections.deque()
    while True:
      while len(pending) < _AHEAD:
        pending.append(executor.submit(batch, step))
        step += 1
      yield pending.popleft().result()
