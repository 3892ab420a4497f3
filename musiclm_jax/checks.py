"""What can be wrong with a configuration as a whole: each a ConfigurationError with its place."""

import re

from musiclm_jax import ranges, signatures
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
from musiclm_jax.signatures import nearest

_FOLDERS = ("_DIR", "BUNDLE", "OUT")  # how macros that name files end


def check(configuration: Configuration) -> None:
  """Raises ConfigurationError for the first mistake in the whole of files and flags.

  In this order: parameters that do not exist, what has no effect, a run without a job, macros
  without a value, values that do not fit.
  """
  targets, macros, scopes = configuration.reached()
  last = configuration.last()
  for binding in last.values():
    _check_name(binding)
  for binding in configuration.bindings:
    if not binding.place.startswith("gin/"):  # where files may set more than one run uses
      _check_effect(configuration, binding, targets, macros, scopes)
  if ("", ENTRY, "job") not in last:
    raise ConfigurationError(configuration.file, "binds no job: main.run.job = @...")
  bound = {name: configuration.macro(name) for name in macros}
  missing = [name for name, binding in bound.items() if not binding or binding.value == REQUIRED]
  if missing:
    flags = (f"--gin.{name}=..." if "/" in name else f"--{name}=..." for name in sorted(missing))
    raise ConfigurationError(macros[missing[0]].place, f"needs {' '.join(flags)}")
  for binding in last.values():
    _check_value(configuration, binding)
    if binding.target in targets or binding.name in macros:
      _check_calls(binding, last.values())


def run_setting(configuration: Configuration, name: str, default):
  """The value of main.run.NAME, `default` without one."""
  source = configuration.source(configuration.last().get(("", ENTRY, name)))
  return source.value if source else default


def choose_job(configuration: Configuration) -> None:
  """Of several jobs, `main.run.job = {"ACTION": @job, ...}`, keeps that of main.run.action.

  Raises ConfigurationError, with the nearest actions, where it is not one of them.
  """
  job = configuration.last().get(("", ENTRY, "job"))
  name = run_setting(configuration, "action", "")
  if job is None or not isinstance(job.value, dict):
    return
  if name not in job.value:
    wanted = f"no action {name!r}" if name else "an action is missing"
    raise ConfigurationError(job.place, f"{wanted}{nearest(str(name), job.value)}")
  configuration.replace(job, job.value[name])


def _check_name(binding: Binding) -> None:
  known = signatures.parameters(binding.target)
  if binding.target and known is not None and binding.name not in known:
    function = binding.target.removeprefix(f"{signatures.PACKAGE}.")
    close = nearest(binding.name, known)
    raise ConfigurationError(binding.place, f"{function} has no parameter {binding.name}{close}")


def _check_effect(configuration: Configuration, binding: Binding, targets, macros, scopes) -> None:
  """A flag reaches what the run calls; a macro or scope of a file is used by some file."""
  flag, target, name = binding.place.startswith("--"), binding.target, binding.name
  referenced = set(configuration.leaves(Macro))
  known = scopes if flag else {each.scope for each in configuration.leaves(Reference)}
  if flag and target and not any(f"{target}.".startswith(f"{each}.") for each in targets):
    message = f"this run does not call {target}"
  elif binding.scope and not any(each.startswith(f"{binding.scope}/") for each in known):
    message = f"nothing enters the scope {binding.scope}{nearest(binding.scope, known)}"
  elif not target and name not in referenced:
    message = f"this run has no macro {name}{nearest(name, macros if flag else referenced)}"
  elif not target and flag and name not in macros:
    message = f"nothing that this run calls uses the macro {name}"
  else:
    return
  raise ConfigurationError(binding.place, message)


def _check_value(configuration: Configuration, binding: Binding) -> None:
  """The value that a parameter gets by way of macros fits its type; a folder is no address."""
  known = signatures.parameters(binding.target) or {}
  kind = known[binding.name].kind if binding.name in known else object
  parameter = f"{binding.target}.{binding.name}"
  if binding.name.endswith(_FOLDERS) and re.match(r"\w+://", str(binding.value)):
    wanted = f"wants a path of the file system (mount remote storage), got {binding.value!r}"
    raise ConfigurationError(binding.place, wanted)
  binding = configuration.source(binding)
  if binding and not ranges.fits(binding.value, kind):
    hint = f"; as a string, \"'{binding.value}'\"" if kind is str else ""
    got = f"{ranges.describe(kind)}, got {binding.value!r}{hint}"
    raise ConfigurationError(binding.place, f"{parameter} wants {got}")


def _check_calls(binding: Binding, last) -> None:
  """What gin will call without arguments has values for all it requires, in some scope."""
  if binding.target and binding.value == REQUIRED:
    raise ConfigurationError(binding.place, f"{binding.target}.{binding.name} needs a value")
  for leaf in leaves(binding.value):
    if isinstance(leaf, Reference) and (leaf.called or binding.target == ENTRY):
      given = {b.name for b in last if b.target == leaf.target} | {"config_text"}  # by main.run
      known = signatures.parameters(leaf.target) or {}
      missing = sorted(n for n, parameter in known.items() if parameter.required and n not in given)
      if missing:
        raise ConfigurationError(binding.place, f"{leaf} needs values for {', '.join(missing)}")
