"""Packages with published models, which are installed beside the others: see docs/evaluate.md."""

import importlib.util
import pathlib

# With the current TensorFlow a resolver refuses two of them, whose models need none of it.
_INSTALL = {
  "basic_pitch": "pip install --no-deps basic-pitch==0.4.0",
  "musicnn": "pip install --no-deps musicnn==0.1.0",
  "onnxruntime": "pip install onnxruntime",
}


def check() -> None:
  """Raises ValueError, stating the command that installs it, where a package is missing."""
  for module in _INSTALL:
    file(module)


def file(module: str, name: str = "") -> pathlib.Path:
  """The file `name` of an installed package. Raises ValueError where one of the two is missing."""
  found = importlib.util.find_spec(module)
  if found is None:
    raise ValueError(f"the package {module} is not installed: {_INSTALL[module]}")
  path = pathlib.Path(found.submodule_search_locations[0], name)
  if not path.exists():
    raise ValueError(f"{path}: missing: {_INSTALL[module]}")
  return path
