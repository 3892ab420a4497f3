"""What the functions and classes of this package take, read from their source: nothing is imported.

So a misspelt parameter is found in milliseconds, not after jax and TensorFlow have been loaded.
"""

import ast
import dataclasses
import difflib
import functools
from pathlib import Path

FOLDER = Path(__file__).parent
PACKAGE = __package__
_LINEN = {"parent": "", "name": ""}  # the fields that every flax.linen.Module has


@dataclasses.dataclass(frozen=True)
class Signature:
  """What one function or class takes.

  name is where it is defined, parameters {name: annotation or ""}, required the names without a
  default; open where it may take names that its source does not show.
  """

  name: str
  parameters: dict[str, str]
  required: frozenset[str]
  open: bool


def nearest(name: str, names) -> str:
  """'; nearest a, b' of the up to three names like this one, else '; there is a, b, ...'."""
  spelt = {known.lower(): known for known in names}
  close = difflib.get_close_matches(name.lower(), spelt, 3)
  if close:
    return "; nearest " + ", ".join(spelt[key] for key in close)
  return "; there is " + (", ".join(sorted(names)[:12]) or "none")


def modules() -> list[str]:
  """The dotted names of all modules of the package."""
  names = (path.relative_to(FOLDER).with_suffix("").parts for path in FOLDER.rglob("*.py"))
  return [".".join((PACKAGE, *parts)).removesuffix(".__init__") for parts in names]


def module_path(module: str) -> Path | None:
  """The source file of a module of the package, None where there is no such module."""
  stem = FOLDER.joinpath(*module.split(".")[1:])
  candidates = (stem / "__init__.py", stem.parent / f"{stem.name}.py")
  return next((path for path in candidates if path.is_file()), None)


@functools.cache
def _definitions(path: Path) -> dict[str, ast.AST | str]:
  """What a module defines at its top: the syntax tree, or for an import the full name."""
  names = {}
  for node in ast.parse(path.read_text(), str(path)).body:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
      names[node.name] = node
    elif isinstance(node, ast.ImportFrom):
      names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    elif isinstance(node, ast.Import):
      names |= {a.asname or a.name.split(".")[0]: a.name for a in node.names}
    else:  # computed, or defined under a condition: there, but its source does not tell more
      inner = list(ast.walk(node))
      stored = (n for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
      names |= {n.id: node for n in stored}
      names |= {n.asname or n.name: node for n in inner if isinstance(n, ast.alias)}
      names |= {n.name: node for n in inner if isinstance(n, ast.FunctionDef | ast.ClassDef)}
  return names


def signature(name: str) -> Signature | None:
  """The Signature of a function, class or method by its full dotted name.

  None where its source cannot tell: another package's, or a name that is computed. Raises
  LookupError, with the nearest names, where the package has no such function or class.
  """
  if name.split(".")[0] != PACKAGE:
    return None
  module, rest = PACKAGE, name.split(".")[1:]
  while rest and module_path(f"{module}.{rest[0]}"):
    module, rest = f"{module}.{rest[0]}", rest[1:]
  if not rest:
    raise LookupError(f"{module} is a module, not a function or class")
  names = _definitions(module_path(module))
  if rest[0] not in names:
    own = [n for n in names if isinstance(names[n], ast.FunctionDef | ast.ClassDef) and n[0] != "_"]
    raise LookupError(f"{module} has no {rest[0]}{nearest(rest[0], own)}")
  node = names[rest[0]]
  if isinstance(node, str):
    return signature(".".join((node, *rest[1:])))
  if isinstance(node, ast.ClassDef):
    return _member(module, node, rest)
  return _function(name, node, 0) if isinstance(node, ast.FunctionDef) else None


def _member(module: str, node: ast.ClassDef, names: list[str]) -> Signature | None:
  if len(names) == 1:
    return _class(module, node)
  methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
  if names[1] in methods:
    return _function(".".join((module, *names)), methods[names[1]], 1)
  if node.bases:
    return None  # maybe inherited
  raise LookupError(f"{module}.{node.name} has no {names[1]}{nearest(names[1], methods)}")


def _function(name: str, node: ast.FunctionDef, bound: int) -> Signature:
  arguments = node.args
  positional = (arguments.posonlyargs + arguments.args)[bound:]
  required = {a.arg for a in positional[: len(positional) - len(arguments.defaults)]}
  required |= {a.arg for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults) if d is None}
  parameters = {a.arg: _text(a.annotation) for a in positional + arguments.kwonlyargs}
  return Signature(name, parameters, frozenset(required), arguments.kwarg is not None)


def _class(module: str, node: ast.ClassDef) -> Signature:
  """Parameters of `__init__`, or the fields of a dataclass or Linen module with inherited ones."""
  name = f"{module}.{node.name}"
  for method in node.body:
    if isinstance(method, ast.FunctionDef) and method.name in ("__init__", "__new__"):
      return _function(name, method, 1)
  parameters, required, opened = {}, set(), False
  for base in map(_text, reversed(node.bases)):
    if base in ("nn.Module", "linen.Module"):
      parameters |= _LINEN
    elif base.split(".")[-1] != "NamedTuple":
      inherited = _base(module, base)
      opened |= inherited is None or inherited.open
      if inherited is not None:
        parameters |= inherited.parameters
        required |= inherited.required
  decorated = any("dataclass" in _text(decorator) for decorator in node.decorator_list)
  if decorated or "parent" in parameters or "NamedTuple" in map(_text, node.bases):
    for field in node.body:
      if isinstance(field, ast.AnnAssign):
        _add_field(field, parameters, required)
  return Signature(name, parameters, frozenset(required), opened)


def _base(module: str, base: str) -> Signature | None:
  head, *rest = base.split(".")
  known = _definitions(module_path(module)).get(head)
  imported = known if isinstance(known, str) else f"{module}.{head}"
  return signature(".".join((imported, *rest))) if known is not None else None


def _add_field(field: ast.AnnAssign, parameters: dict[str, str], required: set[str]) -> None:
  value, name, annotation = _text(field.value), field.target.id, _text(field.annotation)
  if "init=False" in value or "ClassVar" in annotation or "KW_ONLY" in annotation:
    return
  parameters[name] = annotation
  required.discard(name)
  if not value or ("field(" in value and "default" not in value):
    required.add(name)


def _text(node: ast.AST | None) -> str:
  return "" if node is None else ast.unparse(node)
