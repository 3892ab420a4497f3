"""Compiles the step of a training for devices that are not there: does it fit, how fast can it be.

XLA's compiler for TPUs runs on any machine (the package libtpu); what it says of memory and of
collectives is what a slice would run.
"""

import dataclasses
import json as jsons
import math
import re
import sys
import time

import jax

from musiclm_jax import partitioning
from musiclm_jax.training import flops, hardware
from musiclm_jax.training.collectives import collectives
from musiclm_jax.training.step import Program, Recipe


class TooLarge(ValueError):
  """A step that does not fit the memory of its devices."""


def compile(
  *,
  recipe: Recipe,
  examples,
  batch_size: int,
  topology: str,
  search: bool,
  json: bool,
) -> dict:
  """What the step of a training takes on `topology`, such as v5e:16x16; printed, and given.

  With `search` also, for each remat preset, the largest batch that fits. Raises ValueError where
  there is no such topology, or the step does not fit its memory: with what it wants and the flags
  that would make it smaller.
  """
  shapes = partitioning.batched(examples.shapes, batch_size)
  program = recipe.program(shapes, topology_devices(topology))
  report = {"search": largest_batches(program)} if search else describe(program)
  print(jsons.dumps(report) if json else _text(topology, report))
  return report


def topology_devices(topology: str) -> list:
  """The devices of a TPU slice. Raises ValueError where libtpu is missing or has no such slice."""
  from jax.experimental import topologies

  hardware.settle_libtpu()
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  except (RuntimeError, NotImplementedError) as error:
    line = str(error).split("\n")[0]
    raise ValueError(f"topology: no {topology!r} here: {line}; wanted one as v5e:16x16") from None


def describe(program: Program) -> dict:
  """Compiles the step; {parameters, devices, bytes_per_device, memory, flops, collectives, ...}.

  memory: bytes on each device by what they hold. mfu_ceiling: the share of the chips' peak that is
  left where matrix products run at that peak, and collectives at that of the network beside them:
  model FLOPs / max(FLOPs with those done again, sent bytes). Raises ValueError where the step does
  not fit.
  """
  began = time.perf_counter()
  with partitioning.use(program.mesh):
    lowered = program.step.lower(program.state, program.batch)
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      raise _refusal(program, str(error)) from None
  seconds = time.perf_counter() - began
  devices = program.mesh.devices.ravel()
  analysis, state = compiled.memory_analysis(), program.state
  memory = {
    "parameters": _bytes(state.params),
    "optimizer": _bytes(state.opt_state),
    "other_state": _bytes((state.collections, state.step)),
    "batch": _bytes(program.batch),
    "program": analysis.generated_code_size_in_bytes,
  }
  # The most that is there at once, of arguments, results and what lies between; not the program.
  resident = sum(memory.values()) - memory["program"]
  memory["activations"] = analysis.peak_memory_in_bytes - resident
  useful, done = flops.model_flops(program), flops.step_flops(program)
  sent = collectives(compiled.as_text())
  report = {
    "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(state.params)),
    "devices": len(devices),
    "mesh": dict(program.mesh.shape),
    "global_batch": program.rows,
    "bytes_per_device": sum(memory.values()),
    "memory": memory,
    "flops_per_step": useful,
    "flops_with_recomputation": done,
    "collectives": sent,
    "compile_seconds": round(seconds, 1),
  }
  chip = hardware.chip(devices[0].device_kind)
  if chip:
    compute = done / len(devices) / chip.flops
    network = sum(each["bytes"] for each in sent.values()) / chip.network
    ceiling = useful / len(devices) / chip.flops / max(compute, network)
    report |= {
      "chip": devices[0].device_kind,
      "memory_of_chip": chip.memory,
      "compute_seconds": compute,
      "network_seconds": network,
      "mfu_ceiling": round(ceiling, 3),
    }
  return report


def _bytes(tree) -> int:
  """Bytes of a tree of abstract arrays on each device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * jax.dtypes.itemsize_bits(x.dtype) // 8
    for x in jax.tree.leaves(tree)
  )


def largest_batches(program: Program) -> list[dict]:
  """For each remat preset the `describe` of the largest batch that fits, from none to all computed
  again; batches are the program's own times or divided by a power of two.
  """
  found = []
  for remat in ("none", "minimal", "full"):
    model = with_remat(program.model, remat)
    fits = _largest(dataclasses.replace(program, model=model))
    if fits:
      found.append({"remat": remat, **fits})
      print(f"remat {remat}: batch {fits['global_batch']} fits", file=sys.stderr)
  return found


def _largest(program: Program) -> dict | None:
  """`describe` of the largest batch that fits, None where none does."""

  def attempt(rows: int) -> dict | None:
    changed = {
      name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
      for name, x in program.shapes.items()
    }
    try:
      return describe(dataclasses.replace(program, shapes=changed))
    except TooLarge:
      return None

  rows, fits = program.rows, attempt(program.rows)
  if fits:
    while more := attempt(2 * rows):
      rows, fits = 2 * rows, more
    return fits
  parts = program.num_microbatches * partitioning.num_batch_shards(program.mesh)
  while not fits and rows % (2 * parts) == 0:
    rows //= 2
    fits = attempt(rows)
  return fits


def with_remat(module, remat: str):
  """The module, with this preset wherever one of its parts has a field `remat`."""
  if not dataclasses.is_dataclass(module):
    return module
  linen = ("parent", "name")
  fields = [f.name for f in dataclasses.fields(module) if f.init and f.name not in linen]
  changes = {name: with_remat(getattr(module, name), remat) for name in fields}
  if "remat" in changes:
    changes["remat"] = remat
  return dataclasses.replace(module, **changes)


def _refusal(program: Program, error: str) -> ValueError:
  """One line: what was wanted, and the flags that would make it fit."""
  if "RESOURCE_EXHAUSTED" not in error:
    return ValueError(f"the step does not compile: {error.splitlines()[0]}")
  used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w)", error)
  used = used or re.search(r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", error)
  wanted = f"wants {used[1]} of {used[2]} on each device" if used else error.splitlines()[0]
  more = max(2, 2 * program.num_microbatches)
  return TooLarge(
    f"the step does not fit: it {wanted}; --num_microbatches={more}, a smaller --batch_size,"
    " --remat=full or a larger --mesh_fsdp make it smaller"
  )


def _text(topology: str, report: dict) -> str:
  if "search" in report:
    return "\n".join(_text(f"remat {each['remat']}", each) for each in report["search"])

  def rows(title, values, unit, scale):
    return [f"{title:<16}{k:<22}{v / scale:>10.3f} {unit}" for k, v in values.items()]

  lines = [
    f"{topology}: {report['devices']} devices as {report['mesh']}, batch {report['global_batch']}",
    f"{report['parameters'] / 1e6:.2f}M parameters, {report['flops_per_step'] / 1e12:.1f} TFLOP"
    f" a step, compiled in {report['compile_seconds']} s",
    *rows("memory", report["memory"] | {"all": report["bytes_per_device"]}, "GB a device", 1e9),
    *rows("sent", {k: v["bytes"] for k, v in report["collectives"].items()}, "GB a device", 1e9),
  ]
  if "chip" in report:
    lines.append(f"MFU at most {report['mfu_ceiling']:.0%} on {report['chip']}")
  return "\n".join(lines)
