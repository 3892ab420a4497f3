"""A job of several processes: how they join, and how a failed one ends.

Every process runs the same command. Flags, or the scheduler that started them, give the address of
the coordinator.
"""

import os
import socket
import sys
import threading
import time

from musiclm_jax.configuration import ConfigurationError
from musiclm_jax.training import hardware

_ALL_OR_NONE = ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID")
# Seconds within which all processes must have joined, and again within which they must agree; and
# seconds without a heartbeat after which a process counts as dead and the others end.
_SECONDS = {"START_SECONDS": 60, "HEARTBEAT_SECONDS": 30}
_SECONDS_TO_PRINT = 2
FLAGS = (*_ALL_OR_NONE, "DEVICES", *_SECONDS)


def join(flags: dict[str, tuple[str, str]], detect: bool) -> None:
  """Joins the other processes of the job, if there are any.

  `flags` is {FLAG: (flag as written, value)}. With `detect`, jobs of Slurm, Open MPI and TPU slices
  are joined without flags. Raises ConfigurationError for wrong flags, and ValueError where the
  number of devices is not that of --devices. Ends the process where not all others join in time.
  """
  numbers = {name: _number(*flags[name]) for name in FLAGS[1:] if name in flags}
  seconds = {name: numbers.get(name, default) for name, default in _SECONDS.items()}
  given = [name for name in _ALL_OR_NONE if name in flags]
  if given and len(given) < len(_ALL_OR_NONE):
    missing = " ".join(f"--{name.lower()}=..." for name in _ALL_OR_NONE if name not in flags)
    raise ConfigurationError(flags[given[0]][0], f"needs {missing} too")
  if given:
    address, count, index = (
      flags["COORDINATOR"][1].strip("'\""),
      *map(numbers.get, _ALL_OR_NONE[1:]),
    )
    if index >= count:
      raise ConfigurationError(flags["PROCESS_ID"][0], f"wants 0 to {count - 1}, got {index}")
    _initialize(seconds, coordinator_address=address, num_processes=count, process_id=index)
  elif detect and _in_a_job():
    _initialize(seconds)
  if "DEVICES" in numbers:
    _check_devices(numbers["DEVICES"])


def _number(flag: str, value: str) -> int:
  if not value.isdigit():
    raise ConfigurationError(flag, f"wants a whole number, got {value}")
  return int(value)


def _in_a_job() -> bool:
  """Whether a scheduler has started this process as one of several."""
  tasks = (os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
  on_tpu = "tpu" in os.environ.get("JAX_PLATFORMS", "tpu") and hardware.has_tpu()
  return any(count != "1" for count in tasks) or on_tpu


def _initialize(seconds: dict[str, int], **job) -> None:
  import jax

  from musiclm_jax.training import preflight

  start, total = seconds["START_SECONDS"], f"{job['num_processes']} " if job else ""
  late = threading.Timer(start, _give_up, [f"not all {total}processes joined within {start} s"])
  late.start()
  try:
    jax.distributed.initialize(
      **job,
      initialization_timeout=2 * start,  # longer, as JAX would abort with a message of its own
      heartbeat_timeout_seconds=seconds["HEARTBEAT_SECONDS"],
    )
  finally:
    late.cancel()
  preflight.register_host(start)


def _give_up(what: str) -> None:
  """Ends this process from a thread, while the main one waits."""
  host = socket.gethostname()
  print(f"musiclm: {host}: {what} (--start_seconds)", file=sys.stderr, flush=True)
  os._exit(70)  # the exit code of what may succeed when started again


def _check_devices(wanted: int) -> None:
  import jax

  if jax.device_count() != wanted:
    kind = jax.devices()[0].device_kind
    raise ValueError(f"--devices: wanted {wanted}, found {jax.device_count()} ({kind})")


def joined() -> bool:
  """Whether this process has joined a job."""
  return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def is_first() -> bool:
  """Whether this process is process 0 of its job, or in no job."""
  if not joined():
    return True
  from musiclm_jax.training import preflight

  return preflight.state().process_id == 0


def leave(code: int) -> None:
  """Ends a process that failed.

  One that has joined a job ends at once: an orderly shutdown would wait for the others. They notice
  that its heartbeat stops.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  if not joined():
    sys.exit(code)
  if is_first():
    time.sleep(_SECONDS_TO_PRINT)  # the others abort when the coordinator ends
  os._exit(code)
