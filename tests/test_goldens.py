"""Every variable of every training as text: shape, type, logical axes, sharding on 2 x 2 x 2.

After a change that is meant, `.venv/bin/python -m tests.test_goldens` writes tests/golden anew.
"""

import difflib
import math
import pathlib

import flax.linen as nn
import jax
import pytest
from jax.sharding import AbstractMesh

from musiclm_jax import partitioning
from tests import trainings

FOLDER = pathlib.Path(__file__).parent / "golden"
TRAININGS = [f"{size}/{model}" for size in ("paper", "tiny") for model in trainings.names(size)]
MESH = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))  # needs no devices


def leaves(name):
  """(path, boxed or plain abstract variable, sharding) of every variable of a training."""
  state = trainings.load(name).abstract_state
  variables = {"params": state.params, **state.collections}

  def boxed(leaf):
    return isinstance(leaf, nn.Partitioned)

  shardings = partitioning.shardings(variables, MESH)
  found = jax.tree_util.tree_leaves_with_path(variables, is_leaf=boxed)
  for (path, leaf), sharding in zip(found, jax.tree.leaves(shardings), strict=True):
    yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf, sharding


def describe(name) -> str:
  """A line `PATH TYPE[SHAPE] LOGICAL AXES -> MESH AXES` for each variable of a training."""

  def axes(names):
    return ",".join(axis or "-" for axis in names)

  lines = []
  for path, leaf, sharding in leaves(name):
    names, value = getattr(leaf, "names", ()), nn.unbox(leaf)
    sharded = f" {axes(names)} -> {axes(sharding.spec)}" if names else ""
    lines.append(f"{path} {value.dtype}[{','.join(map(str, value.shape))}]{sharded}")
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
