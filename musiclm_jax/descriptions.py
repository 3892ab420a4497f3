"""Modules and dataclasses as JSON, and back: what model.json holds."""

import dataclasses
import importlib

import flax.linen as nn

_PACKAGE = __name__.split(".")[0]
# Fields that change how a module computes, and its results by rounding alone.
_COMPUTATION = ("attention", "query_block", "remat", "unroll")


def describe(value):
  """JSON of a module, dataclass, tuple or plain value; `build` makes the value from it again.

  >>> describe(Stream("semantic", "semantic", 25.0, 0, 1, 1024))
  {"class": "musiclm_jax.tokens.Stream", "name": "semantic", "source": "semantic", ...}
  """
  if isinstance(value, nn.Module) or dataclasses.is_dataclass(value):
    cls = type(value)
    linen = ("parent", "name") if isinstance(value, nn.Module) else ()
    names = [f.name for f in dataclasses.fields(value) if f.name not in linen]
    fields = {name: describe(getattr(value, name)) for name in names}
    return {"class": f"{cls.__module__}.{cls.__qualname__}", **fields}
  if isinstance(value, tuple | list):
    return [describe(v) for v in value]
  return value


def build(description):
  """The value that `describe` described.

  Raises ValueError for a class outside this package or one that it does not have, TypeError where
  the fields are not those of the class, KeyError where no class is named.
  """
  if isinstance(description, list):
    return tuple(build(d) for d in description)
  if not isinstance(description, dict):
    return description
  fields = {name: build(d) for name, d in description.items() if name != "class"}
  module, _, name = description["class"].rpartition(".")
  if module.split(".")[0] != _PACKAGE:
    raise ValueError(f"model.json names {description['class']}, which is not of {_PACKAGE}")
  cls = getattr(importlib.import_module(module), name, None)
  if cls is None:
    raise ValueError(f"model.json names {description['class']}, which this version does not have")
  return cls(**fields)


def without_computation(description):
  """A description without the fields of how a module computes."""
  if isinstance(description, dict):
    items = description.items()
    return {name: without_computation(d) for name, d in items if name not in _COMPUTATION}
  if isinstance(description, list):
    return [without_computation(d) for d in description]
  return description


def difference(wanted: dict, found: dict, wanted_by: str, found_in: str) -> str:
  """One line about how two {name: shape} differ, with at most five names of each kind."""

  def some(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

  missing = sorted(set(wanted) - set(found))
  extra = sorted(set(found) - set(wanted))
  other = [
    f"{n} {found[n]} instead of {wanted[n]}"
    for n in sorted(set(wanted) & set(found))
    if wanted[n] != found[n]
  ]
  clauses = [
    f"{found_in} lacks {some(missing)}" if missing else "",
    f"{found_in} has {some(extra)}, which {wanted_by} has not" if extra else "",
    f"{found_in} has {some(other)}" if other else "",
  ]
  return "; ".join(clause for clause in clauses if clause)
