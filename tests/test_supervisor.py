"""The supervisor, with small programs in the place of musiclm."""

import os
import signal
import subprocess
import sys
import time

import pytest

from musiclm_jax import supervisor

# Makes the checkpoints that its words name, one each time it is started. When all processes have
# come so far, dies of what they say, a signal or an exit code, or waits, as one whose peer is lost.
_PROGRAM = """
import os, pathlib, sys, time
model_dir, index, processes = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:4])
starts = [model_dir / f"starts_{other}" for other in range(processes)]
count = starts[index].stat().st_size
checkpoint, end = sys.argv[4 + count].split(":")
if checkpoint:
  (model_dir / "checkpoints" / checkpoint).mkdir(parents=True)
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
def supervise(tmp_path, monkeypatch):
  """Runs programs that end as told, and gives (exit code, how often they were started)."""

  def run(*programs, grace_seconds=30):
    def commands(words, count, port):
      return [
        [sys.executable, "-c", _PROGRAM, str(tmp_path), str(index), str(count), *ends]
        for index, ends in enumerate(programs)
      ]

    for index in range(len(programs)):
      (tmp_path / f"starts_{index}").touch()
    monkeypatch.setattr(supervisor, "_commands", commands)
    monkeypatch.setattr(supervisor, "_GRACE_SECONDS", grace_seconds)
    code = supervisor.main(
      [f"--processes={len(programs)}", "--", "train", f"--model_dir={tmp_path}"]
    )
    return code, (tmp_path / "starts_0").stat().st_size

  return run


def test_what_ends_well_is_not_started_again(supervise):
  assert supervise(["2:0"], [":0"]) == (0, 1)


def test_a_killed_process_is_started_again_and_so_are_the_others(supervise, capfd):
  assert supervise(["2:wait", "4:0"], [":-9", ":0"], grace_seconds=0.2) == (0, 2)
  assert capfd.readouterr().err == (
    "supervisor: process 1 was killed by SIGKILL; starting again from step 2 (failure 1 of 3)\n"
  )


def test_it_gives_up_after_failures_without_progress_alone(supervise, capfd):
  ends = [":70", "2:-9", "4:70", ":-6", ":70"]
  assert supervise(ends) == (70, 5)
  lines = capfd.readouterr().err.splitlines()
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
  assert len(lines) == 5


@pytest.mark.parametrize("code", [1, 2])
def test_a_mistake_is_not_made_again(supervise, code):
  assert supervise([f":{code}"]) == (code, 1)


def test_a_mistake_beside_a_killed_process_is_its_consequence(supervise):
  assert supervise([":1", ":0"], [":-9", ":0"]) == (0, 2)


def test_a_mistake_of_the_coordinator_is_not_made_again(supervise):
  assert supervise([":1"], [":-6"]) == (1, 1)  # whose end aborts the others


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_signals_reach_the_processes_and_sigterm_ends_it(number, code):
  wait = (
    f"import os, signal, sys, time; signal.signal({int(number)}, lambda *a: sys.exit(0))"
    "; os.write(1, b'1'); time.sleep(60)"
  )
  program = (
    "import sys; from musiclm_jax import supervisor\n"
    f"supervisor._commands = lambda *a: [[sys.executable, '-c', {wait!r}]] * 2\n"
    "sys.exit(supervisor.main(['--', 'train']))"
  )
  process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
  assert process.stdout.read(2) == b"11"
  process.send_signal(number)
  assert process.wait(timeout=20) == code


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_processes_do_not_outlive_their_supervisor():
  program = (
    "import sys; from musiclm_jax import supervisor\n"
    "wait = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
    "supervisor._commands = lambda *a: [[sys.executable, '-c', wait]]\n"
    "sys.exit(supervisor.main(['--', 'train']))"
  )
  process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
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


@pytest.mark.parametrize(
  "words", [["--model_dir=runs/x"], ["--MODEL_DIR", "runs/x"], ["--gin.MODEL_DIR='runs/x'"]]
)
def test_the_model_directory_is_found_among_the_words(words):
  assert str(supervisor._model_dir(["train", "tiny/fine", *words])) == "runs/x"
