"""Jobs in several processes: their order, their errors, and no process that waits or stays."""

import os
import signal
import subprocess
import sys

import pytest

from musiclm_jax.datasets import workers


def double(job):
  return 2 * job


def large_then_fail(job):
  """More than a pipe holds, so that another process is still writing when this one fails."""
  if job == 3:
    raise ValueError("a.wav: bad")
  return bytes(1 << 20)


def die(job):
  if job == 5:
    os.kill(os.getpid(), signal.SIGKILL)
  return job


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_jobs(count):
  with workers.ordered_map(count) as parallel:
    assert list(parallel(double, range(20))) == list(range(0, 40, 2))
    assert list(parallel(double, [])) == []


def test_few_jobs_begin_before_their_results_are_taken():
  begun = []

  def jobs():
    for job in range(50):
      begun.append(job)
      yield job

  with workers.ordered_map(2) as parallel:
    results = parallel(double, jobs())
    for taken in range(1, 40):
      next(results)
      assert len(begun) <= taken + 8


@pytest.mark.parametrize("count", [1, 2])
def test_an_exception_ends_the_work_and_the_processes(count):
  with pytest.raises(ValueError, match="a.wav: bad"), workers.ordered_map(count) as parallel:
    list(parallel(large_then_fail, range(40)))


def test_a_killed_process_is_noticed_and_its_jobs_are_named():
  with pytest.raises(ChildProcessError) as caught, workers.ordered_map(2) as parallel:
    list(parallel(die, range(40)))
  text = str(caught.value)
  assert text.startswith("a worker process was killed or crashed, at one of: ")
  assert "5" in text.partition("one of: ")[2].partition(";")[0].split(", ")


def test_fewer_than_one_is_refused():
  wanted = pytest.raises(ValueError, match="workers: wanted at least 1, got 0")
  with wanted, workers.ordered_map(0):
    pass


PROGRAM = """
import os, sys, time
from musiclm_jax.datasets import workers

def sleep(job):
  print(os.getpid(), flush=True)
  time.sleep(60)

if __name__ == "__main__":
  with workers.ordered_map(2) as parallel:
    list(parallel(sleep, [1, 2]))
"""


def test_no_process_outlives_a_parent_that_is_killed(tmp_path):
  (tmp_path / "program.py").write_text(PROGRAM)
  command = [sys.executable, str(tmp_path / "program.py")]
  parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  children = [int(parent.stdout.readline()) for _ in range(2)]
  assert len(set(children)) == 2
  parent.kill()
  parent.communicate(timeout=30)  # ends when no process has stdout open any more
