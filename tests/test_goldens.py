"""Every variable and moment of every training as text: shape, type, logical axes, shardings.

After a change that is meant, `.venv/bin/python -m tests.test_goldens` writes tests/golden anew.
"""

import difflib
import math
import pathlib

import flax.linen as nn
import jax
import pytest
from jax.sharding import AbstractMesh

from musiclm_jax.training.step import state_shardings
from tests import trainings

FOLDER = pathlib.Path(__file__).parent / "golden"
TRAININGS = [f"{size}/{model}" for size in ("paper", "tiny") for model in trainings.names(size)]
AXES = ("slices", "data", "fsdp", "tensor")
# Of 8 devices, a slice of v5e, two of them, hosts with 8 GPUs. They need no devices.
SHAPES = ((1, 2, 2, 2), (1, 1, 256, 1), (2, 8, 32, 1), (1, 16, 8, 8))
MESHES = [AbstractMesh(shape, AXES) for shape in SHAPES]


def leaves(name, mesh=MESHES[0]):
  """(path, boxed or plain abstract variable, sharding) of every array of a training's state."""
  state = trainings.load(name).abstract_state

  def boxed(leaf):
    return isinstance(leaf, nn.Partitioned)

  found = jax.tree_util.tree_leaves_with_path(state, is_leaf=boxed)
  shardings = jax.tree.leaves(state_shardings(state, mesh))
  for (path, leaf), sharding in zip(found, shardings, strict=True):
    yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf, sharding


def describe(name) -> str:
  """A line `PATH TYPE[SHAPE] LOGICAL AXES` for each array of a training's state, and under it its
  mesh axes on each mesh that splits it.
  """

  def axes(names):
    return ",".join(axis or "-" for axis in names)

  lines = []
  for rows in zip(*(leaves(name, mesh) for mesh in MESHES), strict=True):
    path, leaf, _ = rows[0]
    value, shape = nn.unbox(leaf), "x".join
    names = f" {axes(leaf.names)}" if isinstance(leaf, nn.Partitioned) else ""
    lines.append(f"{path} {value.dtype}[{','.join(map(str, value.shape))}]{names}")
    for mesh, (*_, sharding) in zip(SHAPES, rows):
      if any(sharding.spec):
        lines.append(f"  {shape(map(str, mesh))}: {axes(sharding.spec)}")
  return "\n".join(lines) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_variables_and_shardings_are_the_golden_ones(name):
  golden = (FOLDER / f"{name}.txt").read_text()
  diff = difflib.unified_diff(golden.splitlines(), describe(name).splitlines(), n=0, lineterm="")
  diff = "\n".join(diff)
  assert not diff, f"{diff}\n\nIf this is meant: .venv/bin/python -m tests.test_goldens"


@pytest.mark.parametrize("size", ["paper", "tiny"])
def test_every_golden_file_has_its_training(size):
  files = {f"{size}/{path.stem}" for path in (FOLDER / size).iterdir()}
  assert files == {name for name in TRAININGS if name.startswith(size)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAININGS if name.startswith("paper")])
def test_no_large_parameter_is_whole_on_every_device(name):
  """But for the kernels of convolutions, for which partitioning.RULES says why."""
  large = [
    path
    for path, leaf, sharding in leaves(name)
    if path.startswith("params") and math.prod(nn.unbox(leaf).shape) >= 2**16
    if not any(sharding.spec) and "channels_in" not in leaf.names
  ]
  assert not large


if __name__ == "__main__":
  for training in TRAININGS:
    (FOLDER / training).parent.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{training}.txt").write_text(describe(training))
