"""Trained parts in use: load one and call its methods, compiled; nothing trains it further."""

import functools

import flax.linen as nn
import jax

from musiclm_jax import part_files
from musiclm_jax.tokenizers import inputs, pretrained, protocols


class Frozen:
  """A trained module with its weights.

  Calling it runs one of the module's methods: `codec("encode", waveform)`. Arrays are positional;
  keyword arguments are static. Each method is compiled once per shape. Raises ValueError for a
  method that the part does not have and for an array that does not fit it: `inputs.check`.
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

    The results of the pieces, concatenated, are those of one call on the whole stream.
    """
    inputs.check(self.module, method, arrays)
    return _resume(self.module, method, self.variables, state, *arrays)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(module, method, static, variables, *arrays):
  return module.apply(variables, *arrays, method=method, **dict(static))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _resume(module, method, variables, state, *arrays):
  return module.apply({**variables, **state}, *arrays, method=method, mutable=["stream"])


def load(directory: str, kind: type | None = None) -> Frozen | pretrained.TorchPart:
  """The part in a finished or imported model directory, or in a folder of a bundle.

  `kind` is one of `protocols`, None for any. Raises ValueError, naming the directory, where it
  holds no finished model, or one of another kind.
  """
  module, variables, provenance = part_files.read_part(directory)
  if kind is not None:
    protocols.check_kind(module, kind, directory)
  wrapper = Frozen if isinstance(module, nn.Module) else pretrained.TorchPart
  return wrapper(module, variables, provenance, part_files.fingerprint(directory))
