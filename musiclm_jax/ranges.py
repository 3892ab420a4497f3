"""Types of settings with the range of their numbers: `batch_size: PositiveInt`.

The command line checks every value against the annotation of its parameter before a job starts.
"""

import dataclasses
import math
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Literal, NamedTuple, Union, get_args, get_origin

_LITERALS = (bool, int, float, str, bytes, tuple, list, dict, NoneType)


class Range(NamedTuple):
  """The numbers for which `holds`; `text` describes them in messages."""

  text: str
  holds: Callable[[float], bool]


PositiveInt = Annotated[int, Range("of 1 or more", lambda x: x >= 1)]
NonNegativeInt = Annotated[int, Range("of 0 or more", lambda x: x >= 0)]
Seed = Annotated[int, Range("from 0 to 2**63 - 1", lambda x: 0 <= x < 2**63)]
PositiveFloat = Annotated[float, Range("above 0", lambda x: x > 0)]
NonNegativeFloat = Annotated[float, Range("of 0 or more", lambda x: x >= 0)]
Fraction = Annotated[float, Range("from 0 to 1", lambda x: 0 <= x <= 1)]


def fits(value, kind) -> bool:
  """Whether a literal is of an annotated type; a float is any finite number.

  Anything else than a literal fits. No literal fits a dataclass, which modules are too, and any
  fits another type that has no literals.
  """
  base, args = get_origin(kind) or kind, get_args(kind)
  if type(value) not in _LITERALS:
    return True
  if base is Annotated:
    return fits(value, args[0]) and all(r.holds(value) for r in args[1:] if isinstance(r, Range))
  if base is Literal:
    return value in args
  if base in (Union, UnionType):
    return any(fits(value, arg) for arg in args)
  if base in (tuple, list):
    if not isinstance(value, tuple | list):
      return False
    items = args[:1] * len(value) if base is list or ... in args else args
    return not items or (len(items) == len(value) and all(map(fits, value, items)))
  if base is dict:
    return isinstance(value, dict) and all(fits(item, args[-1]) for item in value.values() if args)
  if base is float:
    return type(value) in (int, float) and math.isfinite(value)
  return type(value) is base if base in _LITERALS else not dataclasses.is_dataclass(base)


def describe(kind) -> str:
  """A type as messages name it: `int of 1 or more | None`."""
  base, args = get_origin(kind) or kind, get_args(kind)
  if base is Annotated:
    return " ".join([args[0].__name__, *(r.text for r in args[1:] if isinstance(r, Range))])
  if base in (Union, UnionType):
    return " | ".join(map(describe, args))
  if base is Literal:
    return f"one of {', '.join(map(repr, args))}"
  if args:
    return f"{base.__name__}[{', '.join('...' if a is ... else describe(a) for a in args)}]"
  return "None" if kind is NoneType else getattr(kind, "__name__", str(kind))
