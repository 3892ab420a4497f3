"""The gin files and flags of one run, read before anything heavy is imported.

A mistake is one ConfigurationError, `FILE:LINE: message`, with the nearest right name.
"""

import difflib
import importlib.util  # noqa: F401 - gin 0.5.0 uses it without importing it
import os
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import gin
from gin import config_parser

# Wheels carry the gin files in the package, an editable install leaves them beside it.
_INSTALLED = Path(__file__).parent / "gin"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parent.parent / "gin"
ENTRY = "musiclm_jax.main.run"
DYNAMIC = "from __gin__ import dynamic_registration"


class ConfigurationError(ValueError):
  """A mistake in gin files or flags; its text is `PLACE: message`, one line."""

  def __init__(self, place: str, message: str):
    super().__init__(f"{place}: {' '.join(message.split())}")


class Reference(str):
  """`%MACRO`, `@scope/name` or, called, `@scope/name()`, as a gin file writes it.

  target, which `Configuration` sets, is `%MACRO` or the full name of the function or class.
  """

  target: str
  __repr__ = str.__str__

  def is_macro(self) -> bool:
    """Whether it is `%MACRO`."""
    return self.startswith("%")

  @property
  def scope(self) -> str:
    """`scope/`, or `/` without a scope."""
    return "/" if self.is_macro() else self[1:].rpartition("/")[0] + "/"


REQUIRED = Reference("%gin.REQUIRED")


class Binding(NamedTuple):
  """`scope/target.name = value`, or a macro, with target `%MACRO` and no scope and name.

  key is the left side as it is written, place `FILE:LINE` or `--FLAG`; imports are the statements
  of the file.
  """

  scope: str
  target: str
  name: str
  key: str
  value: object
  place: str
  imports: list
  comment: str = ""

  @property
  def references(self) -> list[Reference]:
    """All references in the value."""
    return list(_references(self.value))


class _Reader(config_parser.ParserDelegate):
  """Keeps references and macros as they are written."""

  def configurable_reference(self, name, called):
    return Reference(f"@{name}" + "()" * called)

  def macro(self, name):
    return Reference(f"%{name}")


def nearest(name: str, names) -> str:
  """'; nearest a, b' of the up to three names like this one, else '; there is a, b, ...'."""
  spelt = {known.lower(): known for known in names}
  if close := difflib.get_close_matches(name.lower(), spelt, 3):
    return "; nearest " + ", ".join(spelt[key] for key in close)
  return "; there is " + (", ".join(sorted(names)[:12]) or "none")


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


def _show(path: Path) -> str:
  """A path as messages show it: from the gin folder or the working directory where it is inside."""
  folders = (FOLDER.resolve().parent, Path.cwd())
  return next((str(path.relative_to(f)) for f in folders if path.is_relative_to(f)), str(path))


def literal(text: str):
  """The value of a flag: what gin reads in it, else the text; `~/` is the home directory."""
  try:  # a comment in the text would hide the end of the list, a second value lengthen it
    [statement] = config_parser.ConfigParser(f"x = [{text}, None]", _Reader())
    value, _ = statement.value
  except (SyntaxError, tokenize.TokenError, ValueError):
    value = text
  return os.path.expanduser(value) if re.match("~(/|$)", str(value)) else value


def _references(value):
  if isinstance(value, dict):
    value = [*value.keys(), *value.values()]
  if isinstance(value, list | tuple):
    for item in value:
      yield from _references(item)
  elif isinstance(value, Reference):
    yield value


def _statements(path: Path):
  """(statement, `FILE:LINE`) of a gin file."""
  try:
    for statement in config_parser.ConfigParser(path.read_text("utf-8-sig"), _Reader()):
      yield statement, f"{_show(path)}:{statement.location.line_num}"
  except UnicodeDecodeError:
    raise ConfigurationError(_show(path), "is not a text file") from None
  except (SyntaxError, tokenize.TokenError) as error:
    line = error.lineno if isinstance(error, SyntaxError) else error.args[1][0]
    message = error.args[0].split("\n")[-1]
    raise ConfigurationError(f"{_show(path)}:{line}", f"syntax: {message}") from None


def _full_name(selector: str, imports: list, place: str) -> str:
  """What a file with these imports calls `selector`."""
  first, *rest = selector.split(".")
  known = {"gin": "gin.config"}
  for each in imports:
    known[each.bound_name()] = each.module if each.is_from or each.alias else each.bound_name()
  if "dynamic_registration" not in known:
    raise ConfigurationError(place, f"`{DYNAMIC}` must be above {selector}")
  if first not in known:
    raise ConfigurationError(place, f"{first} is not imported in this file{nearest(first, known)}")
  return ".".join([known[first], *rest])


