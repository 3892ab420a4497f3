"""What can be wrong with a configuration as a whole: each a ConfigurationError with its place."""

import dataclasses
import re

from musiclm_jax import signatures
from musiclm_jax.configuration import (
  ENTRY,
  REQUIRED,
  Binding,
  Configuration,
  ConfigurationError,
  Macro,
  Reference,
  leaves,
)

_SHIPPED = "gin/"  # how places in the gin folder begin
_FOLDERS = ("_DIR", "BUNDLE", "OUT")  # how macros that name files end
_KINDS = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
_KINDS |= {"None": (type(None),), "tuple": (tuple, list), "list": (tuple, list), "dict": (dict,)}


def check(configuration: Configuration) -> None:
  """Raises ConfigurationError for the first mistake in the whole of files and flags.

  In this order: flags, macros and scopes without effect, a run without a job, macros without a
  value, addresses where a folder is wanted, parameters left required or without any value, values
  that are not of the annotated type.
  """
  targets, macros, scopes = configuration.reached()
  _check_effect(configuration, targets, macros)
  _check_scopes(configuration, scopes)
  last = configuration.last().values()
  if not any(b.target == ENTRY and b.name == "job" for b in last):
    raise ConfigurationError(configuration.texts[0][0], "binds no job: main.run.job = @...")
  _check_values(configuration, macros)
  reached = [
    b for b in last if b.target in (ENTRY, *targets) or (not b.target and b.name in macros)
  ]
  for binding in reached:
    if binding.target and binding.value == REQUIRED:
      raise ConfigurationError(binding.place, f"{binding.target}.{binding.name} needs a value")
    _check_calls(binding, last)
  for binding in last:
    _check_type(configuration, binding)


def action(configuration: Configuration) -> str:
  """Which of several jobs runs: the value of main.run.action, "" without one."""
  binding = configuration.last().get(("", ENTRY, "action"))
  while binding is not None and isinstance(binding.value, Macro):
    binding = configuration.macro(binding.value.name)
  return binding.value if binding is not None else ""


def choose_job(configuration: Configuration) -> None:
  """Of several jobs, `main.run.job = {"ACTION": @job, ...}`, keeps that of main.run.action.

  Raises ConfigurationError, with the nearest actions, where it is none of them.
  """
  job, name = configuration.last().get(("", ENTRY, "job")), action(configuration)
  if job is None or not isinstance(job.value, dict):
    return
  if name not in job.value:
    wanted = f"no action {name!r}" if name else "an action is missing"
    raise ConfigurationError(job.place, f"{wanted}{signatures.nearest(str(name), job.value)}")
  configuration.bindings.append(dataclasses.replace(job, value=job.value[name]))


def _check_effect(configuration: Configuration, targets: dict, macros: dict) -> None:
  """A flag must reach what the run calls; a macro of a user's file must be used by some file.

  The gin folder's own files may give more macros than one run uses; a test looks after them.
  """
  referenced_macros, called = configuration.referenced_macros(), (ENTRY, *targets)
  for binding in configuration.bindings:
    flag, name = binding.place.startswith("--"), binding.name
    if binding.target:
      if flag and not any(f"{binding.target}.".startswith(f"{target}.") for target in called):
        raise ConfigurationError(binding.place, f"this run does not call {binding.target}")
    elif flag and name in referenced_macros and name not in macros:
      raise ConfigurationError(binding.place, f"nothing that this run calls uses the macro {name}")
    elif name not in referenced_macros and not binding.place.startswith(_SHIPPED):
      close = signatures.nearest(name, macros if flag else referenced_macros)
      raise ConfigurationError(binding.place, f"this run has no macro {name}{close}")


def _check_scopes(configuration: Configuration, scopes: set[str]) -> None:
  """A flag's scope must be one that the run enters, a user's file's one that some file names."""
  values = (leaf for binding in configuration.bindings for leaf in leaves(binding.value))
  named = {leaf.scope for leaf in values if isinstance(leaf, Reference)}
  for binding in configuration.bindings:
    known = scopes if binding.place.startswith("--") else named
    found = any(scope.startswith(f"{binding.scope}/") for scope in known)
    if binding.scope and not found and not binding.place.startswith(_SHIPPED):
      close = signatures.nearest(binding.scope, [scope[:-1] for scope in known if scope != "/"])
      raise ConfigurationError(binding.place, f"nothing enters the scope {binding.scope}{close}")


def _check_values(configuration: Configuration, macros: dict[str, Binding]) -> None:
  """All macros that the run leads to have values, else one error that lists the flags; those of
  folders no addresses, of which Path("gs://bucket") would make a local folder.
  """
  bound = {name: configuration.macro(name) for name in macros}
  missing = [name for name, binding in bound.items() if not binding or binding.value == REQUIRED]
  if missing:
    flags = (f"--gin.{name}=..." if "/" in name else f"--{name}=..." for name in sorted(missing))
    raise ConfigurationError(macros[missing[0]].place, f"needs {' '.join(flags)}")
  for name, binding in bound.items():
    if name.endswith(_FOLDERS) and re.match(r"\w+://", str(binding.value)):
      wanted = f"wants a path of the file system, mounted where it is far; got {binding.value!r}"
      raise ConfigurationError(binding.place, wanted)


def _check_calls(binding: Binding, last) -> None:
  """What gin will call without arguments has values for all it requires, in some scope."""
  for leaf in leaves(binding.value):
    if isinstance(leaf, Reference) and (leaf.called or binding.target == ENTRY):
      signature = signatures.signature(leaf.target)
      bound = {b.name for b in last if b.target == leaf.target}
      if binding.target == ENTRY:
        bound.add("config_text")  # main.run gives it
      missing = sorted(signature.required - bound) if signature else []
      if missing:
        raise ConfigurationError(binding.place, f"{leaf} needs values for {', '.join(missing)}")


def _check_type(configuration: Configuration, binding: Binding) -> None:
  """A literal has the type that the parameter is annotated with."""
  signature = signatures.signature(binding.target) if binding.target else None
  wanted = signature.parameters.get(binding.name, "") if signature else ""
  parameter = f"{binding.target}.{binding.name}"
  while binding is not None and isinstance(binding.value, Macro):
    binding = configuration.macro(binding.value.name)
  if binding is not None and not _fits(binding.value, wanted):
    hint = f"; as a string, \"'{binding.value}'\"" if wanted == "str" else ""
    got = f"{wanted}, got {binding.value!r}{hint}"
    raise ConfigurationError(binding.place, f"{parameter} wants {got}")


def _fits(value, wanted: str) -> bool:
  while "[" in wanted:
    wanted, changes = re.subn(r"\[[^\[\]]*\]", "", wanted)
    if not changes:
      return True
  kinds = [kind.strip() for kind in wanted.split("|")]
  if isinstance(value, Reference) or not all(kind in _KINDS for kind in kinds):
    return True
  types = sum((_KINDS[kind] for kind in kinds), ())
  return bool in types if isinstance(value, bool) else isinstance(value, types)
