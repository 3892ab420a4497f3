"""A check before a job begins: all its processes must run the same versions on the same data."""

import json
import platform
import socket
import time
from importlib import metadata

import jax

import musiclm_jax

_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_seconds = 60  # in which all processes must have published their facts


def register_host(seconds: int) -> None:
  """Publishes the host of this process to its job, whose processes wait for `agree` so long."""
  global _seconds
  _seconds = seconds
  state().client.key_value_set(f"musiclm/host/{state().process_id}", socket.gethostname())


def agree(facts: dict[str, str]) -> None:
  """Waits until every process has published its facts: those given, and the versions it runs.

  Raises on all processes, with the number and the host of one, ValueError where its facts differ
  from those of process 0, and TimeoutError where they are not published in time.
  """
  if jax.process_count() == 1:
    return
  facts = {"versions": _versions(), **facts}
  client, index = state().client, jax.process_index()
  client.key_value_set(f"musiclm/facts/{index}", json.dumps(facts))
  if index == 0:
    verdict, late = _verdict(facts, jax.process_count())
    client.key_value_set("musiclm/verdict", json.dumps((verdict, late)))
  else:
    # Process 0 may have begun to wait later than this one.
    verdict, late = json.loads(client.blocking_key_value_get("musiclm/verdict", 2000 * _seconds))
  if verdict:
    raise (TimeoutError if late else ValueError)(verdict)


def _verdict(facts: dict[str, str], count: int) -> tuple[str, bool]:
  """(what is wrong with another process, "" for nothing; whether it is only late)."""
  client, deadline = state().client, time.monotonic() + _seconds
  for index in range(1, count):
    name = f"process {index} on {client.blocking_key_value_get(f'musiclm/host/{index}', 1000)}"
    left = max(1, round(1000 * (deadline - time.monotonic())))
    try:
      others = json.loads(client.blocking_key_value_get(f"musiclm/facts/{index}", left))
    except jax.errors.JaxRuntimeError:
      late = f"was not ready within {_seconds} s (--start_seconds); see its own messages"
      return f"{name} {late}", True
    for fact, value in facts.items():
      if others.get(fact) != value:
        here = f"process 0 on {socket.gethostname()}: {value}"
        return f"{name} has {fact} {others.get(fact)}; {here}", False
  return "", False


def _versions() -> str:
  installed = (f"{name} {metadata.version(name)}" for name in _VERSIONS)
  own = f"musiclm_jax {musiclm_jax.__version__}"
  return ", ".join([f"python {platform.python_version()}", own, *installed])


def state():
  """JAX's state of the job. It has no public name; Orbax uses it in the same way."""
  from jax._src import distributed

  return distributed.global_state
