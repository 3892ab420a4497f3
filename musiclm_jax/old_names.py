"""Names that older formats of model.json and weights.safetensors used, and what they are now.

Published weights keep the names that they were written with. Who renames a class, a field or a
parameter, or removes a parameter, raises FORMAT by one and adds, under the former number, the names
that changed; a part of any earlier format is then read under the new names.
"""

import dataclasses
from collections.abc import Mapping

FORMAT = 2  # of the model.json that this version writes


@dataclasses.dataclass(frozen=True)
class Renames:
  """What changed from one format to the next, old name to new.

  `classes` are full paths; `fields` are {(new path of the class, old field): new field};
  `parameters` are components of a parameter's path, joined by "/", wherever they occur in it:
  {"attention/turn": "attention/rotary"}. `removed` are the last components of the paths of
  parameters that there are no longer, for instance because they follow from others.
  """

  classes: Mapping[str, str] = dataclasses.field(default_factory=dict)
  fields: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
  parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
  removed: frozenset[str] = frozenset()


# {the format that last used the old names: Renames}
RENAMES: Mapping[int, Renames] = {
  1: Renames(removed=frozenset({"sums"})),  # of codebooks: vectors times counts
}


def check_format(found, oldest: int, newest: int, where: str) -> None:
  """Raises ValueError where a file's format is missing, or not one of oldest..newest."""
  if not isinstance(found, int) or found < oldest:
    raise ValueError(f"{where}: wanted a format of {oldest}..{newest}, found {found}")
  if found > newest:
    raise ValueError(
      f"{where}: has format {found}, this version reads up to {newest}; install a newer musiclm_jax"
    )


def renamed_description(description, written: int, renames: Mapping[int, Renames] = RENAMES):
  """The description of a module that was written in format `written`, under the names of now."""
  for number in sorted(number for number in renames if number >= written):
    description = _rename(description, renames[number])
  return description


def renamed_parameters(
  arrays: Mapping[str, object], written: int, renames: Mapping[int, Renames] = RENAMES
) -> dict:
  """Arrays by the paths that they were written under in format `written`, by the paths of now."""
  for number in sorted(number for number in renames if number >= written):
    names = renames[number]
    arrays = {
      _renamed(path, names.parameters): array
      for path, array in arrays.items()
      if path.rpartition("/")[2] not in names.removed
    }
  return dict(arrays)


def _renamed(path: str, names: Mapping[str, str]) -> str:
  for old, new in names.items():
    path = f"/{path}/".replace(f"/{old}/", f"/{new}/").strip("/")
  return path


def _rename(description, renames: Renames):
  if isinstance(description, list):
    return [_rename(each, renames) for each in description]
  if not isinstance(description, dict):
    return description
  cls = description.get("class")
  cls = renames.classes.get(cls, cls)
  fields = {
    renames.fields.get((cls, name), name): _rename(value, renames)
    for name, value in description.items()
    if name != "class"
  }
  return {"class": cls, **fields} if cls else fields
