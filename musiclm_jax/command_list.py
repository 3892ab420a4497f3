"""Commands that run one after another and continue where they were stopped."""

import gc
import itertools
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable

import jax

from musiclm_jax import storage

Run = Callable[[list[str]], int]  # takes the words of a command of `musiclm`, gives an exit code


class Stopped(ValueError):
  """A command failed; the text names it."""


def finished(lines: list[str], path: pathlib.Path) -> dict[str, float]:
  """{command line: seconds} of the first of `lines`, as many as the file lists as ended."""
  done = json.loads(path.read_text()) if path.is_file() else {}
  return {line: done[line] for line in itertools.takewhile(done.__contains__, lines)}


def run_rest(
  run: Run, lines: list[str], path: pathlib.Path, head: Callable[[int], str]
) -> dict[str, float]:
  """Runs the command lines that have not ended, and returns {line: seconds} of all.

  The file `path` lists those that have; `head` is printed before each, of its number from 1 on.
  Raises Stopped where one fails.
  """
  done = finished(lines, path)
  for number, line in list(enumerate(lines, start=1))[len(done) :]:
    print(f"\n{head(number)} musiclm {line}", file=sys.stderr, flush=True)
    began = time.perf_counter()
    if run(shlex.split(line)) != 0:
      raise Stopped(f"stopped at: musiclm {line}")
    done[line] = round(time.perf_counter() - began, 1)
    storage.write_text(path, json.dumps(done, indent=1) + "\n")
    jax.clear_caches()  # the next model shares no program with this one
    gc.collect()
  return done
