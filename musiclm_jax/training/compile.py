"""Compiles the step of a training for devices that are not there: does it fit, how fast can it be.

XLA's compilers for TPUs and GPUs run on any machine (`topologies`); what they say of memory and of
collectives is what the devices would run.
"""

import dataclasses
import json as jsons
import math
import pathlib
import re
import sys
import time

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

from musiclm_jax import checkpointing, partitioning
from musiclm_jax.layers import with_field
from musiclm_jax.lm.token_lm import TokenLM
from musiclm_jax.training import flops, hardware, topologies
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
  decode: bool,
  save: str,
  json: bool,
) -> dict:
  """What the step of a training takes on `topology`, such as v5e:16x16 or h200:4x8; printed, and
  given.

  The mesh's `slices` are as many of them. With `search`, for each remat preset, the largest batch
  that fits; with `decode`, of a stage model, the step that samples a token for a batch. The
  compiled program is kept in the file `save`, if it names one: `load` takes it. Raises ValueError
  where there is no such topology, or the step does not fit its memory: with what it wants and the
  flags that would make it smaller.
  """
  if sum((search, decode, bool(save))) > 1:
    raise ValueError("compile: search, decode and save are three things; wanted one at a time")
  shapes = partitioning.batched(examples.shapes, batch_size)
  program = recipe.program(shapes, topologies.devices(topology, recipe.mesh_shape.slices))
  if search:
    report = {"search": largest_batches(program)}
  elif decode:
    report = describe_decoding(program)
  else:
    report = describe(program, save)
  print(jsons.dumps(report) if json else _text(topology, report))
  return report


def describe(program: Program, save: str = "") -> dict:
  """Compiles the step; {parameters, devices, bytes_per_device, memory, flops, collectives, ...}.

  memory: bytes on each device by what they hold. mfu_ceiling: the share of the chips' peak that is
  left where matrix products run at that peak, and collectives at that of the network beside them:
  model FLOPs / max(FLOPs with those done again, sent bytes). Raises ValueError where the step does
  not fit.
  """
  compiled, seconds = _compile(program, program.step, program.state, program.batch)
  if save:
    payload, _, _ = serialize_executable.serialize(compiled)
    checkpointing.write_bytes(save, payload)
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
  kind = program.mesh.devices.flat[0].device_kind
  chip = hardware.chip(kind)
  if chip and sum(memory.values()) > chip.memory:  # which XLA checks for TPUs alone
    wanted, there = (f"{x / 1e9:.1f}G" for x in (sum(memory.values()), chip.memory))
    raise _too_large(program, f"wants {wanted} of {there} on each device")
  report = {
    "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(state.params)),
    "devices": program.mesh.size,
    "mesh": dict(program.mesh.shape),
    "global_batch": program.rows,
    "bytes_per_device": sum(memory.values()),
    "memory": memory,
    "flops_per_step": useful,
    "flops_with_recomputation": done,
    "collectives": sent,
    "compile_seconds": round(seconds, 1),
  }
  if chip:
    compute = done / program.mesh.size / chip.flops
    network = sum(each["bytes"] for each in sent.values()) / chip.network
    ceiling = useful / program.mesh.size / chip.flops / max(compute, network)
    report |= {
      "chip": kind,
      "memory_of_chip": chip.memory,
      "compute_seconds": compute,
      "network_seconds": network,
      "mfu_ceiling": round(ceiling, 3),
    }
  return report


def describe_decoding(program: Program) -> dict:
  """The same of the step of `sampling.sample`: a token for each row of a batch whose sequences are
  as long as those of the training; {cache: bytes} in the place of moments and activations.

  Raises ValueError for what is no stage model, and where the step does not fit.
  """
  model, rows = program.model, program.rows
  if not isinstance(model, TokenLM):
    raise ValueError(f"decode: wanted a stage model, this one is a {type(model).__name__}")
  cache = jax.eval_shape(lambda: model.decoder.init_cache(rows, model.stage.length))
  cache = partitioning.placed(cache, program.mesh, (None, "batch", "heads", None, None))
  token = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
  token = partitioning.placed(token, program.mesh, ("batch", None))
  level = jax.ShapeDtypeStruct((), jnp.int32)

  def step(params, token, level, cache):
    return model.apply({"params": params}, token, level, cache, method="decode")

  step = jax.jit(step, donate_argnums=3)
  args = program.state.params, token, level, cache
  compiled, seconds = _compile(program, step, *args)
  memory = {"parameters": _bytes(args[0]), "cache": _bytes(cache)}
  resident = sum(memory.values())
  memory["activations"] = compiled.memory_analysis().peak_memory_in_bytes - resident
  return {
    "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(args[0])),
    "devices": program.mesh.size,
    "mesh": dict(program.mesh.shape),
    "global_batch": rows,
    "bytes_per_device": sum(memory.values()),
    "memory": memory,
    "flops_per_step": flops.count(step, *args),
    "collectives": collectives(compiled.as_text()),
    "compile_seconds": round(seconds, 1),
  }


def _compile(program: Program, step, *args):
  """(the compiled step, seconds). Raises ValueError where it does not fit or does not compile."""
  began = time.perf_counter()
  platform = program.mesh.devices.flat[0].platform
  with partitioning.use(program.mesh):
    lowered = step.lower(*args)
    try:
      compiled = lowered.compile(compiler_options=topologies.OPTIONS[platform])
    except jax.errors.JaxRuntimeError as error:
      raise _refusal(program, str(error)) from None
  return compiled, time.perf_counter() - began


def load(path: str, program: Program):
  """The step of `program` that `save` has kept, for devices of its kind and number."""
  state, batch = program.state, program.batch
  inputs = jax.tree.structure(((state, batch), {}))
  outputs = jax.tree.structure(jax.eval_shape(program.step, state, batch))
  return serialize_executable.deserialize_and_load(
    pathlib.Path(path).read_bytes(), inputs, outputs, execution_devices=program.mesh.devices.ravel()
  )


def _bytes(tree) -> int:
  """Bytes of a tree of abstract arrays on each device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * jax.dtypes.itemsize_bits(x.dtype) // 8
    for x in jax.tree.leaves(tree)
  )


def largest_batches(program: Program) -> list[dict]:
  """For each remat preset the `describe` of the largest batch that fits, from none to all computed
  again; batches are the program's own times or divided by a power of two. Raises ValueError where
  none fits.
  """
  found, tried = [], []
  for remat in ("none", "minimal", "full"):
    model = with_field(program.model, "remat", remat)
    if model in tried:  # it has no such field
      break
    tried.append(model)
    fits = _largest(dataclasses.replace(program, model=model))
    if fits:
      found.append({"remat": remat, **fits})
      print(f"remat {remat}: batch {fits['global_batch']} fits", file=sys.stderr)
  if not found:
    raise _too_large(program, "wants more than each device has with any batch")
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


def _refusal(program: Program, error: str) -> ValueError:
  """One line: what was wanted, and the flags that would make it fit."""
  if "RESOURCE_EXHAUSTED" not in error:
    return ValueError(f"the step does not compile: {error.splitlines()[0]}")
  used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w)", error)
  used = used or re.search(r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", error)
  return _too_large(
    program, f"wants {used[1]} of {used[2]} on each device" if used else error.splitlines()[0]
  )


def _too_large(program: Program, wanted: str) -> TooLarge:
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
