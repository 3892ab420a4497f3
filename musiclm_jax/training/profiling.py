"""Profiles of some steps of a run, for TensorBoard's profile plugin and Perfetto."""

import dataclasses
import pathlib
import signal

import jax

from musiclm_jax.ranges import NonNegativeInt, PositiveInt


@dataclasses.dataclass(frozen=True)
class Window:
  """Which steps are profiled: `count` from step `first` on, 0 for none; and as many after each
  SIGUSR1.
  """

  first: NonNegativeInt
  count: PositiveInt


class Profiler:
  """Records the steps of a Window in MODEL_DIR/profile."""

  def __init__(self, window: Window, model_dir: str):
    self._window, self._directory = window, str(pathlib.Path(model_dir, "profile"))
    self._asked, self._last, self._previous = False, None, None

  def __enter__(self) -> "Profiler":
    self._previous = signal.signal(signal.SIGUSR1, self._ask)
    return self

  def __exit__(self, *exc):
    self._stop()
    signal.signal(signal.SIGUSR1, self._previous)

  def _ask(self, number, frame) -> None:
    self._asked = True

  def before(self, step: int) -> None:
    """To be called before each step: starts and stops recording."""
    if self._last is not None and step > self._last:
      self._stop()
    if self._last is None and (self._asked or step == self._window.first):
      self._asked, self._last = False, step + self._window.count - 1
      jax.profiler.start_trace(self._directory)

  def _stop(self) -> None:
    if self._last is not None:
      self._last = None
      jax.profiler.stop_trace()
