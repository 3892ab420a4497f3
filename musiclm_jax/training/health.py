"""Ends a training that has failed: steps that are skipped, and metrics below their floors."""

import contextlib
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp

from musiclm_jax.ranges import NonNegativeInt, PositiveInt
from musiclm_jax.training.progress import due, means
from musiclm_jax.training.protocols import Run
from musiclm_jax.training.step import Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Limits:
  """A run ends after `skipped` steps in a row whose loss or gradient is not finite, and where the
  mean of a metric over `period` steps (0: over all steps) is below its floor: `floors` maps names
  of metrics to (the least healthy value, what is wrong below it).
  """

  skipped: PositiveInt
  floors: dict[str, tuple[float, str]]
  period: NonNegativeInt

  @contextlib.contextmanager
  def start(self, run: Run):
    """The hook that ends the run, by a ValueError, beyond these limits."""
    health = Health(self, run)
    yield health.observe
    health.finish()


class Health:
  """Observes the steps of a run.

  A skipped step is written to MODEL_DIR/skipped.jsonl with its records. A step is checked when the
  next one has been started, so that the devices never wait for the check.
  """

  def __init__(self, limits: Limits, run: Run):
    self._limits, self._run = limits, run
    self._path = pathlib.Path(run.model_dir, "skipped.jsonl")
    self._pending: tuple[int, jax.Array] | None = None
    self._in_a_row = 0
    self._sums: Metrics = {}

  def observe(self, step: int, state: TrainState, metrics: Metrics) -> None:
    """Takes the metrics of a step that was just started, and waits for the step before it.

    Raises ValueError where that was one skipped step in a row too many, where a mean is below its
    floor, and where a floor is that of no metric.
    """
    del state
    self.finish()
    self._pending = step, metrics["skipped"][0]
    if unknown := sorted(set(self._limits.floors) - set(metrics)):
      raise ValueError(f"floors: no metric {unknown[0]!r}; there are {sorted(metrics)}")
    added = {name: metrics[name] for name in self._limits.floors}
    self._sums = jax.tree.map(jnp.add, self._sums, added) if self._sums else added
    if due(step, self._limits.period) or step == self._run.total_steps:
      self._check(step)

  def finish(self) -> None:
    """Waits for the last step. Raises ValueError where it was one skipped step too many."""
    if self._pending is None:
      return
    step, skipped = self._pending
    self._pending = None
    if not float(skipped):
      self._in_a_row = 0
      return
    self._in_a_row += 1
    if jax.process_index() == 0:
      with self._path.open("a") as file:
        line = {"step": step, "records": self._run.data.records_of(step)}
        file.write(json.dumps(line) + "\n")
    if self._in_a_row >= self._limits.skipped:
      raise ValueError(
        f"step {step}: the loss or its gradient was not finite in {self._in_a_row} steps in a row,"
        f" which {self._path} lists with their records; lower the learning rate"
      )

  def _check(self, step: int) -> None:
    """Raises ValueError where a mean since the last check is below its floor."""
    found, self._sums = means(self._sums), {}
    for name, value in found.items():
      floor, diagnosis = self._limits.floors[name]
      if not value >= floor:
        raise ValueError(f"step {step}: {diagnosis}: {name} is {value:.3g}, below {floor:g}")
