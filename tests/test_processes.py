"""Jobs of several processes on this machine: they agree, and train as one process would.

They read token arrays, which start several seconds sooner than SeqIO.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from musiclm_jax import part_files, processes
from musiclm_jax.configuration import ConfigurationError
from musiclm_jax.datasets import arrays
from musiclm_jax.training import preflight
from tests.records import write_records

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
  """Token arrays of random codes for tiny/fine."""
  root = tmp_path_factory.mktemp("tokens")

  def row(index):
    codes = np.random.default_rng(index).integers(0, 32, (100, 12)).astype(np.uint16)
    return {"id": str(index), "acoustic": codes}

  features = {
    "id": tfds.features.Text(),
    "acoustic": tfds.features.Tensor(shape=(None, 12), dtype=np.uint16),
  }
  rows = {"train": [row(i) for i in range(24)], "validation": [row(i) for i in range(24, 32)]}
  write_records(root, rows, features)
  entry = {"frame_rate": 50.0, "width": 12, "codebook_size": 32, "encoder": "none"}
  (root / "manifest.json").write_text(json.dumps({"sources": {"acoustic": entry}}))
  arrays.convert(data_dir=str(root), output_dir=str(root / "arrays"))
  return str(root / "arrays")


def words(tokens, model_dir, *more, saves=2):
  fixed = (f"--data_dir={tokens}", f"--model_dir={model_dir}", f"--checkpoint_period={saves}")
  return ["train", "tiny/fine", *fixed, "--log_period=1", "--eval_period=4", *more]


# Over the processes go the rows of a batch and the parameters of the model.
MESH = ("--mesh_data=1", "--mesh_fsdp=2", "--mesh_tensor=2")


def start(count, devices, *command):
  # Both kills can come in the first save: no failure then leaves a new checkpoint.
  options = [f"--processes={count}", f"--devices_per_process={devices}", "--failures=4"]
  return subprocess.Popen(
    [sys.executable, "-m", "musiclm_jax.supervisor", *options, "--", *command],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stderr=subprocess.PIPE,
    text=True,
  )


def run(count, devices, *command) -> str:
  """What a job that ends well writes to stderr."""
  job = start(count, devices, *command)
  _, text = job.communicate(timeout=300)
  assert job.returncode == 0, text[-3000:]
  return text


def losses(model_dir) -> dict:
  """{(split, step): loss}, the later one of a step that was made twice."""
  rows = map(json.loads, pathlib.Path(model_dir, "metrics.jsonl").read_text().splitlines())
  return {(row["split"], row["step"]): row["loss"] for row in rows}


def child(job, flag: str) -> int | None:
  """The process of a job that was started with this flag, None if it has ended."""
  for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
      command, status = path.read_text(), path.with_name("status").read_text()
    except OSError:
      continue
    if f"PPid:\t{job.pid}\n" in status and flag in command:
      return int(path.parent.name)
  return None


def wait_for(path: pathlib.Path, job):
  while not path.exists():
    assert job.poll() is None, job.stderr.read()[-3000:]
    time.sleep(0.02)


@pytest.fixture(scope="module")
def half(tokens, tmp_path_factory):
  """Four steps of two processes."""
  directory = tmp_path_factory.mktemp("half")
  run(2, 2, *words(tokens, directory, *MESH, "--total_steps=4"))
  return directory


@pytest.fixture(scope="module")
def whole(half, tokens, tmp_path_factory):
  """The same run up to step 8; the first four were made by other processes than the rest."""
  directory = tmp_path_factory.mktemp("whole") / "run"
  shutil.copytree(half, directory)
  run(2, 2, *words(tokens, directory, *MESH))
  return directory


@slow
def test_a_killed_worker_changes_nothing(tokens, whole, tmp_path):
  job = start(2, 2, *words(tokens, tmp_path, *MESH))
  wait_for(tmp_path / "checkpoints" / "4", job)
  os.kill(child(job, "--process_id=1"), signal.SIGKILL)
  _, text = job.communicate(timeout=300)
  assert job.returncode == 0, text[-3000:]
  assert "supervisor: process 1 was killed by SIGKILL; starting again from step" in text
  assert losses(tmp_path) == losses(whole)  # bit for bit
  found, wanted = (part_files.read_weights(str(path)) for path in (tmp_path, whole))
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


@slow
@pytest.mark.parametrize("count, devices, mesh", [(1, 1, ()), (4, 1, ("--mesh_fsdp=2",))])
def test_another_number_of_processes_goes_on_likewise(
  tokens, half, whole, tmp_path, count, devices, mesh
):
  directory = tmp_path / "run"
  shutil.copytree(half, directory)
  run(count, devices, *words(tokens, directory, *mesh))
  found, wanted = losses(directory), losses(whole)
  assert set(found) == set(wanted)
  np.testing.assert_allclose(
    [found[key] for key in sorted(wanted)], [wanted[key] for key in sorted(wanted)], rtol=1e-5
  )


@slow
def test_killed_while_it_saves_it_goes_on_by_itself(tokens, tmp_path):
  run(1, 1, *words(tokens, tmp_path / "whole"))
  job = start(1, 1, *words(tokens, tmp_path / "killed", saves=1))
  killed, seen = set(), set()  # processes, and folders of checkpoints that were being written
  while len(killed) < 2:
    assert job.poll() is None, job.stderr.read()[-3000:]
    folders = set()
    for path in (tmp_path / "killed").glob("checkpoints/*tmp*"):
      with contextlib.suppress(FileNotFoundError):  # it was just finished
        folders.add(path.stat().st_ino)
    if folders - seen:
      seen |= folders
      process = child(job, "train")
      if process and process not in killed:  # else it is about to be gone, or is
        os.kill(process, signal.SIGKILL)
        killed.add(process)
  _, text = job.communicate(timeout=300)
  assert job.returncode == 0, text[-3000:]
  assert text.count("was killed by SIGKILL") == 2
  assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@slow
def test_sigterm_saves_at_the_same_step_everywhere(tokens, tmp_path):
  job = start(2, 1, *words(tokens, tmp_path, "--total_steps=100000", saves=1000000))
  wait_for(tmp_path / "metrics.jsonl", job)
  while not (tmp_path / "metrics.jsonl").read_text():
    assert job.poll() is None, job.stderr.read()[-3000:]
    time.sleep(0.05)
  job.send_signal(signal.SIGTERM)
  _, text = job.communicate(timeout=120)
  assert job.returncode == 143, text[-3000:]
  (step,) = [path.name for path in (tmp_path / "checkpoints").iterdir()]
  assert f"ended by SIGTERM at step {step}, which is saved" in text


def free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def together(*commands) -> list[subprocess.CompletedProcess]:
  """Processes of a job that run other commands each."""
  job = [f"--coordinator=localhost:{free_port()}", f"--num_processes={len(commands)}"]
  started = [
    subprocess.Popen(
      [sys.executable, "-m", "musiclm_jax", *command, *job, f"--process_id={index}"],
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
      stderr=subprocess.PIPE,
      text=True,
    )
    for index, command in enumerate(commands)
  ]
  outputs = [process.communicate(timeout=200)[1] for process in started]
  return [(process.returncode, text) for process, text in zip(started, outputs)]


@slow
def test_processes_that_differ_end_with_the_name_of_the_host(tokens, tmp_path):
  ends = together(words(tokens, tmp_path), words(tokens, tmp_path, "--total_steps=9"))
  host = socket.gethostname()
  for code, text in ends:
    assert code == 1
    assert f"musiclm: process 1 on {host} has configuration " in text
    assert f"; process 0 on {host}: " in text
  assert not (tmp_path / "model.json").exists()


@slow
def test_a_process_that_never_comes_is_not_waited_for(tokens, tmp_path):
  port = free_port()
  job = [f"--coordinator=localhost:{port}", "--num_processes=2", "--process_id=0"]
  result = subprocess.run(
    [sys.executable, "-m", "musiclm_jax", *words(tokens, tmp_path, *job, "--start_seconds=2")],
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert result.returncode == 70
  assert "not all 2 processes joined within 2 s (--start_seconds)" in result.stderr


class Store:
  """The coordinator's store of a job whose other processes have said what is in it."""

  def __init__(self, said):
    self.said = said

  def key_value_set(self, key, value):
    self.said[key] = value

  def blocking_key_value_get(self, key, milliseconds):
    if key not in self.said:
      raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
    return self.said[key]


