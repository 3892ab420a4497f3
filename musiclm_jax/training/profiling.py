"""Profiles of some steps of a run, for TensorBoard's profile plugin and Perfetto."""

import contextlib
import dataclasses
import pathlib
import signal

import jax

from musiclm_jax.ranges import NonNegativeInt, PositiveInt
from musiclm_jax.training.protocols import Run
from musiclm_jax.training.step import Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Window:
  """Profiles `count` steps from step `first` on (0: none), and as many after each SIGUSR1."""

  first: NonNegativeInt
  count: PositiveInt

  @contextlib.contextmanager
  def start(self, run: Run):
    """The hook that records these steps in MODEL_DIR/profile."""
    profiler = Profiler(self, run.model_dir)
    previous = signal.signal(signal.SIGUSR1, profiler.request)
    try:
      profiler.before(run.first_step)
      yield profiler
    finally:
      profiler.stop()
      signal.signal(signal.SIGUSR1, previous)


class Profiler:
  """Records the steps of a Window."""

  def __init__(self, window: Window, model_dir: str):
    self._window, self._directory = window, str(pathlib.Path(model_dir, "profile"))
    self._requested, self._last = False, None

  def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
    """Ends a recording whose last step this is, and starts one whose first step is the next."""
    if step == self._last:
      jax.block_until_ready(metrics)
      self.stop()
    self.before(step + 1)

  def before(self, step: int) -> None:
    """Starts a recording where it begins with this step."""
    if self._last is None and (self._requested or step == self._window.first):
      self._requested, self._last = False, step + self._window.count - 1
      jax.profiler.start_trace(self._directory)

  def request(self, number, frame) -> None:
    """A signal handler: records the next steps."""
    self._requested = True

  def stop(self) -> None:
    """Ends a recording, if there is one."""
    if self._last is not None:
      self._last = None
      jax.profiler.stop_trace()
