"""The jobs of `musiclm checkpoint`: list checkpoints, verify them, make a part of one.

They need nothing of the machine that wrote the checkpoints.
"""

import contextlib
import json as jsons
import math
import pathlib
import time
from typing import Literal

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from musiclm_jax import part_files
from musiclm_jax.ranges import NonNegativeInt
from musiclm_jax.training.checkpoints import (
  WRITE_METRICS,
  path_name,
  placed,
  reading,
  shapes,
  tree_metadata,
)
from musiclm_jax.training.step import TrainState


def list_checkpoints(*, directory: str, step: NonNegativeInt, json: bool) -> list[dict]:
  """Prints and returns the checkpoints of a model directory, or only that of `step` (0: all).

  Raises ValueError where there is no checkpoint, and at the end one that names all that cannot be
  read.
  """
  return _report(directory, step, json, _describe)


def verify(*, directory: str, step: NonNegativeInt, json: bool) -> list[dict]:
  """As `list_checkpoints`, but reads every array too.

  The ValueError names arrays that are not finite too.
  """

  def describe(manager, step):
    row = _describe(manager, step)
    _read(manager, step)
    return row | {"verified": True}

  return _report(directory, step, json, describe)


def _report(directory: str, step: NonNegativeInt, json: bool, describe) -> list[dict]:
  rows, broken = [], []
  with _opened(directory) as manager:
    for each in _steps(manager, step):
      try:
        rows.append(describe(manager, each))
      except ValueError as error:
        broken.append(str(error))
        continue
      if not json:
        print(_row(rows[-1]))
  if json:
    print(jsons.dumps(rows))
  if broken:
    raise ValueError("; ".join(broken))
  return rows


def make_part(
  *, directory: str, step: NonNegativeInt, out: str, dtype: Literal["float32", "bfloat16", "int8"]
) -> None:
  """Leaves in the directory `out` the part that the training would have left after `step` (0: the
  newest checkpoint): the model and its weights, for extract, export and evaluate.

  Weights are stored in `dtype`: bfloat16 takes half of the space, int8 (`part_files.write_weights`)
  a quarter, and everything that loads them has float32 again. Raises ValueError where there is no
  such checkpoint, where it cannot be read or is not finite, and where `out` holds a model already.
  """
  with _opened(directory) as manager:
    chosen = _steps(manager, step)[-1]
    row, state = _describe(manager, chosen), _read(manager, chosen)
    written = part_files.copy_description(directory, out)
    variables = TrainState(**state).variables
    part_files.write_weights(out, variables, dtype=dtype, written=written)
  print(f"{_row(row)}  in {out}")


@contextlib.contextmanager
def _opened(directory: str):
  """The checkpoints of a model directory, to read. Raises ValueError if it has none."""
  folder = pathlib.Path(directory, "checkpoints")
  if not folder.is_dir():
    raise ValueError(f"{directory}: no checkpoints here (it has no such folder)")
  options = ocp.CheckpointManagerOptions(read_only=True, best_fn=WRITE_METRICS)
  handler = ocp.StandardCheckpointHandler()
  with ocp.CheckpointManager(folder.resolve(), options=options, item_handlers=handler) as manager:
    yield manager


def _steps(manager, step: int) -> list[int]:
  """The steps of the checkpoints, or only `step` if it is not 0. Raises ValueError for none."""
  steps = sorted(manager.all_steps())
  if step and step not in steps:
    raise ValueError(f"{manager.directory}: no checkpoint of step {step}; there are {steps}")
  if not steps:
    raise ValueError(f"{manager.directory}: no whole checkpoint")
  return [step] if step else steps


def _describe(manager, step: int) -> dict:
  folder = pathlib.Path(manager.directory, str(step))
  with _named(folder), reading():
    about, found = manager.metadata(step), shapes(tree_metadata(manager, step))
  return {
    "step": step,
    "saved": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(folder.stat().st_mtime)),
    "arrays": len(found),
    "values": sum(math.prod(shape) for shape in found.values()),
    "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    "version": (about.custom_metadata or {}).get("version"),
    "metrics": manager.metrics(step),
  }


def _row(row: dict) -> str:
  loss = f"  held-out loss {row['metrics']['loss']:.3f}" if row["metrics"] else ""
  size = f"{row['arrays']} arrays  {row['bytes'] / 1e6:.1f} MB"
  verified = "  verified" if row.get("verified") else ""
  return f"{row['step']:>9}  {row['saved']}  {size}  version {row['version']}{loss}{verified}"


def _read(manager, step: int) -> dict:
  """Every array of a checkpoint. Raises ValueError where one cannot be read or is not finite."""
  with _named(pathlib.Path(manager.directory, str(step))), reading():
    tree = tree_metadata(manager, step)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    state = manager.restore(step, args=ocp.args.StandardRestore(placed(abstract)))
    for path, value in jax.tree_util.tree_leaves_with_path(state):
      if jnp.issubdtype(value.dtype, jnp.floating) and not bool(jnp.isfinite(value).all()):
        raise ValueError(f"{path_name(path)} is not finite")
  return state


@contextlib.contextmanager
def _named(folder: pathlib.Path):
  """Errors of a checkpoint with its folder."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{folder}: not whole: {error}") from None
