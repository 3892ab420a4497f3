"""The gin files and flags of one run, read before anything heavy is imported.

A mistake is one ConfigurationError, `FILE:LINE: message`, with the nearest right name.
"""

import dataclasses
import importlib.util  # gin 0.5.0 uses it without importing it
import os
import re
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

from gin import config_parser

from musiclm_jax import signatures
from musiclm_jax.signatures import nearest

# Wheels carry the gin files in the package, an editable install leaves them beside it.
_INSTALLED = Path(__file__).parent / "gin"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parent.parent / "gin"
ENTRY = f"{signatures.PACKAGE}.main.run"
_DYNAMIC = "from __gin__ import dynamic_registration"


class ConfigurationError(ValueError):
  """A mistake in gin files or flags; its text is `PLACE: message`, one line."""

  def __init__(self, place: str, message: str):
    super().__init__(f"{place}: {' '.join(message.split())}")


class Macro(str):
  """`%NAME`."""

  def __repr__(self):
    return f"%{self}"


REQUIRED = Macro("gin.REQUIRED")


@dataclasses.dataclass(frozen=True)
class Reference:
  """`@scope/name` or, called, `@scope/name()`; target is the full name."""

  written: str
  called: bool
  target: str

  @property
  def scope(self) -> str:
    """`scope/`, or `/` without a scope."""
    return self.written.rpartition("/")[0] + "/"

  def __repr__(self):
    return f"@{self.written}" + "()" * self.called


class Binding(NamedTuple):
  """`scope/target.name = value`, or a macro, with target "".

  place is `FILE:LINE` or `--FLAG`, text what gin is given: the file's imports and the statement.
  """

  scope: str
  target: str
  name: str
  value: object
  place: str
  text: str
  comment: str


class _Reader(config_parser.ParserDelegate):
  """Keeps references and macros as they are written; imports are those of the file."""

  macro = staticmethod(Macro)

  def __init__(self, imports: list):
    self.imports = imports

  def configurable_reference(self, written, called):
    return Reference(written, called, self.full_name(written.rpartition("/")[2]))

  def full_name(self, selector: str) -> str:
    """What a file calls `selector`. Raises LookupError where there is no such function or class."""
    first, *rest = selector.split(".")
    known = {
      s.bound_name(): s.module if s.is_from or s.alias else s.bound_name() for s in self.imports
    }
    if known.pop("dynamic_registration", None) is None:
      raise LookupError(f"`{_DYNAMIC}` must be above {selector}")
    if first not in known and first != "gin":
      raise LookupError(f"{first} is not imported in this file{nearest(first, known)}")
    name = ".".join((known.get(first, first), *rest))
    signatures.parameters(name)
    return name


def names() -> list[str]:
  """The names of all gin files, relative to the gin folder, without `.gin`."""
  return sorted(str(path.relative_to(FOLDER))[:-4] for path in FOLDER.rglob("*.gin"))


def find(name: str, beside: Path | None = None) -> Path | None:
  """The gin file of this name: in the gin folder, beside an including file, or a path.

  `./NAME` and `../NAME` are paths alone, also where the gin folder has a file of this name.
  """
  file = os.path.expanduser(name if name.endswith(".gin") else f"{name}.gin")
  folders = [beside or Path(), Path()]
  if not file.startswith(("./", "../")):
    folders.insert(0, FOLDER)
  return next(((f / file).resolve() for f in folders if os.path.isfile(f / file)), None)


def show(path: Path) -> str:
  """A path as messages show it: from the gin folder or the working directory where it is inside."""
  folders = (FOLDER.resolve().parent, Path.cwd())
  return next((str(path.relative_to(f)) for f in folders if path.is_relative_to(f)), str(path))


def literal(text: str, imports=()):
  """The value of a flag: what gin reads in it, else the text; `~/` is the home directory."""
  try:  # a comment in the text would hide the end of the list, a second value lengthen it
    [statement] = config_parser.ConfigParser(f"x = [{text}, None]", _Reader(imports))
    value, _ = statement.value
  except (SyntaxError, tokenize.TokenError, ValueError):
    value = text
  return os.path.expanduser(value) if re.match("~(/|$)", str(value)) else value


def leaves(value):
  """All values in nested lists, tuples and dicts."""
  if isinstance(value, dict):
    value = [*value.keys(), *value.values()]
  if isinstance(value, list | tuple):
    for item in value:
      yield from leaves(item)
  else:
    yield value


def _statements(text: str, file: str, imports: list):
  """(statement, place) of a file, FILE:LINE, or of a flag."""
  place = "{}:{}" if file.endswith(".gin") else "{}"
  try:
    parser = config_parser.ConfigParser(text, _Reader(imports))
    for statement in parser:
      yield statement, place.format(file, statement.location.line_num)
    return
  except LookupError as error:
    line, message = parser.current_token.start[0], str(error).partition("\n")[0]
  except tokenize.TokenError as error:
    line, message = error.args[1][0], f"syntax: {error.args[0]}"
  except SyntaxError as error:
    token = re.search("Failed to parse token '(.*)'", error.msg)
    line, message = error.lineno, f"syntax: {error.msg}"
    message = f"cannot read the value {token[1]}; a string needs quotes" if token else message
  raise ConfigurationError(place.format(file, line), message)