@dataclasses.dataclass
class State:
  client: Store
  process_id: int = 0


@pytest.fixture
def store(monkeypatch):
  facts = {"versions": preflight._versions(), "data": "abc"}
  said = {f"musiclm/facts/{index}": json.dumps(facts) for index in (1, 2)}
  said |= {f"musiclm/host/{index}": f"host{index}" for index in (1, 2)}
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  monkeypatch.setattr(preflight, "state", lambda: State(Store(said)))
  return said


def test_those_that_say_the_same_agree(store):
  preflight.agree({"data": "abc"})
  assert json.loads(store["musiclm/verdict"]) == ["", False]


def test_a_fact_that_differs_names_the_host(store):
  with pytest.raises(ValueError, match="process 1 on host1 has data abc; process 0 on .*: abd"):
    preflight.agree({"data": "abd"})
  assert "host1" in store["musiclm/verdict"]


def test_a_version_that_differs_names_the_host(store, monkeypatch):
  other = json.dumps({"versions": "jax 0.1", "data": "abc"})
  store["musiclm/facts/2"] = other
  with pytest.raises(ValueError, match="process 2 on host2 has versions jax 0.1; process 0"):
    preflight.agree({"data": "abc"})


def test_an_absentee_is_named_by_its_host(store):
  del store["musiclm/facts/2"]
  with pytest.raises(TimeoutError, match=r"process 2 on host2 was not ready within 60 s"):
    preflight.agree({"data": "abc"})


