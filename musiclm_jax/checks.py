"""What can be wrong with a configuration as a whole: each a ConfigurationError with its place."""

import collections
import functools
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

from musiclm_jax import ranges
from musiclm_jax.configuration import (
  ENTRY,
  REQUIRED,
  Binding,
  Configuration,
  ConfigurationError,
  Reference,
  nearest,
)

PACKAGE = Path(__file__).parent  # whose sources are read
_PATHS = ("_DIR", "BUNDLE", "OUT")  # how macros that name files end


def check(config: Configuration) -> None:
  """Raises ConfigurationError for the first mistake that shows without importing anything.

  In this order: parameters that do not exist, what has no effect, a run without a job, values that
  are missing.
  """
  reached = [reference for binding in config.reached() for reference in binding.references]
  for binding in config.bindings.values():
    _check_name(binding)
  for binding in config.bindings.values():
    if not binding.place.startswith("gin/"):  # where files may set more than one run uses
      flag = binding.place.startswith("--")
      _check_effect(binding, reached if flag else config.references)
  job = config.job()
  if job is None or not isinstance(job.value, dict | Reference):
    raise ConfigurationError(config.file, "binds no job: main.run.job = @...")
  if isinstance(job.value, dict):
    action = config.value(ENTRY, "action", "")
    raise ConfigurationError(job.place, f"no action {action!r}{nearest(str(action), job.value)}")
  if needed := missing(config):
    flags = [f"--gin.{name}=..." if re.search("[./]", name) else f"--{name}=..." for name in needed]
    raise ConfigurationError(next(iter(needed.values())), f"needs {' '.join(sorted(flags))}")


def missing(config: Configuration) -> dict[str, str]:
  """{macro or full parameter: place} of the values that the run needs and nothing gives."""
  found = {}
  for binding in config.reached():
    if binding.name and binding.value == REQUIRED:
      found[binding.key] = binding.place
    for macro in set(filter(Reference.is_macro, binding.references)) - {REQUIRED}:
      given = config.macro(macro[1:])
      if given is None or given.value in (REQUIRED, macro):
        found.setdefault(macro[1:], binding.place)
  return found


@functools.cache
def _words(package: Path) -> set[str]:
  texts = (file.read_text() for file in package.rglob("*.py"))
  return {word for text in texts for word in re.findall(r"[a-z_]\w*", text)}


def _check_name(binding: Binding) -> None:
  """The name of a parameter of the package is a word of its sources.

  So most misspelt names are found in milliseconds, not after jax and TensorFlow are imported.
  """
  own = binding.name and binding.target.startswith(f"{PACKAGE.name}.")
  if own and binding.name not in _words(PACKAGE):
    raise _unknown_parameter(binding, _words(PACKAGE))


def _unknown_parameter(binding: Binding, known) -> ConfigurationError:
  message = f"{binding.target} has no parameter {binding.name}{nearest(binding.name, known)}"
  return ConfigurationError(binding.place, message)


def _check_effect(binding: Binding, references: list[Reference]) -> None:
  """Something enters the scope of a flag or of a user's file, and uses what it sets.

  `references` are, for a flag, those that the run reaches, for a file, those of all files. What a
  file binds of a function may be for other runs.
  """
  targets = {each.target.removeprefix("%") for each in references} | {ENTRY}
  scopes = {each.scope for each in references} | {"/"}
  name = binding.target.removeprefix("%")
  if not any(scope.startswith(f"{binding.scope}/") for scope in scopes):
    message = f"nothing enters the scope {binding.scope}{nearest(binding.scope, scopes)}"
  elif name not in targets and (not binding.name or binding.place.startswith("--")):
    message = f"this run does not use {name}{nearest(name, targets)}"
  elif name.endswith(_PATHS) and re.match(r"\w+://", str(binding.value)):
    message = f"wants a path of the file system (mount remote storage), got {binding.value!r}"
  else:
    return
  raise ConfigurationError(binding.place, message)


def import_modules(config: Configuration) -> None:
  """Imports what the files import. Raises ConfigurationError, with the place of the import."""
  for module, place in config.modules.items():
    try:
      importlib.import_module(module)
    except ModuleNotFoundError as error:
      misspelt = f"{module}.".startswith(f"{error.name}.")
      close = nearest(module, [*sys.modules, "__gin__.dynamic_registration"]) if misspelt else ""
      raise ConfigurationError(place, f"{module} cannot be imported: {error}{close}") from error


def check_values(config: Configuration) -> None:
  """Raises ConfigurationError for the first mistake that shows once the modules are imported.

  In this order: names that do not exist, values that do not fit the annotation of their parameter,
  calls that lack values.
  """
  given = collections.defaultdict(lambda: {"config_text"})  # which main.run gives
  for binding in config.bindings.values():
    for reference in binding.references:
      _find(reference.target, binding.place)
    if binding.name:
      function = _find(binding.target, binding.place)
      given[function].add(binding.name)
      _check_value(config, binding, inspect.signature(function).parameters)
  for binding in config.reached():
    for reference in binding.references:
      if reference.endswith("()") or reference is config.job().value:
        function = _find(reference.target, binding.place)
        required = [
          name
          for name, each in inspect.signature(function).parameters.items()
          if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]
        if lacking := ", ".join(name for name in required if name not in given[function]):
          raise ConfigurationError(binding.place, f"{reference} needs values for {lacking}")


def _find(name: str, place: str):
  """The function or class of this full name; None for a macro."""
  if name.startswith("%"):
    return None
  try:
    found = pkgutil.resolve_name(name)
  except AttributeError as error:
    known = [each for each in dir(error.obj) if not each.startswith("_")]
    message = f"there is no {name}{nearest(error.name, known)}"
    raise ConfigurationError(place, message) from None
  if not callable(found):
    raise ConfigurationError(place, f"{name} is no function or class")
  return found


def _check_value(config: Configuration, binding: Binding, parameters) -> None:
  if binding.name not in parameters:
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
      raise _unknown_parameter(binding, parameters)
    return
  kind, source = parameters[binding.name].annotation, config.source(binding)
  if source and not ranges.fits(source.value, kind):
    hint = f"; as a string, \"'{source.value}'\"" if kind is str else ""
    wanted = f"{binding.target}.{binding.name} wants {ranges.describe(kind)}"
    raise ConfigurationError(source.place, f"{wanted}, got {source.value!r}{hint}")
