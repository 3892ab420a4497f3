"""What the methods of a trained part take, checked before they run.

Every part states its `methods`, {name: arrays}, in these terms. Values are checked in NumPy arrays
alone: an array on a device came from another part, and reading it would wait for the device.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from musiclm_jax import audio


@dataclasses.dataclass(frozen=True)
class Waveform:
  """float32 [batch, samples], mono."""

  def checks(self, x):
    """(whether it fits, what was wanted, what came); a check runs where those before it fit."""
    fits = x.ndim == 2 and x.dtype == np.float32
    yield fits, "a mono waveform [batch, samples] float32", _kind(x)
    yield x.shape[1] > 0, "a waveform of 1 sample or more", _kind(x)
    yield from _finite("samples", x)


@dataclasses.dataclass(frozen=True)
class Embeddings:
  """float32 or bfloat16 [..., dim]."""

  dim: int

  def checks(self, x):
    """As `Waveform.checks`."""
    fits = x.shape[-1:] == (self.dim,) and x.dtype.name in ("float32", "bfloat16")
    yield fits, f"embeddings [..., {self.dim}] float32", _kind(x)
    yield from _finite("embeddings", x)


@dataclasses.dataclass(frozen=True)
class Codes:
  """Integers [batch, frames, levels], the first levels of num_quantizers."""

  num_quantizers: int
  codebook_size: int

  def checks(self, x):
    """As `Waveform.checks`."""
    what = "codes [batch, frames, levels]"
    yield from _ids(what, 3, self.codebook_size, x)
    fits = 1 <= x.shape[-1] <= self.num_quantizers
    yield fits, f"{what} of 1..{self.num_quantizers} levels", _kind(x)


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Integers [batch, length]."""

  vocab_size: int

  def checks(self, x):
    """As `Waveform.checks`."""
    yield from _ids("tokens [batch, length]", 2, self.vocab_size, x)


@dataclasses.dataclass(frozen=True)
class Keys:
  """Random keys [batch], one for each row."""

  def checks(self, x):
    """As `Waveform.checks`."""
    yield x.ndim == 1 and str(x.dtype).startswith("key<"), "random keys [batch]", _kind(x)


Methods = Mapping[str, tuple[Waveform | Embeddings | Codes | Tokens | Keys, ...]]


def check(module, method: str, arrays: tuple) -> None:
  """Raises ValueError, one line of what was wanted and what came, where a part does not have the
  method or an array does not fit it.
  """
  name = type(module).__name__
  if method not in module.methods:
    raise ValueError(f"{name} has no method {method}; it has {', '.join(module.methods)}")
  for wanted_array, array in zip(module.methods[method], arrays, strict=True):
    for fits, wanted, found in wanted_array.checks(array):
      if not fits:
        raise ValueError(f"{name}.{method} wants {wanted}, found {found}")


def waveform(record: dict) -> np.ndarray:
  """The waveform [samples] float32 of an audio record.

  Raises ValueError, naming the record, where it is not mono int16.
  """
  samples = record["waveform"]
  if samples.dtype != np.int16 or samples.ndim != 1:
    name = record["id"].decode()
    raise ValueError(f"record {name}: wanted int16 [samples], found {_kind(samples)}")
  return audio.from_int16(samples)


def _finite(what: str, x):
  if isinstance(x, np.ndarray):
    finite = np.isfinite(x)
    index = np.unravel_index(finite.argmin(), x.shape) if x.size else ()
    yield finite.all(), f"finite {what}", f"{x[index]} at {list(map(int, index))}"


def _ids(what: str, rank: int, count: int, x):
  yield x.ndim == rank and np.issubdtype(x.dtype, np.integer), f"{what} of integers", _kind(x)
  if isinstance(x, np.ndarray) and x.size:
    low, high = int(x.min()), int(x.max())
    yield low >= 0 and high < count, f"{what} of 0..{count - 1}", f"{low}..{high}"


def _kind(x) -> str:
  return f"{x.dtype} {list(x.shape)}"
