"""One command at a time in a directory: who is refused, and for how long."""

import importlib
import os
import subprocess
import sys

import pytest

from musiclm_jax import lock, main

TRAIN = ["train", "model/small", "size/tiny", "--model_dir"]
_HOLDER = """
import sys
from musiclm_jax import lock

with lock.exclusive(sys.argv[1]) as begin:
  print("ready", flush=True)
  sys.stdin.readline()
  begin()
  print("begun", flush=True)
  sys.stdin.readline()
"""


@pytest.fixture
def environment():
  """That of commands that import what the tests import."""
  return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def holder(environment):
  """A function that starts a process which gets ready for a directory, and begins at a line."""

  def start(directory):
    command = [sys.executable, "-c", _HOLDER, str(directory)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen(command, **pipes, text=True, bufsize=1, env=environment)

  return start


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_that_start_together_the_first_runs(holder, tmp_path, order):
  with holder(tmp_path) as first, holder(tmp_path) as second:
    both = first, second
    assert [each.stdout.readline() for each in both] == ["ready\n"] * 2
    for index in order:
      both[index].stdin.write("\n")
      both[index].stdout.readline() if index == 0 else both[index].wait()
    error = second.stderr.read().splitlines()[-1]
    assert second.returncode == 1 and "runs in this directory" in error
    assert first.poll() is None
    first.stdin.write("\n")
  assert first.returncode == 0


def test_a_second_command_is_refused_until_the_first_has_died(studio, tmp_path, capsys, holder):
  calls = importlib.import_module("studio.jobs").CALLS
  directory = str(tmp_path / "run")
  with holder(directory) as other:
    other.stdin.write("\n")
    assert [other.stdout.readline() for _ in range(2)] == ["ready\n", "begun\n"]
    before = len(calls)
    assert main.main([*TRAIN, directory]) == 1
    assert len(calls) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"musiclm: {directory}: process {other.pid} on ")
    assert line.endswith("runs in this directory; wait for its end, or choose another directory")
    assert main.main([*TRAIN, str(tmp_path / "other")]) == 0
    other.kill()
  assert main.main([*TRAIN, directory]) == 0


def test_a_directory_is_locked_while_the_job_runs_and_free_after_it(studio, tmp_path):
  calls = importlib.import_module("studio.jobs").CALLS
  for _ in range(2):
    assert main.main(["again", f"--dir={tmp_path}"]) == 0
    assert f"process {os.getpid()} on" in calls[-1]


def test_the_directory_is_the_one_that_the_job_gets(studio, tmp_path, capsys):
  argv = [*TRAIN[:-1], f"--gin.jobs.train.model_dir={tmp_path}"]
  assert main.main(argv) == 0
  assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")
  assert main.main([*argv, "--gin.main.run.exclusive=folder"]) == 2
  assert "needs a value for folder" in capsys.readouterr().err


def test_a_directory_that_cannot_be_made_is_named(studio, tmp_path, capsys):
  (tmp_path / "file").write_text("")
  assert main.main([*TRAIN, "file"]) == 1
  assert capsys.readouterr().err == "musiclm: 'file': File exists\n"


def test_a_training_is_refused_before_anything_heavy_is_imported(tmp_path, environment):
  command = [sys.executable, "-X", "importtime", "-m", "musiclm_jax", "train", "tiny/soundstream"]
  command += ["--data_dir=nowhere", f"--model_dir={tmp_path}"]
  with lock.exclusive(str(tmp_path)) as begin:
    begin()
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
  errors = result.stderr.splitlines()
  imported = {row.split("|")[-1].strip() for row in errors if row.startswith("import time:")}
  (line,) = [row for row in errors if not row.startswith("import time:")]
  assert result.returncode == 1 and "runs in this directory" in line
  assert "gin.config" in imported and not imported & {"jax", "flax", "numpy", "tensorflow"}