class Configuration:
  """What gin will read: `modules`, {name: place of the import}, and `bindings`, those that later
  ones do not replace, by (scope, target, name). `references` are those of all that were read.
  """

  def __init__(self, files: list[Path]):
    self.modules, self.bindings, self.references, self._imports = {}, {}, [], {}
    self.file = _show(files[0])
    for file in files:
      self._read(file, ())

  def add_flag(self, flag: str, key: str, text: str) -> None:
    """Binds a macro or a full `module.function.parameter` to the `literal` of a text."""
    imports = list(self._imports.values())
    self._bind(*config_parser.parse_binding_key(key), literal(text), flag, imports)

  def _read(self, path: Path, parents: tuple[Path, ...]) -> None:
    imports = []
    for statement, place in _statements(path):
      if isinstance(statement, config_parser.ImportStatement):
        imports.append(statement)
        if statement.format() != DYNAMIC:
          self.modules.setdefault(statement.module, place)
      elif isinstance(statement, config_parser.IncludeStatement):
        included = find(statement.filename, path.parent)
        if included is None:
          close = nearest(statement.filename, names())
          raise ConfigurationError(place, f"no gin file {statement.filename}{close}")
        if included in (path, *parents):
          raise ConfigurationError(place, f"{statement.filename} includes itself")
        self._read(included, (path, *parents))
      elif isinstance(statement, config_parser.BindingStatement):
        comment = re.search(r"\s# *([^\"']*)$", statement.location.line_content.rstrip())
        self._bind(*statement[:4], place, imports, comment[1] if comment else "")
    self._imports |= {each.format(): each for each in imports}

  def _bind(self, scope, selector, name, value, place: str, imports: list, comment="") -> None:
    key = f"{scope}/{selector}" if scope else selector
    target = _full_name(selector, imports, place) if name else f"%{key}"
    binding = Binding(
      scope=scope if name else "",
      target=target,
      name=name,
      key=f"{key}.{name}" if name else key,
      value=value,
      place=place,
      imports=imports,
      comment=comment,
    )
    for reference in binding.references:
      selector = reference.rpartition("/")[2].strip("@()")
      macro = reference.is_macro()
      reference.target = str(reference) if macro else _full_name(selector, imports, place)
    self.bindings[binding.scope, target, name] = binding
    self.references += binding.references

  def macro(self, name: str) -> Binding | None:
    """The binding of a macro, or None."""
    return self.bindings.get(("", f"%{name}", ""))

  def source(self, binding: Binding | None) -> Binding | None:
    """The binding that gives a binding its value by way of macros, None where a macro has none."""
    for _ in self.bindings:  # and not for ever: macros may refer to each other
      if not (binding and isinstance(binding.value, Reference) and binding.value.is_macro()):
        return binding
      binding = self.macro(binding.value[1:])
    return None

  def value(self, target: str, name: str, default=None):
    """The value of a parameter by way of macros, `default` without one."""
    source = self.source(self.bindings.get(("", target, name)))
    return source.value if source else default

  def job(self) -> Binding | None:
    """The binding of main.run.job; of several, {"ACTION": @job}, that of main.run.action alone."""
    job, action = self.bindings.get(("", ENTRY, "job")), str(self.value(ENTRY, "action"))
    several = job and isinstance(job.value, dict) and action in job.value
    return job._replace(value=job.value[action]) if several else job

  def reached(self) -> list[Binding]:
    """The bindings that the run's job leads to, from each to what its value refers to.

    What is bound in a scope counts where a reference that is reached enters this scope.
    """
    job = self.job()
    left = list((self.bindings | ({("", ENTRY, "job"): job} if job else {})).values())
    targets, scopes, reached = {ENTRY}, {"/"}, []

    def follows(binding):
      entered = any(scope.startswith(f"{binding.scope}/") for scope in scopes)
      return binding.target in targets and entered

    while queue := [binding for binding in left if follows(binding)]:
      left = [binding for binding in left if not follows(binding)]
      reached += queue
      references = [reference for binding in queue for reference in binding.references]
      targets.update(reference.target for reference in references)
      scopes.update(reference.scope for reference in references)
    return reached

  def apply(self) -> None:
    """Gives gin all bindings, in place of those that it had."""
    gin.clear_config()
    for binding in self.bindings.values():
      statement = f"{binding.key} = {binding.value!r}"
      try:
        gin.parse_config([*(each.format() for each in binding.imports), statement])
      except (ValueError, TypeError, SyntaxError) as error:
        raise ConfigurationError(binding.place, str(error).split("\n")[0]) from error
