"""Common to the launchers: their flags, the command of a host, and running or printing it."""

import argparse
import shlex
import shutil
import subprocess
import sys

SUPERVISOR = "musiclm_jax.supervisor"
_OWN = ("DEVICES", "COORDINATOR", "NUM_PROCESSES", "PROCESS_ID")  # flags that launchers add
# Within which all hosts must start. It allows for pulling images and creating nodes, and for the
# minutes until Slurm notices a lost node: the other nodes must still wait then, or the job fails.
_START_SECONDS = 600


class Parser(argparse.ArgumentParser):
  """An argument parser whose errors are one line and exit code 2."""

  def __init__(self, **settings):
    raw = argparse.RawDescriptionHelpFormatter
    super().__init__(allow_abbrev=False, formatter_class=raw, **settings)

  def error(self, message: str):
    self.exit(2, f"{self.prog}: {message}\n")

  def parse(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """(options, the words after `--`). Exits with 2 where either is wrong."""
    end = argv.index("--") if "--" in argv else len(argv)
    options, words = self.parse_args(argv[:end]), argv[end + 1 :]
    if not words or words[0].startswith("-"):
      found = words[0] if words else "nothing"
      self.error(f"wanted `-- VERB ...` at the end, a command of musiclm; got {found}")
    for word in words:
      if _name(word) in _OWN:
        self.error(f"{word.partition('=')[0]} is set by the launcher; remove it after --")
    return options, words


def _name(word: str) -> str:
  """DEVICES for --devices=8; "" for a word that is not a flag."""
  flag = word.partition("=")[0]
  return flag[2:].replace("-", "_").upper() if flag.startswith("--") else ""


def count(text: str) -> int:
  """A whole number from 1 on, for argparse."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f"wanted a whole number from 1 on, got {text!r}")
  return int(text)


def supervised(python: str, words: list[str], *flags: str) -> list[str]:
  """The command of one host: the supervisor, then musiclm with `flags` added."""
  if "START_SECONDS" not in map(_name, words):
    flags += (f"--start_seconds={_START_SECONDS}",)
  # The flags come right after the verb, because a `--` among the words would end the flags.
  return [python, "-m", SUPERVISOR, "--", words[0], *flags, *words[1:]]


def start(argv: list[str], *, dry_run: bool, stdin: str = "") -> int:
  """Runs a command and returns its exit code; a dry run prints it as a shell command instead."""
  if dry_run:
    print(_shell(argv, stdin))
    return 0
  if shutil.which(argv[0]) is None:
    print(f"{argv[0]} is not on PATH; --dry_run works without it", file=sys.stderr)
    return 1
  return subprocess.run(argv, input=stdin, encoding="utf-8").returncode


def _shell(argv: list[str], stdin: str) -> str:
  line, end = shlex.join(argv), "END"
  while end in stdin.split("\n"):
    end += "_"
  return f"{line} <<'{end}'\n{stdin}{end}" if stdin else line
