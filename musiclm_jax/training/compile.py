"""Compiles the step of a training for devices that this machine lacks: does it fit, how fast is it.

XLA's compilers for TPUs and GPUs run on any machine (`topologies`); the memory and the collectives
that they report are those of the devices.
"""

import dataclasses
import math
import pathlib
import re
import sys
import time

import jax
from jax.experimental import serialize_executable

from musiclm_jax import partitioning, storage
from musiclm_jax.layers import with_field
from musiclm_jax.training import flops, hardware, topologies
from musiclm_jax.training.collectives import collectives
from musiclm_jax.training.step import Program

_DECODING_ADVICE = "a smaller --batch_size or a larger --mesh_fsdp"


class TooLarge(ValueError):
  """A step does not fit the memory of its devices: what it needs, and what makes it smaller."""

  def __init__(self, needs: str, advice: str):
    super().__init__(f"the step does not fit: it needs {needs}; {advice} make it smaller")


def describe(program: Program, save: str = "") -> dict:
  """Compiles the step; {parameters, devices, bytes_per_device, memory, flops, collectives, ...}.

  memory: bytes on each device by what they hold. mfu_ceiling: the MFU if matrix products ran at the
  chips' peak and collectives at the network's, both at once: the time of the model's FLOPs over the
  longer of the times of all FLOPs, recomputed ones too, and of the sent bytes. The compiled program
  is kept in the file `save`, if it names one: `load` takes it. Raises TooLarge where the step does
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
    storage.write_bytes(save, payload)
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
  """The same report for one step of decoding a batch; memory has {cache: bytes} instead of moments.

  Raises ValueError for a model without a `decode_program(rows)`, and where the step does not fit.
  """
  model, mesh = program.model, program.mesh
  if not hasattr(model, "decode_program"):
    raise ValueError(f"decode: a {type(model).__name__} does not decode; wanted a stage model")
  step, arguments = model.decode_program(program.rows)
  arguments = [partitioning.placed(abstract, mesh, axes) for abstract, axes in arguments]
  args = program.state.params, *arguments
  held = {"parameters": _bytes(args[0]), "cache": _bytes(args[-1])}
  step = jax.jit(step, donate_argnums=len(args) - 1)
  _, report = _compile(program, _DECODING_ADVICE, held, step, *args)
  return report | {"flops_per_step": flops.count(step, *args)}


def _advice(program: Program) -> str:
  """The flags that make the step of a training smaller."""
  flags = [f"--num_microbatches={2 * program.num_microbatches}", "a smaller --batch_size"]
  if with_field(program.model, "remat", "full") != program.model:
    flags.append("--remat=full")
  return f"{', '.join(flags)} or a larger --mesh_fsdp"


def _compile(program: Program, advice: str, held: dict[str, int], step, *args):
  """(the compiled step, the report of any step), `held` being the bytes of `args` on each device.

  Raises ValueError where it does not compile, and TooLarge, with the advice, where it does not fit
  the memory of a known chip, which XLA checks only for TPUs.
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
    # The peak of arguments, results and intermediate values together.
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
  """The step of `program` that `describe` has saved, for devices of its kind and number."""
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
  """For each remat preset the `describe` of the largest batch that fits, from nothing to everything
  recomputed; batches are the program's own times or divided by a power of two. Raises TooLarge
  where none fits.
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
  """`describe` of the largest batch that fits, None if none does."""

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
  """One line: what is needed, and the flags that would make it fit."""
  if "RESOURCE_EXHAUSTED" not in error:
    return ValueError(f"the step does not compile: {error.splitlines()[0]}")
  used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w)", error)
  used = used or re.search(r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", error)
  needs = f"{used[1]} of {used[2]} on each device" if used else f"more: {error.splitlines()[0]}"
  return TooLarge(needs, advice)
