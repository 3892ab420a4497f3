"""`musiclm VERB [GIN_FILE ...] [PROMPT] [--NAME=VALUE ...] [--json] [--debug]`.

A verb is a file gin/run/VERB.gin, `--NAME=VALUE` sets a gin macro, and main.run calls the job that
the verb's file binds. Every error is one line on stderr and an exit code: 2 for files and flags
(before anything heavy is imported), 1 for what the job finds, 130 for an interrupt, 70 for a fault
of the program or the machine, after which a restart may succeed. `--debug` shows the traceback.
"""

import contextlib
import errno
import functools
import inspect
import itertools
import os
import pkgutil
import re
import sys
from pathlib import Path

import absl.logging
import gin

from musiclm_jax import checks, configuration, lock, processes
from musiclm_jax.configuration import ENTRY, Configuration, ConfigurationError, nearest
from musiclm_jax.quiet import quiet
from musiclm_jax.training import hardware

# The operating system's errors after which a restart may succeed.
_DISK_FULL = ("ENOSPC", "EDQUOT")
_MACHINE = (*_DISK_FULL, "EIO", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EBUSY", "ESTALE")
_MACHINE += ("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH")
_MACHINE += ("ENETDOWN", "ETIMEDOUT", "ENODEV", "EREMOTEIO")
_SWITCHES = ("--debug", "--help", "-h")
_TRUE = ("--json", "--ending", "--dry_run")  # flags that set their macro to True


def run(
  job, action: str = "", words: tuple[str, ...] = (), exclusive: str = "", join: bool = False
):
  """What job() returns; a job with an argument config_text gets the whole configuration in it.

  The rest is what a verb's file sets for `main`: of several jobs, {action: job}, one runs; words of
  the command line set the macros `words`, in this order, and one that ends in "..." takes all that
  are left; no second command runs at the same time in the directory that is the job's parameter
  `exclusive`; with `join`, the processes of a job of Slurm or a TPU slice join.
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
    elif not argument.startswith("--") and argument != "-h":
      words.append(argument)
    elif argument in _SWITCHES:
      switches.add(argument)
    elif argument in _TRUE:
      _add(flags, argument, "True")
    elif not equals and (value := next(arguments, "--")).startswith("--"):
      others = ", ".join((*_TRUE, *_SWITCHES))
      raise ConfigurationError(flag, f"a value is missing: {flag}=...; only {others} have none")
    elif flag == "--gin_file":
      files.append(value)
    else:
      _add(flags, flag, value)
  return words, files, flags, switches


def _add(flags: dict[str, tuple[str, str]], flag: str, value: str) -> None:
  """Adds --NAME as the macro NAME, and --gin.KEY as KEY."""
  key = flag.removeprefix("--gin.")
  key = flag[2:].replace("-", "_").upper() if key == flag else key
  if not re.fullmatch(r"(\w+[/.])*\w+" if flag.startswith("--gin.") else r"\w+", key):
    raise ConfigurationError(flag, "a flag is --NAME=VALUE or --gin.MODULE.FUNCTION.NAME=VALUE")
  if key in flags:
    raise ConfigurationError(flag, f"given twice, the first time as {flags[key][0]}")
  flags[key] = flag, value


def _command(argv: list[str]) -> None:
  words, files, flags, switches = parse(argv)
  verbs = {path.stem: path for path in sorted(configuration.FOLDER.glob("run/*.gin"))}
  if not words:
    print(_overview(verbs))
    return
  verb, *words = words
  if verb not in verbs:
    raise ConfigurationError(verb, f"no such verb{nearest(verb, verbs)}")
  joining = {name: flags.pop(name) for name in processes.FLAGS if name in flags}
  config = _read(verbs[verb], words, files, flags)
  if switches & {"--help", "-h"}:
    print(_describe(verb, verbs[verb], config))
    return
  checks.check(config)
  _start(joining, config)
  with _exclusive(config) as begin:  # refuses a second run before the imports, which take seconds
    with contextlib.nullcontext() if "--debug" in switches else quiet():
      checks.import_modules(config)
    checks.check_values(config)
    begin()
    _run(config)


def _read(run_file: Path, words: list[str], files: list[str], flags: dict) -> Configuration:
  """The configuration of the verb's file, the gin files and the flags.

  Words that are not files set the macros that main.run.words lists.
  """
  paths, texts = [run_file.resolve()], []
  for word in (*words, *files):
    path = configuration.find(word)
    if path in paths:
      raise ConfigurationError(word, "given twice")
    (paths if path else texts).append(path or word)
  config, known = Configuration(paths), configuration.names()
  macros = config.value(ENTRY, "words", ())
  folders = tuple(name.partition("/")[0] + "/" for name in known)
  several = bool(macros) and macros[-1].endswith("...")
  for number, word in enumerate(texts):
    like_file = word.endswith(".gin") or (word.startswith(folders) and " " not in word)
    unknown = like_file and not (several and os.path.exists(word))
    if word in files or unknown or (number >= len(macros) and not several):
      close = nearest(word.removesuffix(".gin"), known)
      quote = f"; quote a {macros[-1].lower()} of several words" if macros else ""
      raise ConfigurationError(word, f"no such gin file{quote}{close}")
    if not several or number < len(macros) - 1:
      _add(flags, f"--{macros[number]}", repr(word))
  if several and len(texts) >= len(macros):
    _add(flags, f"--{macros[-1][:-3]}", repr(tuple(texts[len(macros) - 1 :])))
  for key, (flag, value) in flags.items():
    config.add_flag(flag, key, value)
  return config


def _start(joining: dict[str, tuple[str, str]], config: Configuration) -> None:
  """Silences absl and TensorFlow, and joins the other processes of the job if there are any."""
  absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax raises what it logs as errors
  hardware.disable_tpu_probe()
  if not joining:
    # TensorFlow logs a missing GPU as an error. XLA reads this variable too: runs of several
    # processes keep its log, which is the only trace of some of their failures.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  processes.join(joining, detect=config.value(ENTRY, "join"))


def _exclusive(config: Configuration):
  """`lock.exclusive` for the directory that the job's parameter main.run.exclusive names, if any.

  Of several processes, process 0 locks it.
  """
  parameter, job = config.value(ENTRY, "exclusive"), config.job().value
  if not parameter or not processes.is_first():
    return contextlib.nullcontext(lambda: None)
  directory = config.value(job.target, parameter)
  if not isinstance(directory, str):
    raise ConfigurationError(config.file, f"{job} needs a value for {parameter}: a directory")
  return lock.exclusive(directory)


def _run(config: Configuration) -> None:
  """Gives gin all bindings, and calls `run` with the job."""
  config.apply()
  reference = config.job().value
  job, scopes = pkgutil.resolve_name(reference.target), reference.scope.split("/")[:-1]
  with gin.config_scope(scopes if scopes[0] else None):  # not that of a job which called main
    try:
      arguments = gin.get_bindings(job)
    except TypeError as error:  # a constructor's: a value of the wrong kind
      where = re.search(r"In call to configurable '(.*?)'", str(error))
      raise ValueError(f"{where[1]}: {_line(error)}" if where else _line(error)) from error
    run(functools.partial(job, **arguments))


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
  missing, lines = checks.missing(config), []
  users = {
    each[1:]: user for user in config.reached() for each in user.references if each.is_macro()
  }
  for name, user in sorted(users.items(), key=lambda item: (item[0] not in missing, item[0])):
    binding, flag = config.macro(name), f"gin.{name}" if "/" in name else name.lower()
    value = "required" if name in missing else repr(binding.value)
    lines.append(f"  --{flag:<20} {value:<24} {(binding or user).comment}".rstrip())
  return "\n".join([f"musiclm {verb}", "", _head(path), "", *lines])
