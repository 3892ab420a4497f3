"""What the package's functions and classes take, read from their source: nothing is imported.

So a misspelt parameter is found in milliseconds, not after jax and TensorFlow have been loaded.
"""

import ast
import difflib
import functools
import re
from pathlib import Path
from typing import NamedTuple

from musiclm_jax import ranges

FOLDER = Path(__file__).parent
PACKAGE = __package__


class Parameter(NamedTuple):
  """The annotated type, object where it is not of Python or `ranges`; whether a value must come."""

  kind: object
  required: bool


_FIELDS = {"nn.Module": {name: Parameter(object, False) for name in ("parent", "name")}}
_FIELDS |= {"NamedTuple": {}}  # what classes take by their base


def nearest(name: str, names) -> str:
  """'; nearest a, b' of the up to three names like this one, else '; there is a, b, ...'."""
  spelt = {known.lower(): known for known in names}
  if close := difflib.get_close_matches(name.lower(), spelt, 3):
    return "; nearest " + ", ".join(spelt[key] for key in close)
  return "; there is " + (", ".join(sorted(names)[:12]) or "none")


def modules(package: Path) -> dict[str, Path]:
  """{dotted name: file} of all modules of a package."""
  files = {path: path.relative_to(package.parent).with_suffix("") for path in package.rglob("*.py")}
  return {".".join(name.parts).removesuffix(".__init__"): path for path, name in files.items()}


def module_file(module: str) -> Path | None:
  """The source of a module of the package by its full name, None where there is no such module."""
  path = FOLDER.parent.joinpath(*module.split("."))
  return next((f for f in (Path(f"{path}.py"), path / "__init__.py") if f.is_file()), None)


@functools.cache
def parameters(name: str) -> dict[str, Parameter] | None:
  """What a function, class or method takes, by its full name.

  None where only an import can tell: of other packages, computed or inherited. Raises LookupError,
  with the nearest names, where the package has no such function or class.
  """
  if name.split(".")[0] != PACKAGE:
    return None
  parts = name.split(".")
  prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
  module = owner = next(prefix for prefix in prefixes if module_file(prefix))
  if module == name:
    raise LookupError(f"{name} is a module, not a function or class")
  source = module_file(module).read_text()
  parent, node = None, ast.parse(source)
  for part in parts[module.count(".") + 1 :]:
    names = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    if part not in names:
      if getattr(node, "bases", ()) or re.search(rf"\b{part}\b", source):
        return None
      close = nearest(part, [known for known in names if not known.startswith("_")])
      raise LookupError(f"{owner} has no {part}{close}")
    owner, parent, node = f"{owner}.{part}", node, names[part]
  if isinstance(node, ast.ClassDef):
    return _class(node, module)
  return _function(node, isinstance(parent, ast.ClassDef))


def _function(node: ast.FunctionDef, bound: int) -> dict[str, Parameter] | None:
  given = node.args
  positional = [*given.posonlyargs, *given.args]
  defaults = [None] * (len(positional) - len(given.defaults)) + given.defaults
  pairs = [*zip(positional, defaults)][bound:] + [*zip(given.kwonlyargs, given.kw_defaults)]
  taken = {a.arg: Parameter(_type(a.annotation), default is None) for a, default in pairs}
  return None if given.kwarg else taken


def _class(node: ast.ClassDef, module: str) -> dict[str, Parameter] | None:
  """The parameters of `__init__`, else the fields, with those of the bases."""
  for method in node.body:
    if isinstance(method, ast.FunctionDef) and method.name == "__init__":
      return _function(method, 1)
  bases = [ast.unparse(base) for base in node.bases]
  inherited = [_FIELDS[b] if b in _FIELDS else parameters(f"{module}.{b}") for b in bases]
  fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
  own = {
    field.target.id: Parameter(_type(field.annotation), field.value is None)
    for field in fields
    if "ClassVar" not in ast.unparse(field.annotation)
  }
  return None if None in inherited else functools.reduce(dict.__or__, [*inherited, own])


def _type(annotation: ast.AST | None):
  try:
    return eval(ast.unparse(annotation), dict(vars(ranges))) if annotation else object
  except (NameError, AttributeError, TypeError):
    return object
