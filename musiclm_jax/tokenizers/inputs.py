"""What a trained part may be given, checked before it runs: by the names of its arguments.

A `waveform` is float32 [batch, samples], `embeddings` are [..., dim], `codes` [batch, frames,
levels] and `tokens` [batch, length], whatever the part and the method. Values are looked at where
they lie on the host, in NumPy arrays: what comes from a device came from a part, and stays there.
"""

import dataclasses
import inspect

import numpy as np

from musiclm_jax import audio


def check(module, method: str, arrays: tuple) -> None:
  """Raises ValueError, one line of what was wanted and what came, where an array does not fit."""
  names = inspect.signature(getattr(type(module), method)).parameters
  names = [name for name in names if name in _CHECKS]
  for name, array in zip(names, arrays):
    for fits, wanted, found in _CHECKS[name](module, array):
      if not fits:
        raise ValueError(f"{type(module).__name__}.{method} wants {wanted}, found {found}")


def sample_rate(module) -> int | None:
  """Hz of the waveforms of a part, its own or that of its spectrograms; None where it has none."""
  parts = [getattr(module, field.name) for field in dataclasses.fields(module)]
  rates = [getattr(part, "sample_rate", None) for part in (module, *parts)]
  return next((rate for rate in rates if rate), None)


def waveform(record: dict) -> np.ndarray:
  """The waveform [samples] float32 of an audio record.

  Raises ValueError, naming the record, where it holds another than a mono one of int16.
  """
  samples = record["waveform"]
  if samples.dtype != np.int16 or samples.ndim != 1:
    name = record["id"].decode()
    raise ValueError(f"record {name}: wanted int16 [samples], found {_kind(samples)}")
  return audio.from_int16(samples)


# Each check is looked at only where those before it fit.


def _waveform(module, x):
  fits = x.ndim == 2 and x.dtype == np.float32
  yield fits, "a mono waveform [batch, samples] float32", _kind(x)
  yield x.shape[1] > 0, "a waveform of 1 sample or more", _kind(x)
  yield from _finite("samples", x)


def _embeddings(module, x):
  dim = module.quantizer.dim
  fits = x.shape[-1:] == (dim,) and x.dtype.name in ("float32", "bfloat16")
  yield fits, f"embeddings [..., {dim}] float32", _kind(x)
  yield from _finite("embeddings", x)


def _codes(module, x):
  yield from _ids("codes [batch, frames, levels]", 3, module.quantizer.codebook_size, x)


def _tokens(module, x):
  yield from _ids("tokens [batch, length]", 2, getattr(module, "text_tower", module).vocab_size, x)


def _finite(what: str, x):
  if isinstance(x, np.ndarray):
    finite = np.isfinite(x)
    place = np.unravel_index(finite.argmin(), x.shape) if x.size else ()
    yield finite.all(), f"finite {what}", f"{x[place]} at {list(map(int, place))}"


def _ids(what: str, rank: int, count: int, x):
  yield x.ndim == rank and np.issubdtype(x.dtype, np.integer), f"{what} of integers", _kind(x)
  if isinstance(x, np.ndarray) and x.size:
    low, high = int(x.min()), int(x.max())
    yield low >= 0 and high < count, f"{what} of 0..{count - 1}", f"{low}..{high}"


def _kind(x) -> str:
  return f"{x.dtype} {list(x.shape)}"


_CHECKS = {"waveform": _waveform, "embeddings": _embeddings, "codes": _codes, "tokens": _tokens}
