"""The job of `musiclm sweep`: commands for every point, a row for each in a table and on a page.

Any number of processes may run the same sweep in the same folder, on one machine or on several
that share it: each takes a point that no other runs. So local workers, the tasks of a Slurm array
and the pods of a JobSet are all the same command.
"""

import multiprocessing
import pathlib
import sys
import time

from musiclm_jax import command_list, lock, storage
from musiclm_jax.datasets.catalogue import data_folder
from musiclm_jax.export.bundle import RELEASED
from musiclm_jax.ranges import NonNegativeFloat, PositiveInt
from musiclm_jax.sweep import page, points, table
from musiclm_jax.training.progress import duration

_POLL_SECONDS = 5.0


def sweep(
  *,
  run: command_list.Run,
  values: points.Values | tuple[points.Values, ...],
  commands: tuple[str, ...],
  places: dict[str, str],
  out_dir: str,
  workers: PositiveInt,
  follow_seconds: NonNegativeFloat,
  dry_run: bool,
  view: page.View,
) -> None:
  """Runs `commands` for every combination of `values` that has not been run, and shows all.

  `values` {name: values} are one product or several; a text with * stands for the paths that
  match. In it {name} is one of `places`, or {data} or {models}, the installed folders; in a command
  also the point's value, or {point}, the folder of the point, out_dir/NAME. `run` takes the words
  of a command and gives an exit code. What commands leave in {point} makes the row: figures of
  metrics.json, losses of metrics.jsonl. out_dir/table.csv and out_dir/index.html are written after
  every point.

  Points that have ended, with the same commands, are not run again; those that were stopped begin
  again with the command at which they were. `workers` processes run at the same time. Where paths
  are swept, `follow_seconds` is how long the sweep waits for new ones. With `dry_run` all commands
  are printed and nothing is run. Raises ValueError, after all others have been run, where a point
  failed, naming the command.
  """
  products = values if isinstance(values, tuple) else (values,)
  places = {"data": str(data_folder()), "models": str(RELEASED), **places}
  job = _Job(run, products, commands, places, out_dir, view)
  if dry_run:
    for _, lines in job.planned():
      print("\n".join(f"musiclm {line}" for line in lines))
    return
  if not job.planned() and not follow_seconds:
    empty = points.patterns(products, places)
    raise ValueError(f"values: no path matches {', '.join(empty)}" if empty else "values: none")
  context = multiprocessing.get_context("spawn")
  others = [
    context.Process(target=job.work_alone, args=(follow_seconds,)) for _ in range(workers - 1)
  ]
  for other in others:
    other.start()
  failed = job.work(follow_seconds)
  for other in others:
    other.join()
  job.show()
  if failed:
    raise ValueError(f"{len(failed)} points failed; the first: {failed[0]}")
  if any(other.exitcode for other in others):
    raise ValueError("points of another worker failed; its messages are above")


class _Job:
  """A sweep that can be sent to other processes."""

  def __init__(self, run, products, commands, places, out_dir: str, view: page.View):
    self._run, self._products, self._commands, self._places = run, products, commands, places
    self._out, self._view = pathlib.Path(out_dir), view

  def planned(self) -> list[tuple[points.Point, list[str]]]:
    """All points that there are now, and their command lines."""
    found = []
    for point in points.expand(self._products, self._places):
      places = {**self._places, "point": str(self._out / point.name)}
      found.append((point, points.commands(point, self._commands, places)))
    return found

  def work(self, follow_seconds: float) -> list[str]:
    """Runs points that no other process runs until none is left; returns what failed."""
    tried, failed, last_new = set(), [], time.monotonic()
    while True:
      planned = self.planned()
      new = [each for each in planned if each[0].name not in tried]
      for point, lines in new:
        tried.add(point.name)
        number = f"{len(tried)}/{len(planned)}"
        if command := self._point(point, lines, number):
          failed.append(command)
        last_new = time.monotonic()
      if not new and time.monotonic() - last_new >= follow_seconds:
        return failed
      if not new:
        time.sleep(min(_POLL_SECONDS, follow_seconds))

  def work_alone(self, follow_seconds: float) -> None:
    """`work` as a process, whose exit code is 1 where a point failed."""
    failed = self.work(follow_seconds)
    print(*failed, sep="\n", end="", file=sys.stderr, flush=True)
    sys.exit(bool(failed))

  def _point(self, point: points.Point, lines: list[str], number: str) -> str:
    """Runs what is left of a point, unless another process does; returns what failed, or ""."""
    if table.ended(self._out, point.name, lines):
      return ""
    folder, head = self._out / point.name / table.FOLDER, f"[{number}] {point.name}:"
    try:
      with lock.exclusive(str(folder)) as begin:
        begin()
        done = command_list.run_rest(self._run, lines, folder / table.DONE, lambda _: head)
    except lock.Taken as error:
      print(f"{head} {error}", file=sys.stderr)
    except command_list.Stopped as error:
      return str(error)
    else:
      print(f"{head} {duration(sum(done.values()))}", file=sys.stderr)
      self.show()
    return ""

  def show(self) -> None:
    """Writes the table and the page of all points that have ended."""
    rows = table.read(self._out, self.planned())
    if rows:
      storage.write_text(self._out / "table.csv", table.csv_text(rows))
      storage.write_text(self._out / "index.html", page.document(rows, self._view, self._out))