class Configuration:
  """Everything that gin will read, in its order: modules {name: place} and bindings."""

  def __init__(self, files: list[Path]):
    self.modules, self.bindings, self._imports = {}, [], []
    self.file = show(files[0])
    for file in files:
      self._read(file, ())

  def add_flag(self, flag: str, key: str, text: str) -> None:
    """Binds a macro or a full `module.function.parameter` to the `literal` of a text."""
    for statement, _ in _statements(f"{key} = None", flag, self._imports):
      try:
        value = literal(text, self._imports)
      except LookupError as error:
        raise ConfigurationError(flag, str(error).partition("\n")[0]) from None
      self._bind(statement._replace(value=value), self._imports, flag)

  def _read(self, path: Path, parents: tuple[Path, ...]) -> None:
    try:
      text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
      raise ConfigurationError(show(path), "is not a text file") from None
    imports = []
    for statement, place in _statements(text, show(path), imports):
      if isinstance(statement, config_parser.ImportStatement):
        self._check_import(statement, place)
        imports.append(statement)
      elif isinstance(statement, config_parser.IncludeStatement):
        included = find(statement.filename, path.parent)
        if included is None:
          close = nearest(statement.filename, names())
          raise ConfigurationError(place, f"no gin file {statement.filename}{close}")
        if included in (path, *parents):
          raise ConfigurationError(place, f"{statement.filename} includes itself")
        self._read(included, (path, *parents))
      elif isinstance(statement, config_parser.BindingStatement):
        self._bind(statement, imports, place)
    known = {each.format() for each in self._imports}
    self._imports += [each for each in imports if each.format() not in known]

  def _check_import(self, statement, place: str) -> None:
    module, top = statement.module, statement.module.split(".")[0]
    if top == "__gin__":
      if statement.format() != _DYNAMIC:
        raise ConfigurationError(place, f"no {module} in gin; nearest {_DYNAMIC}")
      return
    if top == signatures.PACKAGE and not signatures.module_file(module):
      known = signatures.modules(signatures.FOLDER)
      raise ConfigurationError(place, f"no module {module}{nearest(module, known)}")
    if top not in sys.modules and importlib.util.find_spec(top) is None:
      raise ConfigurationError(place, f"no module {module} is installed")
    self.modules.setdefault(module, place)

  def _bind(self, statement, imports: list, place: str) -> None:
    scope, selector, name, value, location = statement
    key = f"{scope}/{selector}" if scope else selector
    target = ""
    if name:
      try:
        target = _Reader(imports).full_name(selector)
      except LookupError as error:
        raise ConfigurationError(place, error.args[0]) from None
    text = f"{key}.{name} = {value!r}" if name else f"{key} = {value!r}"
    text = "\n".join([*(each.format() for each in imports), text])
    comment = re.search(r"\s# *([^\"']*)$", location.line_content.rstrip())
    # the scope of a macro is a part of its name
    name, scope = (name, scope) if name else (key, "")
    self.bindings.append(
      Binding(scope, target, name, value, place, text, comment[1] if comment else "")
    )

  def last(self) -> dict[tuple[str, str, str], Binding]:
    """The bindings that later ones do not replace, by (scope, target, name)."""
    return {binding[:3]: binding for binding in self.bindings}

  def macro(self, name: str) -> Binding | None:
    """The binding of a macro, or None."""
    return self.last().get(("", "", name))

  def source(self, binding: Binding | None) -> Binding | None:
    """The binding that gives a binding its value by way of macros, None where a macro has none."""
    while binding and isinstance(binding.value, Macro):
      binding = self.macro(binding.value)
    return binding

  def replace(self, binding: Binding, value) -> None:
    """Binds the same parameter to one of the parts of its value."""
    *imports, statement = binding.text.split("\n")
    text = "\n".join([*imports, f"{statement.partition(' = ')[0]} = {value!r}"])
    self.bindings.append(binding._replace(value=value, text=text))

  def leaves(self, kind) -> list:
    """The macros or references in the values of all bindings."""
    return [x for each in self.bindings for x in leaves(each.value) if isinstance(x, kind)]

  def reached(self) -> tuple[dict[str, Binding], dict[str, Binding], set[str]]:
    """The functions and macros that the run's job leads to, each with the binding that names it,
    and the scopes that are entered on the way, `outer/inner/`.

    What is bound in a scope counts where a reference that is reached enters this scope.
    """
    targets, macros, scopes = {ENTRY: None}, {}, {"/"}

    def follows(binding):
      if not binding.target:
        return binding.name in macros
      called = any(f"{binding.target}.".startswith(f"{target}.") for target in targets)
      return called and any(scope.startswith(f"{binding.scope}/") for scope in scopes)

    left = list(self.last().values())
    while queue := [binding for binding in left if follows(binding)]:
      left = [binding for binding in left if binding not in queue]
      for binding in queue:
        for leaf in leaves(binding.value):
          if isinstance(leaf, Reference):
            targets.setdefault(leaf.target, binding)
            scopes.add(leaf.scope)
          elif isinstance(leaf, Macro) and leaf != REQUIRED:
            macros.setdefault(leaf, binding)
    return targets, macros, scopes
