"""The supervisor as a process of its own, with a small program in the place of musiclm."""

import os
import signal
import subprocess
import sys
import time

import pytest

from musiclm_jax import supervisor

# Makes the checkpoint that its words name for this start, CHECKPOINT:END. When all processes have
# started that often, it ends as END states: by a signal or an exit code, or waits, as one whose
# peer is lost.
_ENDS = """
import os, pathlib, sys, time
flags = dict(word[2:].split("=") for word in sys.argv if "=" in word)
index, processes = int(flags.get("process_id", 0)), int(flags.get("num_processes", 1))
starts = [pathlib.Path(f"starts_{other}") for other in range(processes)]
count = starts[index].stat().st_size
checkpoint, end = pathlib.Path(f"ends_{index}").read_text().split()[count].split(":")
if checkpoint:
  pathlib.Path("run/checkpoints", checkpoint).mkdir(parents=True)
with starts[index].open("a") as file:
  file.write("x")
while any(other.stat().st_size <= count for other in starts):
  time.sleep(0.01)
if end == "wait":
  time.sleep(60)
if end.startswith("-"):
  os.kill(os.getpid(), -int(end))
sys.exit(int(end))
"""


@pytest.fixture
def start(tmp_path):
  """Starts the supervisor, whose `python -m musiclm_jax` runs `program` in tmp_path.

  As a file, which does not put this package in the place of that one.
  """
  processes = []

  def run(program, *words, **options):
    (tmp_path / "musiclm_jax").mkdir()
    (tmp_path / "musiclm_jax" / "__init__.py").touch()
    (tmp_path / "musiclm_jax" / "__main__.py").write_text(program)
    command = [sys.executable, "-P", supervisor.__file__, *words]
    options |= {"cwd": tmp_path, "text": True}
    processes.append(subprocess.Popen(command, **options))
    return processes[0]

  yield run
  for process in processes:
    process.kill()
    process.communicate()


@pytest.fixture
def supervise(tmp_path, start):
  """Runs programs that end as given: (exit code, how often they were started, lines on stderr)."""

  def run(*programs, model_dir=("--model_dir=run",)):
    for index, ends in enumerate(programs):
      (tmp_path / f"starts_{index}").touch()
      (tmp_path / f"ends_{index}").write_text(" ".join(ends))
    words = (f"--processes={len(programs)}", "--", "train", *model_dir)
    process = start(_ENDS, *words, stderr=subprocess.PIPE)
    lines = process.communicate(timeout=60)[1].splitlines()
    return process.returncode, (tmp_path / "starts_0").stat().st_size, lines

  return run


def test_what_ends_well_is_not_started_again(supervise):
  assert supervise(["2:0"], [":0"]) == (0, 1, [])


def test_a_killed_process_is_started_again_and_so_are_the_others(supervise):
  assert supervise(["2:wait", "4:0"], [":-9", ":0"]) == (
    0,
    2,
    ["supervisor: process 1 was killed by SIGKILL; starting again from step 2 (failure 1 of 3)"],
  )


def test_it_gives_up_after_failures_without_progress_alone(supervise):
  code, starts, lines = supervise([":70", "2:-9", "4:70", ":-6", ":70"])
  assert (code, starts, len(lines)) == (70, 5, 5)
  assert [line.split("(")[-1] for line in lines[:4]] == [
    "failure 1 of 3)",
    "failure 1 of 3)",
    "failure 1 of 3)",
    "failure 2 of 3)",
  ]
  assert lines[4] == (
    "supervisor: process 0 ended with exit code 70; gave up after 3 failures in a row without a "
    "new checkpoint"
  )


@pytest.mark.parametrize("code", [1, 2])
def test_a_mistake_is_not_made_again(supervise, code):
  assert supervise([f":{code}"])[:2] == (code, 1)


def test_a_mistake_beside_a_killed_process_is_its_consequence(supervise):
  assert supervise([":1", ":0"], [":-9", ":0"])[:2] == (0, 2)


def test_a_mistake_of_the_coordinator_is_not_made_again(supervise):
  assert supervise([":1"], [":-6"])[:2] == (1, 1)  # whose end aborts the others


@pytest.mark.parametrize(
  "words", [("--model_dir=run",), ("--MODEL_DIR", "run"), ("--gin.MODEL_DIR='run'",)]
)
def test_progress_is_found_however_the_model_directory_is_given(supervise, words):
  code, starts, lines = supervise(["6:-9", ":0"], model_dir=words)
  assert (code, starts) == (0, 2) and "starting again from step 6 " in lines[0]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_signals_reach_the_processes_and_sigterm_ends_it(start, number, code):
  wait = (
    f"import os, signal, sys, time; signal.signal({int(number)}, lambda *a: sys.exit(0))"
    "; os.write(1, b'1'); time.sleep(60)"
  )
  process = start(wait, "--processes=2", "--", "train", stdout=subprocess.PIPE)
  assert process.stdout.read(2) == "11"
  process.send_signal(number)
  assert process.wait(timeout=20) == code


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_processes_do_not_outlive_their_supervisor(start):
  wait = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
  process = start(wait, "--", "train", stdout=subprocess.PIPE)
  child = int(process.stdout.readline())
  process.kill()
  assert process.stdout.read() == ""  # ends when the child has closed it too
  process.wait()
  with pytest.raises(ProcessLookupError):
    for _ in range(100):  # until it is reaped
      os.kill(child, 0)
      time.sleep(0.05)


def test_a_dry_run_prints_what_would_run(capsys):
  words = ["--processes=2", "--devices_per_process=4", "--dry_run", "--", "train", "a b", "--x='c'"]
  assert supervisor.main(words) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines == [
    f"JAX_NUM_CPU_DEVICES=4 {sys.executable} -m musiclm_jax train --coordinator=localhost:12345 "
    f"--num_processes=2 --process_id={index} 'a b' '--x='\"'\"'c'\"'\"''"
    for index in (0, 1)
  ]


@pytest.mark.parametrize(
  "words", [[], ["train"], ["--processes=0", "--", "train"], ["--failures=no", "--", "train"]]
)
def test_wrong_options_are_refused(words, capsys):
  with pytest.raises(SystemExit) as error:
    supervisor.main(words)
  assert error.value.code == 2 and "wanted" in capsys.readouterr().err
