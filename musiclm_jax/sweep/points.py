"""Points of a sweep: the combinations of values, their names, and the commands of each."""

import dataclasses
import glob
import itertools
import os
import pathlib
import re
import shlex
import string

from musiclm_jax.configuration import nearest

Values = dict[str, object]  # {name: a value, a tuple of values, or a text with * for paths}


@dataclasses.dataclass(frozen=True)
class Point:
  """One combination of values {name: value}; its name is also that of its folder."""

  name: str
  values: dict[str, object]


def expand(products: tuple[Values, ...], places: dict[str, str] | None = None) -> list[Point]:
  """The points of one product of values after another, without those that come again.

  A text with * stands for the paths that match now, in the order of their numbers; {name} in it is
  one of `places`.

  >>> [point.name for point in expand(({"guidance": (1.0, 2.0), "top_k": 50},))]
  ['guidance=1.0,top_k=50', 'guidance=2.0,top_k=50']

  Raises ValueError where two points have one name.
  """
  points: dict[str, Point] = {}
  for product in products:
    lists = (_values(value, places or {}) for value in product.values())
    for combination in itertools.product(*lists):
      values = dict(zip(product, combination))
      name = ",".join(f"{key}={_short(value)}" for key, value in values.items()) or "point"
      if points.setdefault(name, Point(name, values)).values != values:
        raise ValueError(f"points: two differ and have the name {name}")
  return list(points.values())


def commands(point: Point, lines: tuple[str, ...], places: dict[str, str]) -> list[str]:
  """The command lines with {name} in their words replaced by the point's value or a place.

  Of a path, {name.name} is its last part. Raises ValueError for a name that neither has.
  """
  known = {**places, **point.values}
  return [shlex.join(_filled(word, known) for word in shlex.split(line)) for line in lines]


def _filled(word: str, known: dict[str, object]) -> str:
  for _, field, _, _ in string.Formatter().parse(word):
    name = re.split(r"[.\[]", field or "")[0]
    if field is not None and name not in known:
      raise ValueError(f"{word}: no value {name!r}{nearest(name, known)}")
  return word.format(**known)


def _values(value: object, places: dict[str, str]) -> list:
  """The values that an entry stands for."""
  if isinstance(value, (tuple, list)):
    return [each for entry in value for each in _values(entry, places)]
  if isinstance(value, str) and "*" in value:
    return sorted(map(pathlib.Path, glob.glob(_filled(value, places))), key=_in_order)
  return [value]


def _in_order(path: pathlib.Path) -> list:
  """A key that sorts texts by the numbers in them: 9 before 10."""
  parts = re.split(r"(\d+)", os.fspath(path))
  return [int(part) if part.isdigit() else part for part in parts]


def patterns(products: tuple[Values, ...], places: dict[str, str]) -> list[str]:
  """The patterns of paths among the values."""
  texts = [each for product in products for value in product.values() for each in _texts(value)]
  return [_filled(each, places) for each in texts if "*" in each]


def _texts(value: object) -> list[str]:
  entries = value if isinstance(value, (tuple, list)) else [value]
  return [each for each in entries if isinstance(each, str)]


def _short(value: object) -> str:
  """A value as it stands in names of folders."""
  text = value.name if isinstance(value, pathlib.Path) else str(value)
  return re.sub(r"[^\w.+-]+", "_", text.rstrip("/").rpartition("/")[2]).strip("_")
