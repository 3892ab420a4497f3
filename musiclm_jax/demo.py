"""The whole of MusicLM as a list of commands: what `musiclm demo` runs, one after another.

Every command is one that a user could type, and continues where it was stopped; those that have
ended are not run again.
"""

import pathlib
import resource
import shutil
import sys

from musiclm_jax import command_list
from musiclm_jax.datasets.catalogue import data_folder
from musiclm_jax.export.bundle import RELEASED
from musiclm_jax.ranges import NonNegativeFloat
from musiclm_jax.training.progress import duration


def demo(
  *,
  run: command_list.Run,
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
  places = {"{dir}": output_dir, "{data}": str(data_folder()), "{models}": str(RELEASED)}
  lines = [_filled(command, places) for _, command in commands]
  ended = len(command_list.finished(lines, path))
  if ended == len(lines):
    print(f"{output_dir}: all {len(lines)} commands have been run; see {output_dir}/report.html")
    return
  _plan([minutes for minutes, _ in commands], ended, output_dir, memory_gb, disk_gb)
  done = command_list.run_rest(run, lines, path, lambda number: f"[{number}/{len(lines)}]")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  total = duration(sum(done.values()))
  print(f"\ndone in {total}, at most {peak:.1f} GB of memory: open {output_dir}/report.html")


def _filled(command: str, places: dict[str, str]) -> str:
  for name, path in places.items():
    command = command.replace(name, path)
  return command


def _plan(
  minutes: list[float], ended: int, output_dir: str, memory_gb: float, disk_gb: float
) -> None:
  """Says what will be done and what it takes."""
  left = minutes[ended:]
  pathlib.Path(output_dir).mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(output_dir).free / 2**30
  print(
    f"plan: {len(left)} of {len(minutes)} commands, about {sum(left):.0f} minutes on 2 cores, "
    f"{memory_gb:g} GB of memory, {disk_gb:g} GB of disk in {output_dir} ({free:.0f} GB are free)",
    file=sys.stderr,
  )
  if free < disk_gb:
    raise ValueError(f"{output_dir}: {disk_gb:g} GB of disk are needed, {free:.1f} GB are free")