@pytest.fixture
def joined(monkeypatch):
  """What jax.distributed.initialize was called with."""
  calls = []
  for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(jax.distributed, "initialize", lambda **words: calls.append(words))
  monkeypatch.setattr(preflight, "state", lambda: State(Store({})))
  monkeypatch.setattr(preflight, "_seconds", 60)
  return calls


def flags(**values):
  return {name.upper(): (f"--{name}", value) for name, value in values.items()}


def test_flags_tell_of_the_others(joined):
  together = flags(coordinator="'host:1'", num_processes="2", process_id="1")
  processes.join(together | flags(heartbeat_seconds="7", start_seconds="9"), detect=False)
  (call,) = joined
  assert call.pop("initialization_timeout") >= 9
  assert call == dict(
    coordinator_address="host:1", num_processes=2, process_id=1, heartbeat_timeout_seconds=7
  )


def test_a_start_that_fails_waits_for_nothing(joined, monkeypatch):
  def initialize(**words):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  before = threading.active_count()
  with pytest.raises(ValueError, match="should be defined"):
    processes.join(flags(coordinator="host:1", num_processes="2", process_id="1"), detect=False)
  for _ in range(100):  # until the timer's thread has seen that it is cancelled
    if threading.active_count() <= before:
      return
    time.sleep(0.05)
  pytest.fail("the timer still runs")


@pytest.mark.parametrize(
  "environment, detect, wanted",
  [
    ({"SLURM_STEP_NUM_TASKS": "2"}, True, True),
    ({"OMPI_COMM_WORLD_SIZE": "4"}, True, True),
    ({"SLURM_STEP_NUM_TASKS": "1"}, True, False),
    ({"SLURM_NTASKS": "2"}, True, False),  # of a batch script that srun has not started
    ({"SLURM_STEP_NUM_TASKS": "2"}, False, False),
    ({}, True, False),
  ],
)
def test_the_scheduler_tells_of_the_others(joined, monkeypatch, environment, detect, wanted):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  processes.join({}, detect)
  assert bool(joined) == wanted


@pytest.mark.parametrize(
  "given, message",
  [
    (dict(process_id="0"), "--process_id: needs --coordinator=... --num_processes=... too"),
    (dict(coordinator="x:1", num_processes="2", process_id="2"), "--process_id: wants 0 to 1, got"),
    (dict(coordinator="x:1", num_processes="a", process_id="0"), "--num_processes: wants a whole"),
    (dict(devices="many"), "--devices: wants a whole number, got many"),
  ],
)
def test_wrong_flags_are_one_line(joined, given, message):
  with pytest.raises(ConfigurationError, match=message.replace(".", r"\.")):
    processes.join(flags(**given), detect=False)
  assert not joined


def test_fewer_devices_than_asked_for_is_an_error(joined):
  processes.join(flags(devices="8"), detect=False)
  with pytest.raises(ValueError, match=r"--devices: wanted 16, found 8 \(cpu\)"):
    processes.join(flags(devices="16"), detect=False)
