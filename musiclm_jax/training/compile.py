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
from musiclm_jax.ranges import PositiveInt
from musiclm_jax.training import flops, hardware, topologies
from musiclm_jax.training.collectives import collectives
from musiclm_jax.training.step import Program, TrainConfig


class TooLarge(ValueError):
  """A step that does not fit its devices' memory: what it wants, and what makes it smaller."""

  def __init__(self, wants: str, advice: str):
    super().__init__(f"the step does not fit: it wants {wants}; {advice} make it smaller")


def compile(
  *,
  config: TrainConfig,
  examples,
  batch_size: PositiveInt,
  topology: str,
  search: bool,
  decode: bool,
  save: str,
  json: bool,
) -> dict:
  """What the step of a training takes on `topology`, such as v5e:16x16 or h200:4x8; printed, and
  given.

  Of TPUs, there are as many such slices as the mesh has. With `search`, for each remat preset, the
  largest batch that fits; with `decode`, of a stage model, the step that samples a token for a
  batch. The compiled program is kept in the file `save`, if it names one: `load` takes it. Raises
  ValueError where there is no such topology, or the step does not fit its memory: with what it
  wants and the flags that would make it smaller.
  """
  if sum((search, decode, bool(save))) > 1:
    raise ValueError("compile: search, decode and save are three things; wanted one at a time")
  shapes = partitioning.batched(examples.shapes, batch_size)
  program = config.program(shapes, topologies.devices(topology, config.mesh_shape.slices))
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
  state, batch = program.state, program.batch
  held = {
    "parameters": _bytes(state.params),
    "optimizer": _bytes(state.opt_state),
    "other_state": _bytes((state.collections, state.step)),
    "batch": _bytes(batch),
  }
  useful, done = flops.model_flops(program), flops.step_flops(program)
  compiled, report = _compile(program, _advice(program), held, program.step, state, batch)
  report |= {"flops_per_step": useful, "flops_with_recomputation": done}
  if save:
    payload, _, _ = serialize_executable.serialize(compiled)
    checkpointing.write_bytes(save, payload)
  chip = hardware.chip(_kind(program))
  if chip:
    compute = done / program.mesh.size / chip.flops
    sent = sum(each["bytes"] for each in report["collectives"].values())
    network = sent / chip.network
    ceiling = useful / program.mesh.size / chip.flops / max(compute, network)
    report |= {
      "chip": _kind(program),
      "memory_of_chip": chip.memory,
      "compute_seconds": compute,
      "network_seconds": network,
      "mfu_ceiling": round(ceiling, 3),
    }
  return report


def describe_decoding(program: Program) -> dict:
  """The same of the step of `sampling.sample`: a token for each row of a batch whose sequences are
  as long as those of the training; {cache: bytes} in the place of moments.

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
  advice = "a smaller --batch_size or a larger --mesh_fsdp"
  held = {"parameters": _bytes(args[0]), "cache": _bytes(cache)}
  _, report = _compile(program, advice, held, step, *args)
  return report | {"flops_per_step": flops.count(step, *args)}


def _advice(program: Program) -> str:
  """The flags that make the step of a training smaller."""
  flags = [f"--num_microbatches={2 * program.num_microbatches}", "a smaller --batch_size"]
  if with_field(program.model, "remat", "full") != program.model:
    flags.append("--remat=full")
  return f"{', '.join(flags)} or a larger --mesh_fsdp"


def _compile(program: Program, advice: str, held: dict[str, int], step, *args):
  """(the compiled step, what is said of any), `held` being the bytes of `args` on each device.

  Raises ValueError where it does not compile, and TooLarge, with the advice, where it does not fit
  the memory of a known chip, which XLA checks for TPUs alone.
  """
  began = time.perf_counter()
  platform = program.mesh.devices.flat[0].platform
  with partitioning.use(program.mesh):
    lowered = step.lower(*args)
    try:
      compiled = lowered.compile(compiler_options=topologies.OPTIONS.get(platform))
    except jax.errors.JaxRuntimeError as error:
      raise _refusal(advice, str(error)) from None
  seconds = time.perf_counter() - began
  analysis, chip = compiled.memory_analysis(), hardware.chip(_kind(program))
  memory = held | {
    "program": analysis.generated_code_size_in_bytes,
    # The most that is there at once, of arguments, results and what lies between.
    "activations": analysis.peak_memory_in_bytes - sum(held.values()),
  }
  whole = sum(memory.values())
  if chip and whole > chip.memory:
    wanted, there = (f"{x / 1e9:.1f}G" for x in (whole, chip.memory))
    raise TooLarge(f"{wanted} of {there} on each device", advice)
  report = {
    "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(program.state.params)),
    "devices": program.mesh.size,
    "mesh": dict(program.mesh.shape),
    "global_batch": program.rows,
    "bytes_per_device": whole,
    "memory": memory,
    "collectives": collectives(compiled.as_text()),
    "compile_seconds": round(seconds, 1),
  }
  return compiled, report


def _kind(program: Program) -> str:
  return program.mesh.devices.flat[0].device_kind


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
    raise TooLarge("more than each device has with any batch", _advice(program))
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
  while not fits and rows % (2 * program.multiple) == 0:
    rows //= 2
    fits = attempt(rows)
  return fits


def _refusal(advice: str, error: str) -> ValueError:
  """One line: what was wanted, and the flags that would make it fit."""
  if "RESOURCE_EXHAUSTED" not in error:
    return ValueError(f"the step does not compile: {error.splitlines()[0]}")
  used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w)", error)
  used = used or re.search(r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", error)
  wants = f"{used[1]} of {used[2]} on each device" if used else f"more: {error.splitlines()[0]}"
  return TooLarge(wants, advice)


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
