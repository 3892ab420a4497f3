"""A job of several processes: how they find each other, and how one leaves that has failed.

Every process runs the same command. They are told of each other by flags, or by the scheduler that
started them.
"""

import os
import socket
import sys
import threading
import time

from musiclm_jax.configuration import ConfigurationError
from musiclm_jax.training import hardware

_TOGETHER = ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID")
# In how many seconds all processes must have come, and then have agreed; and after how many a
# silent one is dead, and the others end.
_SECONDS = {"START_SECONDS": 60, "HEARTBEAT_SECONDS": 30}
_LAST_WORDS_SECONDS = 2
FLAGS = (*_TOGETHER, "DEVICES", *_SECONDS)


def join(flags: dict[str, tuple[str, str]], detect: bool) -> None:
  """Joins the other processes of the job, if there are any; {FLAG: (flag as written, value)}.

  With `detect` also where no flag tells of them, but Slurm, Open MPI or a TPU slice does. Raises
  ConfigurationError for flags that are wrong, and ValueError where not all processes come or there
  are not as many devices as --devices says.
  """
  numbers = {name: _number(*flags[name]) for name in FLAGS[1:] if name in flags}
  seconds = {name: numbers.get(name, default) for name, default in _SECONDS.items()}
  given = [name for name in _TOGETHER if name in flags]
  if given and len(given) < len(_TOGETHER):
    missing = " ".join(f"--{name.lower()}=..." for name in _TOGETHER if name not in flags)
    raise ConfigurationError(flags[given[0]][0], f"needs {missing} too")
  if given:
    address, count, index = flags["COORDINATOR"][1].strip("'\""), *map(numbers.get, _TOGETHER[1:])
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


def _initialize(seconds: dict[str, int], **which) -> None:
  import jax

  from musiclm_jax.training import preflight

  start, of = seconds["START_SECONDS"], f"of {which['num_processes']} " if which else ""
  late = threading.Timer(start, _give_up, [f"not all processes {of}have come within {start} s"])
  late.start()
  try:
    jax.distributed.initialize(
      **which,
      initialization_timeout=2 * start,  # with which JAX would end this process in its own words
      heartbeat_timeout_seconds=seconds["HEARTBEAT_SECONDS"],
    )
  finally:
    late.cancel()
  preflight.register_host(start)


def _give_up(what: str) -> None:
  """Ends this process from another thread than the one that waits."""
  host = socket.gethostname()
  print(f"musiclm: {host}: {what} (--start_seconds)", file=sys.stderr, flush=True)
  os._exit(70)  # which another start may not give again


def _check_devices(wanted: int) -> None:
  import jax

  if jax.device_count() != wanted:
    kind = jax.devices()[0].device_kind
    raise ValueError(f"--devices: wanted {wanted}, found {jax.device_count()} ({kind})")


def joined() -> bool:
  """Whether this process is one of a job's."""
  return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def leave(code: int) -> None:
  """Ends a process that failed; one of a job's without a goodbye, for which it would wait for the
  others: they learn of it by the silence.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  if not joined():
    sys.exit(code)
  from musiclm_jax.training import preflight

  if preflight.state().process_id == 0:
    time.sleep(_LAST_WORDS_SECONDS)  # when the coordinator ends, the others are aborted at once
  os._exit(code)
