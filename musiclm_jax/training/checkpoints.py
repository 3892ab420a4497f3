"""The checkpoints of a run: what is saved and when it is thrown away."""

import dataclasses
import json as jsons
import math
import operator
import pathlib
import time
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from musiclm_jax import checkpointing
from musiclm_jax.ranges import NonNegativeInt, PositiveInt
from musiclm_jax.training.step import TrainState

# Orbax writes metrics only where something ranks by them.
_WRITE_METRICS = operator.itemgetter("loss")


@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
  """A run saves every `period` steps and keeps the `keep` newest checkpoints, those of every
  `keep_period` steps (0: none), and the evaluated one whose metric `best` is the lowest ("": none).
  """

  period: NonNegativeInt
  keep: PositiveInt
  keep_period: NonNegativeInt
  best: str


class Checkpoints:
  """Asynchronous Orbax checkpoints of a train state in MODEL_DIR/checkpoints.

  Beside the state stand the configuration and the version of this package. A save that fails ends
  the run at the next one.
  """

  def __init__(self, directory: str, policy: CheckpointPolicy, config_text: str):
    self.policy = policy
    self._about = {"version": metadata.version("musiclm_jax"), "config": config_text}
    kept = [managers.LatestN(policy.keep)]
    if policy.keep_period:
      kept.append(managers.EveryNSteps(policy.keep_period))
    if policy.best:
      best = managers.BestN(
        get_metric_fn=operator.itemgetter(policy.best),
        reverse=True,
        n=1,
        keep_checkpoints_without_metrics=False,
      )
      kept.append(best)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=managers.AnyPreservationPolicy(kept),
      best_fn=_WRITE_METRICS,
      create=True,
      enable_async_checkpointing=True,
    )
    path = pathlib.Path(directory).resolve() / "checkpoints"
    handler = ocp.StandardCheckpointHandler()
    self._manager = ocp.CheckpointManager(path, options=options, item_handlers=handler)

  def save(self, step: int, state, metrics: dict[str, float] | None) -> None:
    """Starts saving; returns when the state has been copied, not when it is written.

    `metrics` are those of the evaluation of this very step, if there was one. Raises ValueError
    where they should say which is best, and do not.
    """
    if metrics and self.policy.best and self.policy.best not in metrics:
      raise ValueError(f"best: no metric {self.policy.best!r}; there are {sorted(metrics)}")
    if step not in self._manager.all_steps():
      args = ocp.args.StandardSave(state)
      self._manager.save(step, args=args, metrics=metrics, custom_metadata=self._about)

  def restore(self, abstract_state):
    """The newest state, with the shapes and shardings of `abstract_state`; None where none is.

    Raises ValueError, naming what differs, where the saved tree is another.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    saved = _shapes(self._manager.item_metadata(step).tree)
    wanted = _shapes(abstract_state)
    if saved != wanted:
      difference = checkpointing.difference(wanted, saved, "this run", "checkpoint")
      raise ValueError(f"{self._manager.directory}/{step}: {difference}")
    state = self._manager.restore(step, args=ocp.args.StandardRestore(_placed(abstract_state)))
    # What has no sharding of its own stays uncommitted, as a state that was just made.
    return jax.tree.map(
      lambda x, wanted: jnp.array(np.asarray(x)) if wanted.sharding is None else x,
      state,
      abstract_state,
    )

  def close(self) -> None:
    """Waits until everything is written."""
    self._manager.wait_until_finished()
    self._manager.close()


def inspect(
  *, action: str, directory: str, step: NonNegativeInt, out: str, json: bool
) -> list[dict]:
  """The checkpoints of a model directory, printed and given: `action` "ls"; "verify", which also
  reads every array and fails where one cannot be read or is not finite; or "part", which makes one,
  the newest, a part in the directory `out`, as the end of the training would. `step` means that of
  a step alone, unless it is 0.

  Needs nothing of the machine that wrote them. Raises ValueError for another action, where there is
  no checkpoint, and where one does not hold what it should.
  """
  if action not in ("ls", "verify", "part"):
    raise ValueError(f"checkpoint: wanted ls, verify or part, found {action!r}")
  if (action == "part") != bool(out):
    raise ValueError(f"checkpoint {action}: --out=DIR is wanted by part, and by part alone")
  folder = pathlib.Path(directory, "checkpoints")
  if not folder.is_dir():
    raise ValueError(f"{directory}: no checkpoints here (it has no such folder)")
  options = ocp.CheckpointManagerOptions(read_only=True, best_fn=_WRITE_METRICS)
  handler = ocp.StandardCheckpointHandler()
  rows = []
  with ocp.CheckpointManager(folder.resolve(), options=options, item_handlers=handler) as manager:
    for each in _chosen(manager, action, step):
      try:
        rows.append(_describe(manager, each))
        state = _read(manager, each) if action != "ls" else None
      except (ValueError, OSError, KeyError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"{folder}/{each}: not whole: {line}") from None
      if action == "part":
        checkpointing.copy_description(directory, out)
        checkpointing.write_weights(out, TrainState(**state).variables)
      if not json:
        print(_row(rows[-1], verified=action != "ls"))
  if not rows:
    raise ValueError(f"{folder}: no whole checkpoint")
  if json:
    print(jsons.dumps(rows))
  return rows


def _chosen(manager, action: str, step: int) -> list[int]:
  """The steps of the checkpoints that are meant: all, or that of `step`; one becomes a part."""
  steps = sorted(manager.all_steps())
  if step and step not in steps:
    raise ValueError(f"{manager.directory}: no checkpoint of step {step}; there are {steps}")
  if step:
    return [step]
  return steps[-1:] if action == "part" else steps


def _describe(manager, step: int) -> dict:
  about, folder = manager.metadata(step), pathlib.Path(manager.directory, str(step))
  shapes = _shapes(manager.item_metadata(step).tree)
  return {
    "step": step,
    "saved": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(folder.stat().st_mtime)),
    "arrays": len(shapes),
    "values": sum(math.prod(shape) for shape in shapes.values()),
    "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    "version": (about.custom_metadata or {}).get("version"),
    "metrics": manager.metrics(step),
  }


def _row(row: dict, verified: bool) -> str:
  loss = f"  held-out loss {row['metrics']['loss']:.3f}" if row["metrics"] else ""
  size = f"{row['arrays']} arrays  {row['bytes'] / 1e6:.1f} MB"
  about = f"version {row['version']}{loss}{'  verified' if verified else ''}"
  return f"{row['step']:>9}  {row['saved']}  {size}  {about}"


def _read(manager, step: int) -> dict:
  """Every array of a checkpoint. Raises ValueError where one is not finite."""
  tree = manager.item_metadata(step).tree
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
  state = manager.restore(step, args=ocp.args.StandardRestore(_placed(abstract)))
  for path, value in jax.tree_util.tree_leaves_with_path(state):
    if jnp.issubdtype(value.dtype, jnp.floating) and not bool(jnp.isfinite(value).all()):
      raise ValueError(f"{_name(path)} is not finite")
  return state


def _placed(abstract):
  """Abstract arrays with a sharding each: where they have none, one device holds them."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(lambda x: x.update(sharding=x.sharding or device), abstract)


def _shapes(tree) -> dict[str, tuple]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): tuple(getattr(leaf, "shape", ())) for path, leaf in leaves}


def _name(path) -> str:
  keys = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
  return "/".join(str(k) for k in keys)
