"""Several takes of a prompt, of which the one that fits it best is kept."""

import numpy as np

from musiclm_jax.lm.composer import Composer, fold_in, prompt_keys
from musiclm_jax.lm.prompts import Asked


def best_of(
  composer: Composer,
  prompts: list[Asked],
  seconds: float,
  seed: int,
  takes: int,
  keys=None,
  **wanted,
) -> np.ndarray:
  """Music [batch, samples] as of `Composer.waveforms`: of `takes` takes of each prompt the one that
  MuLan finds nearest to the prompt. The first take is that of `waveforms`; `wanted` are its other
  arguments.
  """
  keys = prompt_keys(prompts, seed) if keys is None else keys
  best, highest = None, np.full(len(prompts), -np.inf)
  for take in range(takes):
    own = fold_in(keys, take) if take else keys
    music = composer.waveforms(prompts, seconds, seed, keys=own, **wanted)
    if takes == 1:
      return music
    found = composer.agreement(prompts, music)
    better = found > highest
    best = music if best is None else np.where(better[:, None], music, best)
    highest = np.maximum(found, highest)
  return best
