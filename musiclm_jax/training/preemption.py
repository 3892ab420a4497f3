"""SIGTERM: how schedulers say that a job must go."""

import signal

import jax
from jax.experimental import multihost_utils


class PreemptionHandler:
  """Whether SIGTERM has come to any process of the job; all of them learn it at the same step."""

  def __init__(self):
    self._came, self._previous = False, None

  def __enter__(self) -> "PreemptionHandler":
    if jax.process_count() == 1:
      self._previous = signal.signal(signal.SIGTERM, self._note)
    return self

  def __exit__(self, *exc):
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def _note(self, number, frame) -> None:
    self._came = True

  def should_stop(self, step: int) -> bool:
    """Whether to save and end after this step."""
    if jax.process_count() == 1:
      return self._came
    # jax.distributed has a handler of its own, and agrees on a step that no process has passed.
    return multihost_utils.reached_preemption_sync_point(step)
