"""What the trainer asks of its data, and of the hooks that it calls after each step."""

import dataclasses
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Protocol

import jax
import numpy as np

from musiclm_jax.training.progress import Progress
from musiclm_jax.training.step import Metrics, Program, TrainState


class Data(Protocol):
  """Batches of one split: a function of the step alone, the same on every process.

  shapes {name: global batch of rows, ...}; `fingerprint` identifies the records, `provenance` the
  tokenizers and parts that made them; `num_batches` are one pass.
  """

  shapes: dict[str, jax.ShapeDtypeStruct]
  fingerprint: str
  provenance: dict
  num_batches: int

  def batches(self, first_step: int, rows: np.ndarray) -> Generator[dict[str, np.ndarray]]:
    """These rows [count] of each global batch from `first_step` (counted from 0), without end."""

  def records_of(self, step: int) -> list:
    """Which records are in the global batch of a step, counted from 1: as JSON."""


class Hook(Protocol):
  """Called after each step, on every process of the job, in the order of the hooks.

  `metrics` are {name: (sum, weight)} of this step, on the devices: reading one waits for the step.
  The memory of `state` is reused by the next step, so a hook keeps none of it. A ValueError ends
  the run.
  """

  def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
    """After step `step`, counted from 1."""


@dataclasses.dataclass(frozen=True)
class Run:
  """What a hook may know about a run before its first step."""

  program: Program
  data: Data
  model_dir: str
  first_step: int  # 1, or where the run continues
  total_steps: int
  progress: Progress


class HookSettings(Protocol):
  """What gin binds: the settings of a hook, from which each run makes its own."""

  def start(self, run: Run) -> AbstractContextManager[Hook]:
    """The hook, for the time from before the first step until after the last one.

    Raises ValueError where the settings do not fit the run.
    """
