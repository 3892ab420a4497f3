"""The gin files and flags of one run, read and checked before anything heavy is imported.

A mistake is one ConfigurationError, `FILE:LINE: message`, with the nearest right name. What only
another package's code could tell is left to gin.
"""

import dataclasses
import importlib.util  # gin 0.5.0 uses it without importing it
import io
import os
import re
import sys
import tokenize
from pathlib import Path

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


@dataclasses.dataclass(frozen=True)
class Reference:
  """`@scope/name` or, called, `@scope/name()`; target is the full name."""

  written: str
  called: bool
  target: str = ""

  @property
  def scope(self) -> str:
    """`scope/`, or `/` where there is none."""
    return self.written.rpartition("/")[0] + "/"

  def __repr__(self):
    return f"@{self.written}" + "()" * self.called


@dataclasses.dataclass(frozen=True)
class Macro:
  """`%NAME`."""

  name: str

  def __repr__(self):
    return f"%{self.name}"


REQUIRED = Macro("gin.REQUIRED")


@dataclasses.dataclass(frozen=True)
class Binding:
  """`scope/target.name = value`, or with target "" a macro; place is `FILE:LINE` or `--FLAG`."""

  scope: str
  target: str
  name: str
  value: object
  place: str
  comment: str = ""


class _Delegate(config_parser.ParserDelegate):
  """Keeps references and macros as they are written."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return Reference(scoped_configurable_name, evaluate)

  def macro(self, macro_name):
    return Macro(macro_name)


def names() -> list[str]:
  """The names of all gin files, relative to the gin folder, without `.gin`."""
  return sorted(str(path.relative_to(FOLDER))[:-4] for path in FOLDER.rglob("*.gin"))


def find(name: str, beside: Path | None = None) -> Path | None:
  """The gin file of this name: in the gin folder, then beside an including file, then as a path."""
  file = name if name.endswith(".gin") else f"{name}.gin"
  places = [FOLDER / file, *([beside / file] if beside else []), Path(file)]
  return next((path.resolve() for path in places if os.path.isfile(path)), None)


def show(path: Path) -> str:
  """A path as messages show it: from the gin folder or the working directory where it is inside."""
  for folder in (FOLDER.resolve().parent, Path.cwd()):
    if path.is_relative_to(folder):
      return str(path.relative_to(folder))
  return str(path)


def literal(text: str) -> str:
  """The gin source of a flag's value: itself where gin can read it, else the quoted string."""
  try:
    parser = config_parser.ConfigParser(text, _Delegate())
    parser.parse_value()
    whole = parser.current_token.type in (tokenize.NEWLINE, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    whole &= all(token.type != tokenize.COMMENT for token in tokens)
  except (SyntaxError, tokenize.TokenError):
    whole = False
  return text if whole and "\n" not in text else repr(text)


def leaves(value):
  """All values in nested lists, tuples and dicts."""
  if isinstance(value, dict):
    value = [*value.keys(), *value.values()]
  if isinstance(value, list | tuple):
    for item in value:
      yield from leaves(item)
  else:
    yield value


def _statements(text: str, file: str) -> list:
  try:
    return list(config_parser.ConfigParser(text, _Delegate()))
  except SyntaxError as error:
    line, message = error.lineno, error.msg
  except tokenize.TokenError as error:
    message, (line, _) = error.args
  token = re.search("Failed to parse token '(.*)'", message)
  if token:
    message = f"cannot read the value {token[1]}; a string needs quotes"
  raise ConfigurationError(_place(file, line), f"syntax: {message}")


def _place(file: str, line: int) -> str:
  return f"{file}:{line}" if file.endswith(".gin") else file


class Configuration:
  """Everything that gin will read, in its order.

  texts [(file or flag, text)] hold no includes any more, imports {module: place}, bindings
  [Binding]; check() finds what is wrong with the whole.
  """

  def __init__(self, files: list[Path]):
    self.texts, self.imports, self.bindings = [], {}, []
    self._import_lines = [_DYNAMIC]
    for file in files:
      self._add_file(file, ())

  def add_flag(self, flag: str, key: str, value: str) -> None:
    """Binds a macro or a full `module.function.parameter`, as flags do; value is gin source."""
    text = "\n".join([*self._import_lines, f"{key} = {value}"])
    self._add(flag, text, None, ())

  def _add_file(self, path: Path, parents: tuple[Path, ...]) -> None:
    try:
      text = path.read_text()
    except UnicodeDecodeError:
      raise ConfigurationError(show(path), "is not a text file") from None
    self._add(show(path), text, path.parent, (*parents, path))

  def _add(self, file: str, text: str, folder: Path | None, parents: tuple[Path, ...]) -> None:
    """Adds the statements of one text; gin gets it in pieces, cut where it includes others.

    gin would look for included files in the working directory first, and log errors on the way.
    """
    lines = text.splitlines()
    symbols, imports, begin = {}, [], 0

    def cut(end):
      kept = [x if begin <= i < end or i in imports else "" for i, x in enumerate(lines)]
      self.texts.append((file, "\n".join(kept) + "\n"))

    for statement in _statements(text, file):
      line = statement.location.line_num
      place = _place(file, line)
      if isinstance(statement, config_parser.ImportStatement):
        imports.append(line - 1)
        self._add_import(statement, symbols, place)
      elif isinstance(statement, config_parser.IncludeStatement):
        included = find(statement.filename, folder)
        if included is None:
          raise ConfigurationError(
            place, f"no gin file {statement.filename}{nearest(statement.filename, names())}"
          )
        if included in parents:
          raise ConfigurationError(place, f"{statement.filename} includes itself")
        cut(line - 1)
        begin = line
        self._add_file(included, parents)
      elif isinstance(statement, config_parser.BindingStatement):
        comment = re.search(r"\s# *([^\"']*)$", statement.location.line_content.rstrip())
        self._add_binding(statement, symbols, place, comment[1] if comment else "")
    cut(len(lines))

  def _add_import(self, statement, symbols: dict[str, str], place: str) -> None:
    if statement.module.startswith("__gin__."):
      if statement.format() != _DYNAMIC:
        raise ConfigurationError(place, f"gin knows no {statement.format()}; nearest {_DYNAMIC}")
      symbols["gin"] = "gin"
      return
    top, module = statement.module.split(".")[0], statement.module
    if top == signatures.PACKAGE and not signatures.module_path(module):
      raise ConfigurationError(place, f"no module {module}{nearest(module, signatures.modules())}")
    if top not in sys.modules and importlib.util.find_spec(top) is None:
      raise ConfigurationError(place, f"no module {module} is installed")
    symbols[statement.bound_name()] = module if statement.is_from or statement.alias else top
    self.imports.setdefault(module, place)
    if statement.format() not in self._import_lines:
      self._import_lines.append(statement.format())

  def _add_binding(self, statement, symbols: dict[str, str], place: str, comment: str) -> None:
    def complete(value):
      if isinstance(value, Reference):
        target, _ = _resolve(value.written.split("/")[-1], symbols, place)
        return dataclasses.replace(value, target=target)
      if isinstance(value, dict):
        return {complete(key): complete(item) for key, item in value.items()}
      return type(value)(map(complete, value)) if isinstance(value, list | tuple) else value

    scope, selector, name, target = statement.scope, statement.selector, statement.arg_name, ""
    if not name:  # a macro, whose scope is a part of its name
      scope, name = "", f"{scope}/{selector}" if scope else selector
    else:
      target, signature = _resolve(selector, symbols, place)
      if signature and not signature.open and name not in signature.parameters:
        close = nearest(name, signature.parameters)
        raise ConfigurationError(place, f"{selector} has no parameter {name}{close}")
    value = complete(statement.value)
    self.bindings.append(Binding(scope, target, name, value, place, comment))

  def last(self) -> dict[tuple[str, str, str], Binding]:
    """The bindings that later ones do not replace, by (scope, target, name)."""
    return {(b.scope, b.target, b.name): b for b in self.bindings}

  def macro(self, name: str) -> Binding | None:
    """The binding of a macro, None where there is none."""
    return self.last().get(("", "", name))

  def referenced_macros(self) -> set[str]:
    """The macros that any value speaks of."""
    values = (leaf for binding in self.bindings for leaf in leaves(binding.value))
    return {leaf.name for leaf in values if isinstance(leaf, Macro) and leaf != REQUIRED}

  def reached(self) -> tuple[dict[str, Binding], dict[str, Binding], set[str]]:
    """The functions and macros that the run's job leads to, each with the binding that names it,
    and the scopes that are entered on the way, `outer/inner/`.

    What is bound in a scope counts where a reference that is reached enters this scope.
    """
    targets, macros, scopes = {}, {}, set()

    def follows(binding):
      if not binding.target:
        return binding.name in macros
      if not any(f"{binding.target}.".startswith(f"{target}.") for target in (ENTRY, *targets)):
        return False
      return not binding.scope or any(s.startswith(f"{binding.scope}/") for s in scopes)

    left = list(self.last().values())
    while queue := [binding for binding in left if follows(binding)]:
      left = [binding for binding in left if not follows(binding)]
      for binding in queue:
        for leaf in leaves(binding.value):
          if isinstance(leaf, Macro) and "." not in leaf.name:
            macros.setdefault(leaf.name, binding)
          elif isinstance(leaf, Reference):
            targets.setdefault(leaf.target, binding)
            scopes.add(leaf.scope)
    return targets, macros, scopes


def _resolve(selector: str, symbols: dict[str, str], place: str):
  """The full name and, where the source tells, the Signature of what a file calls `selector`."""
  first, *rest = selector.split(".")
  if "gin" not in symbols:
    raise ConfigurationError(place, f"`{_DYNAMIC}` must stand above {selector}")
  if first not in symbols:
    known = [symbol for symbol in symbols if symbol != "gin"]
    raise ConfigurationError(place, f"{first} is not imported in this file{nearest(first, known)}")
  name = ".".join((symbols[first], *rest))
  try:
    signature = signatures.signature(name)
  except LookupError as error:
    raise ConfigurationError(place, error.args[0]) from None
  return signature.name if signature else name, signature
