"""Music of fixed prompts while a model trains: what a loss does not say can be heard."""

import dataclasses
import functools

import flax.linen as nn
import numpy as np

from musiclm_jax import partitioning
from musiclm_jax.lm.generate import read_prompts
from musiclm_jax.lm.generation import Composer
from musiclm_jax.lm.sampling import Sampling
from musiclm_jax.ranges import NonNegativeInt, PositiveFloat, Seed


@dataclasses.dataclass(frozen=True)
class SampleGeneration:
  """Every `period` steps (0: never) `seconds` of music for each line of the file `prompts`.

  The parts of `bundle` make it, the model that trains in the place of its own.
  """

  period: NonNegativeInt
  bundle: str
  prompts: str
  seconds: PositiveFloat
  seed: Seed
  samplings: tuple[Sampling, ...]

  def due(self, step: int) -> bool:
    """Whether there is music after this step."""
    return bool(self.period) and step % self.period == 0

  def check(self, module: nn.Module) -> None:
    """Raises ValueError where there will be no music of this module: before the first step."""
    if not self.period:
      return
    if not (self.bundle and self.prompts):
      raise ValueError("--audition_period wants --audition_bundle and --audition_prompts too")
    self._composer.role(module)
    read_prompts(self.prompts)

  def __call__(self, module: nn.Module, variables: dict) -> tuple[np.ndarray, int]:
    """(waveforms [prompts, samples] float32, Hz) of a module with these values."""
    composer = self._composer
    composer.replace(module, variables)
    with partitioning.use(None):
      music = composer.waveforms(read_prompts(self.prompts), self.seconds, self.seed)
    return music, composer.sample_rate

  @functools.cached_property
  def _composer(self) -> Composer:
    return Composer(self.bundle, self.samplings)
