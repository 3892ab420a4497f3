"""The whole of MusicLM as a list of commands: what `musiclm demo` runs, one after another.

Every command is one that a user could type, and continues where it was stopped; those that have
ended are not run again.
"""

import gc
import json
import pathlib
import resource
import shlex
import shutil
import sys
import time

import jax

from musiclm_jax import storage
from musiclm_jax.datasets.catalogue import data_folder
from musiclm_jax.export.bundle import RELEASED
from musiclm_jax.ranges import NonNegativeFloat
from musiclm_jax.training.progress import duration


def demo(
  *,
  run,
  commands: tuple[tuple[float, str], ...],
  output_dir: str,
  memory_gb: NonNegativeFloat,
  disk_gb: NonNegativeFloat,
) -> None:
  """Runs `commands`, pairs of (expected minutes on 2 cores, command line of `musiclm`).

  {dir} in a command is output_dir, {data} and {models} are the installed folders of these names;
  `run` takes its words and gives an exit code. Seconds of the finished commands are listed in
  output_dir/progress.json. Raises ValueError where one fails, or where the disk is too small.
  """
  path = pathlib.Path(output_dir, "progress.json")
  done = json.loads(path.read_text()) if path.exists() else {}
  places = {"{dir}": output_dir, "{data}": str(data_folder()), "{models}": str(RELEASED)}
  lines = [(minutes, _filled(command, places)) for minutes, command in commands]
  left = [(minutes, command) for minutes, command in lines if command not in done]
  if not left:
    print(f"{output_dir}: all {len(lines)} commands have been run; see {output_dir}/report.html")
    return
  _plan(lines, left, output_dir, memory_gb, disk_gb)
  for number, (_, command) in enumerate(lines, start=1):
    if command in done:
      continue
    print(f"\n[{number}/{len(lines)}] musiclm {command}", file=sys.stderr)
    began = time.perf_counter()
    if run(shlex.split(command)) != 0:
      raise ValueError(f"stopped at: musiclm {command}")
    done[command] = round(time.perf_counter() - began, 1)
    storage.write_text(path, json.dumps(done, indent=1) + "\n")
    jax.clear_caches()  # the next model shares no program with this one
    gc.collect()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  total = duration(sum(done.values()))
  print(f"\ndone in {total}, at most {peak:.1f} GB of memory: open {output_dir}/report.html")


def _filled(command: str, places: dict[str, str]) -> str:
  for name, path in places.items():
    command = command.replace(name, path)
  return command


def _plan(lines, left, output_dir: str, memory_gb: float, disk_gb: float) -> None:
  """Says what will be done and what it takes."""
  minutes = sum(m for m, _ in left)
  pathlib.Path(output_dir).mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(output_dir).free / 2**30
  print(
    f"plan: {len(left)} of {len(lines)} commands, about {minutes:.0f} minutes on 2 cores, "
    f"{memory_gb:g} GB of memory, {disk_gb:g} GB of disk in {output_dir} ({free:.0f} GB are free)",
    file=sys.stderr,
  )
  if free < disk_gb:
    raise ValueError(f"{output_dir}: {disk_gb:g} GB of disk are needed, {free:.1f} GB are free")
