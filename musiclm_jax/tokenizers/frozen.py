"""Trained models at work: load a part, call its methods, compiled, never trained again."""

import functools

import flax.linen as nn
import jax

from musiclm_jax import part_files
from musiclm_jax.tokenizers import inputs, pretrained


class Frozen:
  """A trained module with its weights.

  Calling it runs one of the module's methods: `codec("encode", waveform)`. Arrays are positional;
  keyword arguments are static. Each method is compiled once per shape. Raises ValueError for
  what the method cannot take: `inputs.check`.
  """

  def __init__(self, module, variables, provenance=None, fingerprint=""):
    self.module = module
    self.variables = jax.device_put(variables)
    self.provenance = provenance or {}
    self.fingerprint = fingerprint

  def __call__(self, method: str, *arrays, **static):
    inputs.check(self.module, method, arrays)
    return _apply(self.module, method, tuple(sorted(static.items())), self.variables, *arrays)

  def resume(self, method: str, state: dict, *arrays):
    """(result, next state) of a causal method on the next piece of a stream; state {} starts one.

    The results of the pieces, one behind the other, are those of a call on the whole.
    """
    inputs.check(self.module, method, arrays)
    return _resume(self.module, method, self.variables, state, *arrays)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(module, method, static, variables, *arrays):
  return module.apply(variables, *arrays, method=method, **dict(static))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _resume(module, method, variables, state, *arrays):
  return module.apply({**variables, **state}, *arrays, method=method, mutable=["stream"])


def load(directory: str) -> Frozen | pretrained.TorchPart:
  """The model of a part: a finished or imported model directory, or a folder of a bundle.

  Raises ValueError where the directory holds no finished model.
  """
  module, variables, provenance = part_files.read_part(directory)
  kind = Frozen if isinstance(module, nn.Module) else pretrained.TorchPart
  return kind(module, variables, provenance, part_files.fingerprint(directory))
