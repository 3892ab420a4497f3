"""SIGTERM, by which schedulers tell a job to end."""

import signal

import jax
from jax.experimental import multihost_utils


class PreemptionHandler:
  """Whether any process of the job has received SIGTERM; all processes stop at the same step."""

  def __init__(self):
    self._received, self._previous = False, None

  def __enter__(self) -> "PreemptionHandler":
    if jax.process_count() == 1:
      self._previous = signal.signal(signal.SIGTERM, self._receive)
    return self

  def __exit__(self, *exc):
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def _receive(self, number, frame) -> None:
    self._received = True

  def should_stop(self, step: int) -> bool:
    """Whether to save and end after this step: the same answer on every process."""
    if jax.process_count() == 1:
      return self._received
    # jax.distributed handles the signal itself, and agrees on a step that no process has passed.
    return multihost_utils.reached_preemption_sync_point(step)
