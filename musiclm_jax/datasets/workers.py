"""Jobs in several processes: results in order, never far ahead, and an end where one of them dies.

No TFDS and no audio: `parallel_build` and `catalogue_builder` bring the work.
"""

import collections
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

# Like the builtin: map(function, jobs) is an iterator over function(job).
Map = Callable[[Callable, Iterable], Iterator]

_JOBS_AHEAD = 4  # jobs per process whose results may wait in memory until they are taken


@contextlib.contextmanager
def ordered_map(workers: int) -> Iterator[Map]:
  """A `map` whose function runs in `workers` processes, or in this one where that is 1.

  Results come in the order of the jobs, and an exception of the function is raised in the place of
  its result. When the context ends, jobs that have not begun are dropped and the processes end.
  Raises ValueError for fewer than one process, and ChildProcessError, with the jobs in question,
  where a process dies.
  """
  if workers < 1:
    raise ValueError(f"workers: wanted at least 1, got {workers}")
  if workers == 1:
    yield map
    return
  context = multiprocessing.get_context("spawn")
  executor = futures.ProcessPoolExecutor(workers, context, _end_with_parent)
  try:
    yield functools.partial(_map, executor, workers)
  finally:
    executor.shutdown(cancel_futures=True)


def _map(executor: futures.Executor, workers: int, function: Callable, jobs: Iterable) -> Iterator:
  """function(job) of each job; `Executor.map` would begin all of them at once."""
  begun = collections.deque()
  try:
    for job in jobs:
      with _interrupts_held():
        begun.append((job, executor.submit(function, job)))
      if len(begun) == _JOBS_AHEAD * workers:
        yield begun[0][1].result()
        begun.popleft()
    while begun:
      yield begun[0][1].result()
      begun.popleft()
  except BrokenProcessPool:
    lost = [job for job, future in begun if not future.done() or future.exception()]
    names = ", ".join(str(job) for job in lost[:workers])
    raise ChildProcessError(
      f"a worker process was killed or crashed, at one of: {names}; where memory is short, "
      f"choose fewer than {workers} workers"
    ) from None


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
  """Processes that start in here never see Ctrl-C: this process does, and then ends them."""
  mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _end_with_parent() -> None:
  """Lets a worker process end when its parent does, also when that is killed."""

  def wait():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
