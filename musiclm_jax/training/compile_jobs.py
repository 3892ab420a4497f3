"""The jobs of `musiclm compile`: step, search, decode, save."""

import dataclasses
import json as jsons

from musiclm_jax import partitioning
from musiclm_jax.ranges import PositiveInt
from musiclm_jax.training import topologies
from musiclm_jax.training.compile import describe, describe_decoding, largest_batches
from musiclm_jax.training.step import Program, TrainConfig


@dataclasses.dataclass(frozen=True)
class Target:
  """A training and the devices to compile it for: `topology`, such as v5e:16x16 or h200:4x8.

  `examples` has the `shapes` of one example. Of TPUs, there are as many slices of this topology as
  the mesh has.
  """

  config: TrainConfig
  examples: object
  batch_size: PositiveInt
  topology: str

  def program(self) -> Program:
    """The training on these devices. Raises ValueError for an unknown topology."""
    shapes = partitioning.batched(self.examples.shapes, self.batch_size)
    devices = topologies.devices(self.topology, self.config.mesh_shape.slices)
    return self.config.program(shapes, devices)


def step(*, target: Target, json: bool) -> dict:
  """Prints and returns `compile.describe` of the step. Raises ValueError where it does not fit."""
  return _printed(target, describe(target.program()), json)


def search(*, target: Target, json: bool) -> dict:
  """Prints and returns {search: `compile.largest_batches`}. Raises ValueError where none fits."""
  return _printed(target, {"search": largest_batches(target.program())}, json)


def decode(*, target: Target, json: bool) -> dict:
  """Prints and returns `compile.describe_decoding`. Raises ValueError where it does not fit."""
  return _printed(target, describe_decoding(target.program()), json)


def save(*, target: Target, out: str, json: bool) -> dict:
  """As `step`, and keeps the compiled step in the file `out`: `compile.load` takes it."""
  return _printed(target, describe(target.program(), out), json)


def _printed(target: Target, report: dict, json: bool) -> dict:
  print(jsons.dumps(report) if json else _text(target.topology, report))
  return report


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
