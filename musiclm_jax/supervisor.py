"""Runs a command in one or several processes, and restarts it when one of them dies.

    python -m musiclm_jax.supervisor --processes=2 -- train tiny/fine --model_dir=runs/fine ...

When one process of a job dies, the others cannot continue; so all are started again and continue
from the newest checkpoint. On several machines, each runs a supervisor for its own processes.
"""

import argparse
import ctypes
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time

MISTAKES = (1, 2, 130)  # exit codes of musiclm that a restart would repeat
_GRACE_SECONDS = 5  # for the others to print their errors after one has died
_PDEATHSIG = 1  # of Linux's prctl
_FORWARDED = (signal.SIGTERM, signal.SIGUSR1)  # save and end; profile


def main(argv: list[str]) -> int:
  """Runs the command and returns its exit code."""
  options, words = _parse(argv)
  if options.dry_run:
    for command in _commands(words, options.processes, port=12345):
      print(shlex.join([*_environment(options), *command]))
    return 0
  signal.signal(
    signal.SIGUSR1, signal.SIG_IGN
  )  # by default it ends a process, even before there is a job
  model_dir, failures = _model_dir(words), 0
  while True:
    before = _newest(model_dir)
    job = _Job(_commands(words, options.processes, _free_port()), _environment(options))
    code, death = job.run()
    if job.told_to_end:
      return 128 + signal.SIGTERM  # not 0, so that schedulers know that the run is incomplete
    if not death or code in MISTAKES:
      return code
    failures = 1 if _newest(model_dir) > before else failures + 1
    if failures >= options.failures:
      _say(f"{death}; gave up after {failures} failures in a row without a new checkpoint")
      return code
    found = f"from step {_newest(model_dir)}" if _newest(model_dir) >= 0 else "from the beginning"
    _say(f"{death}; starting again {found} (failure {failures} of {options.failures})")


def _parse(argv: list[str]):
  """(options, the words after --)."""
  parser = argparse.ArgumentParser("supervisor", usage="%(prog)s [OPTIONS] -- VERB ...")
  parser.add_argument("--processes", type=_count, default=1, help="on this machine; default 1")
  parser.add_argument("--devices_per_process", type=_count, help="simulated devices on the CPU")
  parser.add_argument("--failures", type=_count, default=3, help="in a row before it gives up")
  parser.add_argument("--dry_run", action="store_true", help="print the commands and exit")
  end = argv.index("--") if "--" in argv else len(argv)
  options, others = parser.parse_known_args(argv[:end])
  if others or not argv[end + 1 :]:
    parser.error(f"wanted [OPTIONS] -- VERB ..., found {shlex.join(argv)!r}")
  return options, argv[end + 1 :]


def _count(text: str) -> int:
  if not text.isdigit() or not int(text):
    raise argparse.ArgumentTypeError(f"wanted a whole number from 1 on, found {text!r}")
  return int(text)


def _environment(options) -> list[str]:
  """Variables to set for the processes, as NAME=VALUE."""
  devices = options.devices_per_process
  return [f"JAX_NUM_CPU_DEVICES={devices}"] if devices else []


def _commands(words: list[str], processes: int, port: int) -> list[list[str]]:
  """The command of each process."""
  job = [f"--coordinator=localhost:{port}", f"--num_processes={processes}"]
  flags = [[*job, f"--process_id={index}"] for index in range(processes)] if processes > 1 else [[]]
  # Right after the verb, because a `--` among the words would end the flags.
  return [[sys.executable, "-m", "musiclm_jax", words[0], *own, *words[1:]] for own in flags]


def _free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def _model_dir(words: list[str]) -> pathlib.Path | None:
  """The command's model_dir, whose checkpoints show its progress; None where it has none."""
  for word, following in zip(words, [*words[1:], ""]):
    name, equals, value = word.partition("=")
    if name.lower().removeprefix("--").removeprefix("gin.") == "model_dir":
      return pathlib.Path((value if equals else following).strip("'\""))
  return None


def _newest(model_dir: pathlib.Path | None) -> int:
  """The step of the newest checkpoint; -1 without one."""
  folders = model_dir.glob("checkpoints/*") if model_dir else ()
  return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=-1)


class _Job:
  """The processes of the command, started once."""

  def __init__(self, commands: list[list[str]], environment: list[str]):
    self.told_to_end = False
    self._commands = commands
    self._environment = os.environ | dict(pair.split("=") for pair in environment)
    self._processes: list[subprocess.Popen] = []

  def run(self) -> tuple[int, str]:
    """(exit code, which process died and how); (0, "") where all ended with 0."""
    previous = {number: signal.signal(number, self._forward) for number in _FORWARDED}
    try:
      self._start()
      return self._wait()
    finally:
      for process in self._processes:
        process.kill()
        process.wait()
      for number, handler in previous.items():
        signal.signal(number, handler)

  def _start(self) -> None:
    # Signals are blocked until every process exists, so that each receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    try:
      for command in self._commands:
        process = subprocess.Popen(command, env=self._environment, preexec_fn=_begin)
        self._processes.append(process)
    finally:
      signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)

  def _forward(self, number, frame) -> None:
    self.told_to_end |= number == signal.SIGTERM
    for process in self._processes:
      process.send_signal(number)

  def _wait(self) -> tuple[int, str]:
    died, running = [], list(enumerate(self._processes))
    deadline = float("inf")
    while running and time.monotonic() < deadline:
      time.sleep(0.05)
      ended = [(index, process) for index, process in running if process.poll() is not None]
      running = [pair for pair in running if pair not in ended]
      died += [(index, process.returncode) for index, process in ended if process.returncode]
      if died and deadline == float("inf"):
        deadline = time.monotonic() + _GRACE_SECONDS
    # Processes that lost a peer fail too, and those that lost the coordinator abort: the peer's own
    # exit code is the cause.
    died.sort(key=lambda each: (each[1] == -signal.SIGABRT, each[1]))
    index, code = died[0] if died else (0, 0)
    return (code if code >= 0 else 128 - code), _death(index, code)


def _death(index: int, code: int) -> str:
  if code < 0:
    return f"process {index} was killed by {signal.Signals(-code).name}"
  return f"process {index} ended with exit code {code}" if code else ""


def _begin() -> None:
  """Runs in a new process before its command."""
  signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # would kill a process without a handler yet
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
  # If the supervisor is killed, its process must end too, or the next supervisor's runs beside it.
  if sys.platform == "linux":
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


def _say(text: str) -> None:
  print(f"supervisor: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
