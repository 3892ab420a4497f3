"""When a training is not well: steps that are skipped, and metrics under their floors."""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import jax

from musiclm_jax.ranges import NonNegativeInt


@dataclasses.dataclass(frozen=True)
class Limits:
  """A run ends after `skipped` steps in a row whose loss or gradient is not finite, and where a
  metric, at a log, is under its floor: `floors` maps names of metrics to (the least value that is
  healthy, what is wrong below it).
  """

  skipped: NonNegativeInt
  floors: dict[str, tuple[float, str]]


class Health:
  """Watches the steps of a run.

  A skipped step is written to MODEL_DIR/skipped.jsonl with its records, which records_of(step)
  names. Steps are looked at when the next one has been started, so that nothing waits for it.
  """

  def __init__(self, limits: Limits, model_dir: str, records_of: Callable[[int], list]):
    self._limits, self._records_of = limits, records_of
    self._path = pathlib.Path(model_dir, "skipped.jsonl")
    self._pending: tuple[int, jax.Array] | None = None
    self._in_a_row = 0

  def observe(self, step: int, skipped: jax.Array) -> None:
    """Takes the flag of a step that was just started, and waits for that of the one before it.

    Raises ValueError where that was one skipped step in a row too many.
    """
    self.finish()
    self._pending = step, skipped

  def finish(self) -> None:
    """Waits for the last step."""
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
        file.write(json.dumps({"step": step, "records": self._records_of(step)}) + "\n")
    if self._in_a_row >= self._limits.skipped:
      raise ValueError(
        f"step {step}: the loss or its gradient was not finite in {self._in_a_row} steps in a row,"
        f" which {self._path} lists with their records; lower the learning rate"
      )

  def check(self, step: int, means: dict[str, float]) -> None:
    """Raises ValueError where one of the means of some steps is under its floor."""
    for name, (floor, diagnosis) in self._limits.floors.items():
      if name not in means and means["skipped"] < 1:
        raise ValueError(f"floors name {name!r}, which is no metric; there are {sorted(means)}")
      if name in means and not means[name] >= floor:
        raise ValueError(f"step {step}: {diagnosis}: {name} is {means[name]:.3g}, under {floor:g}")
