"""`musiclm VERB [GIN_FILE ...] [PROMPT] [--NAME=VALUE ...] [--json] [--debug]`.

A verb is a file gin/run/VERB.gin, `--NAME=VALUE` sets a gin macro, and main.run calls the job that
the verb's file binds. Every error is one line on stderr and an exit code: 2 for files and flags
(before anything heavy is imported), 1 for what the job finds, 130 for an interrupt, 70 for a fault
of the program or the machine, after which a restart may succeed. `--debug` shows the traceback.
"""

import contextlib
import errno
import functools
import importlib
import inspect
import itertools
import os
import re
import sys
from pathlib import Path

import absl.logging
import gin

from musiclm_jax import checks, configuration, lock, processes
from musiclm_jax.configuration import Configuration, ConfigurationError
from musiclm_jax.quiet import quiet
from musiclm_jax.signatures import nearest
from musiclm_jax.training import hardware

# The operating system's errors after which a restart may succeed.
_DISK_FULL = ("ENOSPC", "EDQUOT")
_MACHINE = (*_DISK_FULL, "EIO", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EBUSY", "ESTALE")
_MACHINE += ("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH")
_MACHINE += ("ENETDOWN", "ETIMEDOUT", "ENODEV", "EREMOTEIO")
_SWITCHES = ("--json", "--debug", "--help", "-h")


def run(
  job, action: str = "", words: tuple[str, ...] = (), exclusive: str = "", join: bool = False
):
  """What job() returns; a job with an argument config_text gets the whole configuration in it.

  The rest is what a verb's file sets for `main`: of several jobs, {action: job}, one runs; words of
  the command line set the macros `words`, in this order; no second command runs at the same time in
  the directory that is the job's parameter `exclusive`; with `join`, the processes of a job of
  Slurm or a TPU slice join.
  """
  wants = "config_text" in inspect.signature(job).parameters
  return job(config_text=gin.config_str()) if wants else job()


def entry() -> None:
  """The console script."""
  sys.excepthook = _crash
  code = main(sys.argv[1:])
  if code:
    processes.leave(code)
  sys.exit(code)


def _crash(kind, error, trace) -> None:
  if processes.joined() and any(each.__name__ == "JaxRuntimeError" for each in kind.__mro__):
    print(f"musiclm: a process or a device was lost: {_line(error)}", file=sys.stderr)
  else:
    sys.__excepthook__(kind, error, trace)
  processes.leave(70)


def main(argv: list[str]) -> int:
  """Runs one command and returns its exit code.

  Can be called again in the same process, also by a job: gin then holds the new command's values.
  """
  try:
    _command(argv)
    sys.stdout.flush()
  except BrokenPipeError:  # the reader of stdout has closed it: `musiclm ... | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except (KeyboardInterrupt, ValueError, OSError, RuntimeError) as error:
    if "--debug" in argv or (isinstance(error, RuntimeError) and not _is(_DISK_FULL, error)):
      raise
    sys.stdout.flush()
    print(f"musiclm: {_line(error)}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
    codes = {ConfigurationError: 2, KeyboardInterrupt: 130}
    fault = isinstance(error, TimeoutError) or _is(_MACHINE, error)
    return codes.get(type(error), 70 if fault else 1)
  return 0


def _is(names: tuple[str, ...], error: BaseException) -> bool:
  """Whether a message holds the text of one of these errors. Not by number: exceptions that passed
  gin have none, and libraries raise other types than OSError.
  """
  return any(os.strerror(getattr(errno, name)) in str(error) for name in names)


def _line(error: BaseException) -> str:
  """The message of an exception in one line, without what gin adds to it."""
  if isinstance(error, KeyboardInterrupt):
    return "interrupted"
  text = str(error).split("\n  In call to configurable")[0]
  text = re.sub(r"^\[Errno \d+\] (.*?): ('.*')$", r"\2: \1", text)
  return " ".join(text.split()) or type(error).__name__


def parse(argv: list[str]) -> tuple[list[str], list[str], dict[str, tuple[str, str]], set[str]]:
  """The words, gin files, flags {key: (flag as written, value)} and switches of a command line."""
  words, files, flags, switches = [], [], {}, set()
  arguments = iter(argv)
  for argument in arguments:
    flag, equals, value = argument.partition("=")
    if argument == "--":
      words += arguments
    elif argument in _SWITCHES:
      switches.add(argument)
    elif not argument.startswith("--"):
      words.append(argument)
    else:
      value = value if equals else next(arguments, "--")
      if not equals and value.startswith("--"):
        close = nearest(flag, _SWITCHES)
        hint = close if "nearest" in close else ""
        raise ConfigurationError(flag, f"a value is missing: {flag}=...{hint}")
      if flag == "--gin_file":
        files.append(value)
        continue
      key = flag.removeprefix("--gin.")
      key = flag[2:].replace("-", "_").upper() if key == flag else key
      if "." in key and not flag.startswith("--gin."):
        raise ConfigurationError(flag, "a flag is --NAME=VALUE or --gin.MODULE.FUNCTION.NAME=VALUE")
      if key in flags:
        raise ConfigurationError(flag, f"given twice, the first time as {flags[key][0]}")
      flags[key] = flag, value
  if "--json" in switches:
    flags.setdefault("JSON", ("--json", "True"))
  return words, files, flags, switches


def _command(argv: list[str]) -> None:
  words, files, flags, switches = parse(argv)
  verbs = {path.stem: path for path in sorted(configuration.FOLDER.glob("run/*.gin"))}
  if not words:
    print(_overview(verbs))
    return
  verb, *words = words
  if verb not in verbs:
    raise ConfigurationError(verb, f"no such verb{nearest(verb, verbs)}")
  config, texts = _read(verbs[verb], words, files)
  joining = {name: flags.pop(name) for name in processes.FLAGS if name in flags}
  for name, text in texts.items():
    if name in flags:
      raise ConfigurationError(f"--{name}", f"given twice, the first time as {text!r}")
    config.add_flag(f"--{name}", name, repr(text))
  for key, (flag, value) in flags.items():
    config.add_flag(flag, key, value)
  helping = bool(switches & {"--help", "-h"})
  if not helping or checks.run_setting(config, "action", ""):
    checks.choose_job(config)
  if helping:
    print(_describe(verb, verbs[verb], config))
    return
  checks.check(config)
  _start(joining, config)
  with _exclusive(config):  # before the imports, which take seconds: the run started first wins
    with contextlib.nullcontext() if "--debug" in switches else quiet():
      _import(config)
    _run(config)


def _read(run_file: Path, words: list[str], files: list[str]) -> tuple[Configuration, dict]:
  """The configuration of the verb's file and the gin files, and the values of the macros that the
  other words set: those that main.run.words lists.
  """
  paths, texts = [run_file.resolve()], []
  for word in (*words, *files):
    path = configuration.find(word)
    if path in paths:
      raise ConfigurationError(word, "given twice")
    (paths if path else texts).append(path or word)
  config, known = Configuration(paths), configuration.names()
  names = checks.run_setting(config, "words", ())
  folders = tuple(name.partition("/")[0] + "/" for name in known)
  for word in texts:
    like_file = word.endswith(".gin") or (word.startswith(folders) and " " not in word)
    if word in files or like_file or not names:
      close = nearest(word.removesuffix(".gin"), known)
      raise ConfigurationError(word, f"no such gin file{close}")
  for word in texts[len(names) :]:
    what, last = names[-1].lower(), texts[len(names) - 1]
    raise ConfigurationError(word, f"a second {what} after {last!r}; quote the {what}")
  return config, dict(zip(names, texts))


def _start(joining: dict[str, tuple[str, str]], config: Configuration) -> None:
  """Silences absl and TensorFlow, and joins the other processes of the job if there are any."""
  absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax raises what it logs as errors
  hardware.disable_tpu_probe()
  if not joining:
    # TensorFlow logs a missing GPU as an error. XLA reads this variable too: runs of several
    # processes keep its log, which is the only trace of some of their failures.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  processes.join(joining, detect=checks.run_setting(config, "join", False))


def _exclusive(config: Configuration):
  """Locks the directory that is the job's parameter main.run.exclusive, if one is set.

  Of several processes, process 0 does. Raises ValueError where another run has locked it.
  """
  parameter = checks.run_setting(config, "exclusive", "")
  if not parameter or not processes.is_first():
    return contextlib.nullcontext()
  job = checks.run_setting(config, "job", None)
  directory = config.source(config.last().get(("", job.target, parameter)))
  if directory is None:
    raise ConfigurationError(config.file, f"{job} needs a value for {parameter}")
  return lock.exclusive(directory.value)


def _import(config: Configuration) -> None:
  """Imports what the files import, before gin does, so that an error names the importing line."""
  for module, place in config.modules.items():
    try:
      importlib.import_module(module)
    except ModuleNotFoundError as error:
      raise ConfigurationError(place, f"{module} cannot be imported: {error}") from error


def _run(config: Configuration) -> None:
  """Gives gin all bindings, and calls `run`."""
  gin.clear_config()
  for binding in config.last().values():
    try:
      gin.parse_config(binding.text)
    except (ValueError, LookupError, AttributeError, NameError, TypeError, SyntaxError) as error:
      raise ConfigurationError(binding.place, str(error).split("\n")[0]) from error
  with gin.config_scope(None):  # not in that of a job which called main
    job = gin.get_bindings(run, resolve_references=False)["job"]
    with gin.config_scope(job.scopes or None):
      try:
        arguments = gin.get_bindings(job.configurable.selector)
      except TypeError as error:  # a constructor's: a value of the wrong kind
        where = re.search(r"In call to configurable '(.*?)'", str(error))
        raise ValueError(f"{where[1]}: {_line(error)}" if where else _line(error)) from error
      run(functools.partial(job.configurable.wrapped, **arguments))


def _head(path: Path) -> str:
  """The comment at the top of a gin file."""
  lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
  return "\n".join(line[1:].removeprefix(" ").rstrip() for line in lines)


def _overview(verbs: dict[str, Path]) -> str:
  lines = ["musiclm VERB [GIN_FILE ...] [PROMPT] [--NAME=VALUE ...] [--json] [--debug]", ""]
  lines += [f"  {verb:<12}{_head(path).partition(chr(10))[0]}" for verb, path in verbs.items()]
  lines += ["", "gin files, named as FOLDER/FILE or by path:", ""]
  names = (name.rpartition("/") for name in configuration.names())
  for folder, group in itertools.groupby(names, lambda name: name[0]):
    if folder != "run":
      lines.append(f"  {folder + '/':<12}{' '.join(file for *_, file in group)}")
  return "\n".join([*lines, "", "musiclm VERB [GIN_FILE ...] --help shows what can be set."])


def _describe(verb: str, path: Path, config: Configuration) -> str:
  """The verb's own comment, and the flags that its job uses with their values."""
  _, macros, _ = config.reached()
  lines = []
  for name, user in sorted(macros.items()):
    binding = config.macro(name)
    missing = binding is None or binding.value == configuration.REQUIRED
    value = "required" if missing else repr(binding.value)
    flag = f"gin.{name}" if "/" in name else name.lower()
    lines.append(f"  --{flag:<20} {value:<24} {(binding or user).comment}".rstrip())
  lines.sort(key=lambda line: " required" not in line)
  return "\n".join([f"musiclm {verb}", "", _head(path), "", *lines])
