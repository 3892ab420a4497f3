"""`musiclm VERB [GIN_FILE ...] [PROMPT] [--NAME=VALUE ...] [--json] [--debug]`.

A verb is a file gin/run/VERB.gin, `--NAME=VALUE` sets a gin macro, and main.run calls the job that
the verb's file binds. A mistake of the user is one line on stderr: exit code 2 for files and flags
(before anything heavy is imported), 1 from the job; 130 is an interrupt, 70 a fault of the program
or the machine. `--debug` shows where.
"""

import collections
import contextlib
import dataclasses
import difflib
import errno
import importlib
import inspect
import io
import itertools
import os
import re
import sys
from pathlib import Path

import absl.logging
import gin

from musiclm_jax import checks, configuration, processes
from musiclm_jax.configuration import Configuration, ConfigurationError
from musiclm_jax.signatures import nearest
from musiclm_jax.training import hardware

# The operating system's errors that another start would meet again; others are the machine's.
_LASTING = (errno.ENOENT, errno.EEXIST, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
_LASTING += (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EPIPE)
_SWITCHES = ("--json", "--debug", "--help", "-h")


@dataclasses.dataclass
class CommandLine:
  """The words of a command; flags {key: (flag as written, value as gin source)}."""

  words: list[str]
  files: list[str]
  flags: dict[str, tuple[str, str]]
  switches: set[str]


def run(job, action: str = ""):  # of several jobs, {action: job}, `checks.choose_job` takes one
  """What job() returns; a job with an argument config_text gets the whole configuration in it."""
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
    return _main(parse(argv))
  except (KeyboardInterrupt, ValueError, OSError) as error:
    if "--debug" in argv:
      raise
    sys.stdout.flush()
    print(f"musiclm: {_line(error)}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
    codes = {ConfigurationError: 2, KeyboardInterrupt: 130}
    return codes.get(type(error), 70 if _is_fault(error) else 1)


def _is_fault(error: BaseException) -> bool:
  """Whether the machine has failed, or another that is late."""
  number = re.match(r"\[Errno (\d+)\]", str(error))  # gin's exceptions have lost error.errno
  if number is None:
    return isinstance(error, TimeoutError)
  return int(number[1]) not in _LASTING


def _line(error: BaseException) -> str:
  """The message of an exception in one line, without what gin adds to it."""
  if isinstance(error, KeyboardInterrupt):
    return "interrupted"
  text = str(error).split("\n  In call to configurable")[0]
  text = re.sub(r"^\[Errno \d+\] (.*?): ('.*')$", r"\2: \1", text)
  return " ".join(text.split()) or type(error).__name__


def parse(argv: list[str]) -> CommandLine:
  """The command line taken apart, before any file is read; raises ConfigurationError."""
  command = CommandLine([], [], {}, set())
  arguments = collections.deque(argv)
  while arguments:
    argument = arguments.popleft()
    name, equals, value = argument.partition("=")
    if argument == "--":
      command.words += arguments
      break
    if argument == "--json":
      _add_flag(command, argument, "True")
    elif argument in _SWITCHES:
      command.switches.add(argument)
    elif not argument.startswith("--"):
      command.words.append(argument)
    elif not equals and (not arguments or arguments[0].startswith("--")):
      close = nearest(name, _SWITCHES) if difflib.get_close_matches(name, _SWITCHES) else ""
      raise ConfigurationError(name, f"a value is missing: {name}=...{close}")
    else:
      _add_flag(command, name, value if equals else arguments.popleft())
  return command


def _add_flag(command: CommandLine, flag: str, value: str) -> None:
  if flag == "--gin_file":
    command.files.append(value)
    return
  key = flag.removeprefix("--gin.")
  if key == flag:
    key = flag[2:].replace("-", "_").upper()
    if not key.isidentifier():
      raise ConfigurationError(flag, "a flag is --NAME=VALUE or --gin.MODULE.FUNCTION.NAME=VALUE")
  if key in command.flags:
    raise ConfigurationError(flag, f"given twice, the first time as {command.flags[key][0]}")
  command.flags[key] = (flag, configuration.literal(value))


def _main(command: CommandLine) -> int:
  verbs = {path.stem: path for path in sorted(configuration.FOLDER.glob("run/*.gin"))}
  helping = bool(command.switches & {"--help", "-h"})
  if not command.words:
    print(_overview(verbs))
    return 0
  verb, *words = command.words
  if verb not in verbs:
    raise ConfigurationError(verb, f"no such verb{nearest(verb, verbs)}")
  config, others = _read(verbs[verb], words, command.files)
  joining = {name: command.flags.pop(name) for name in processes.FLAGS if name in command.flags}
  if others:
    for name, word in zip(_word_macros(config), others):
      if name in command.flags:
        raise ConfigurationError(f"--{name}", f"given twice, the first time as {word!r}")
      command.flags[name] = (f"--{name}", repr(word))
  for key, (flag, value) in command.flags.items():
    config.add_flag(flag, key, value)
  if not helping or checks.action(config):
    checks.choose_job(config)
  if helping:
    print(_describe(verb, verbs[verb], config))
    return 0
  checks.check(config)
  _start(joining, config)
  with contextlib.nullcontext() if "--debug" in command.switches else _quiet():
    _import(config)
  _apply(config)
  return 0


def _read(run_file: Path, words: list[str], files: list[str]) -> tuple[Configuration, list[str]]:
  """The configuration of the verb's file and the files among the words, and the other words."""
  paths, others = [run_file.resolve()], []
  for word in (*words, *files):
    path = configuration.find(word)
    if path in paths:
      raise ConfigurationError(word, "given twice")
    (paths if path else others).append(path or word)
  config = Configuration(paths)
  folders = tuple({f"{name.split('/')[0]}/" for name in configuration.names() if "/" in name})
  for word in others:
    like_file = word.endswith(".gin") or (word.startswith(folders) and " " not in word)
    if word in files or like_file or not _word_macros(config):
      close = nearest(word.removesuffix(".gin"), configuration.names())
      raise ConfigurationError(word, f"no such gin file{close}")
  if len(others) > len(names := _word_macros(config)):
    what = names[-1].lower()
    last, spare = others[len(names) - 1 :][:2]
    raise ConfigurationError(spare, f"a second {what} after {last!r}; quote the {what}")
  return config, others


def _word_macros(config: Configuration) -> tuple[str, ...]:
  """The macros that words set which are no gin files, in their order: what the macro WORD says."""
  binding = config.macro("WORD")
  names = binding.value if binding else ()
  return (names,) if isinstance(names, str) else tuple(names)


def _start(joining: dict[str, tuple[str, str]], config: Configuration) -> None:
  """Quietens absl and TensorFlow, and joins the other processes of the job if there are any."""
  absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax raises what it logs as errors
  hardware.disable_tpu_probe()
  if not joining:
    # TensorFlow calls a missing GPU an error. XLA reads this too: runs of several processes, which
    # fail in ways that only its log tells, keep theirs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  join = config.macro("JOIN")
  processes.join(joining, detect=join is not None and join.value)


@contextlib.contextmanager
def _quiet():
  """Drops what is written to file descriptor 2: TensorFlow greets there before it has a log."""
  kept = os.dup(2)
  with open(os.devnull, "w") as nowhere:
    os.dup2(nowhere.fileno(), 2)
  try:
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)


def _import(config: Configuration) -> None:
  """Imports what the files import, before gin does: so that an error shows where it was wanted."""
  for module, place in config.imports.items():
    try:
      importlib.import_module(module)
    except ModuleNotFoundError as error:
      raise ConfigurationError(place, f"{module} cannot be imported: {error}") from error


def _apply(config: Configuration) -> None:
  """Gives gin the text of all files and flags, and calls run."""
  gin.clear_config()
  for file, text in config.texts:
    stream = io.StringIO(text)
    stream.name = file
    try:
      gin.parse_config(stream)
    except (ValueError, LookupError, AttributeError, NameError, TypeError, SyntaxError) as error:
      line = re.search(r" line (\d+)\n", str(error))
      place = f"{file}:{line[1]}" if line and file.endswith(".gin") else file
      raise ConfigurationError(place, str(error).split("\n")[0]) from error
  job = None
  try:
    with gin.config_scope(None):  # not in that of a job which called main
      jobs = gin.get_bindings(run)["job"]
      job = jobs[checks.action(config)] if isinstance(jobs, dict) else jobs
      run(job)
  except TypeError as error:
    if _inside(job, error):
      raise
    # A constructor's: a value of the wrong kind.
    where = re.search(r"In call to configurable '(.*?)'", str(error))
    raise ValueError(f"{where[1]}: {_line(error)}" if where else _line(error)) from error


def _inside(job, error: TypeError) -> bool:
  """Whether the exception comes from inside the job, not from gin making its arguments."""
  traceback, code = error.__traceback__, getattr(inspect.unwrap(job), "__code__", None)
  while traceback is not None and traceback.tb_frame.f_code is not code:
    traceback = traceback.tb_next
  return traceback is not None


def _head(path: Path) -> str:
  """The comment at the top of a gin file."""
  lines = []
  for line in path.read_text().splitlines():
    if not line.startswith("#"):
      break
    lines.append(line[1:].removeprefix(" ").rstrip())
  return "\n".join(lines)


def _overview(verbs: dict[str, Path]) -> str:
  lines = ["musiclm VERB [GIN_FILE ...] [PROMPT] [--NAME=VALUE ...] [--json] [--debug]", ""]
  lines += [f"  {verb:<12}{_head(path).partition(chr(10))[0]}" for verb, path in verbs.items()]
  lines += ["", "gin files, to be named as FOLDER/FILE or by path:", ""]
  names = (name.rpartition("/") for name in configuration.names())
  for folder, group in itertools.groupby(names, lambda name: name[0]):
    if folder != "run":
      lines.append(f"  {folder + '/':<12}{' '.join(file for *_, file in group)}")
  return "\n".join([*lines, "", "musiclm VERB [GIN_FILE ...] --help shows what can be set."])


def _describe(verb: str, path: Path, config: Configuration) -> str:
  """The verb's own comment, and the macros that its job leads to with their values."""
  _, macros, _ = config.reached()
  lines = []
  for name, user in sorted(macros.items()):
    binding = config.macro(name)
    missing = binding is None or binding.value == configuration.REQUIRED
    value = "required" if missing else repr(binding.value)
    lines.append(f"  --{name:<20} {value:<24} {(binding or user).comment}".rstrip())
  lines.sort(key=lambda line: " required" not in line)
  return "\n".join([f"musiclm {verb}", "", _head(path), "", *lines])
