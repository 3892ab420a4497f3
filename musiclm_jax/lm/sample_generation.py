"""Music of fixed prompts while a model trains, which shows more than a loss."""

import contextlib
import dataclasses
import pathlib

import flax.linen as nn
import jax
import numpy as np

from musiclm_jax import audio, partitioning
from musiclm_jax.lm.composer import Composer
from musiclm_jax.lm.prompts import read_prompts
from musiclm_jax.ranges import NonNegativeInt, PositiveFloat, Seed
from musiclm_jax.training.progress import due
from musiclm_jax.training.protocols import Run
from musiclm_jax.training.step import Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class SampleGeneration:
  """Every `period` steps (0: never) `seconds` of music for each line of the file `prompts`.

  The parts of `bundle` generate it; the model that trains replaces its own part of them. Raises
  ValueError where the period has no bundle or no prompts.
  """

  period: NonNegativeInt
  bundle: str
  prompts: str
  seconds: PositiveFloat
  seed: Seed

  def __post_init__(self):
    if self.period:
      if not (self.bundle and self.prompts):
        raise ValueError("--sample_period needs --sample_bundle and --sample_prompts too")
      read_prompts(self.prompts)

  @contextlib.contextmanager
  def start(self, run: Run):
    """A hook that writes the music to MODEL_DIR/samples/STEP_PROMPT.wav and to TensorBoard.

    Raises ValueError where the bundle is incomplete, or has no part that the model can replace.
    """
    if not self.period:
      yield lambda step, state, metrics: None
      return
    samples = Samples(self, run.program.model) if jax.process_index() == 0 else None

    def hook(step: int, state: TrainState, metrics: Metrics) -> None:
      if not due(step, self.period):
        return
      with run.progress.excluded_from_timing(state):
        variables = partitioning.to_host(state.variables)
        if samples is not None:
          music = samples(variables)
          _write(run, step, music, samples.sample_rate)

    yield hook


class Samples:
  """Music for the prompts, by the parts of a bundle with `module` in the place of one of them."""

  def __init__(self, settings: SampleGeneration, module: nn.Module):
    self._settings, self._module = settings, module
    self._composer = Composer(settings.bundle)
    self._composer.role(module)
    self.sample_rate = self._composer.sample_rate  # Hz

  def __call__(self, variables: dict) -> np.ndarray:
    """Waveforms [prompts, samples] float32, the module having these values."""
    settings = self._settings
    self._composer.replace(self._module, variables)
    with partitioning.use(None):
      prompts = read_prompts(settings.prompts)
      return self._composer.waveforms(prompts, settings.seconds, settings.seed)


def _write(run: Run, step: int, waveforms: np.ndarray, sample_rate: int) -> None:
  folder = pathlib.Path(run.model_dir, "samples")
  for index, waveform in enumerate(waveforms):
    audio.write(str(folder / f"{step:06}_{index:02}.wav"), waveform, sample_rate)
    run.progress.audio(step, f"samples/{index:02}", waveform, sample_rate)
  run.progress.line(f"{step}/{run.total_steps}  {len(waveforms)} x music in {folder}")
