"""The checkpoints of a run: when a state is saved, which are kept, and which one is restored."""

import contextlib
import dataclasses
import operator
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

import musiclm_jax
from musiclm_jax import descriptions
from musiclm_jax.ranges import NonNegativeInt, PositiveInt

# Orbax writes metrics only where something ranks checkpoints by them.
WRITE_METRICS = operator.itemgetter("loss")


@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
  """A run saves every `period` steps (0: only at its end) and keeps the `keep` newest checkpoints,
  those of every `keep_period` steps (0: none), and the evaluated one whose metric `best` is the
  lowest ("": none).
  """

  period: NonNegativeInt
  keep: PositiveInt
  keep_period: NonNegativeInt
  best: str


class Checkpoints:
  """Asynchronous Orbax checkpoints of a train state in MODEL_DIR/checkpoints.

  Each holds the configuration and the version of this package too. A save that fails ends the run
  at the next one.
  """

  def __init__(self, directory: str, policy: CheckpointPolicy, config_text: str):
    self.policy = policy
    self._about = {"version": musiclm_jax.__version__, "config": config_text}
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
      best_fn=WRITE_METRICS,
      create=True,
      enable_async_checkpointing=True,
    )
    self._path = pathlib.Path(directory).resolve() / "checkpoints"
    handler = ocp.StandardCheckpointHandler()
    self._manager = ocp.CheckpointManager(self._path, options=options, item_handlers=handler)

  def save(self, step: int, state, metrics: dict[str, float] | None) -> None:
    """Starts saving; returns when the state has been copied, not when it is written.

    `metrics` are those of the evaluation after this step, if there was one. Raises ValueError where
    they lack the metric that ranks checkpoints.
    """
    if metrics and self.policy.best and self.policy.best not in metrics:
      raise ValueError(f"best: no metric {self.policy.best!r}; there are {sorted(metrics)}")
    if step not in self._manager.all_steps():
      args = ocp.args.StandardSave(state)
      self._manager.save(step, args=args, metrics=metrics, custom_metadata=self._about)

  def restore(self, abstract_state):
    """The newest state, with the shapes and shardings of `abstract_state`; None without any.

    A newer checkpoint that cannot be read is moved to MODEL_DIR/broken and named in a line on
    stderr. Raises ValueError where there are checkpoints and none can be read, or of a job of
    several processes the newest; and, with the difference, where the saved tree is another one.
    """
    broken = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        state = self._read(step, abstract_state)
      except Unreadable as error:
        broken.append((step, error))
        if jax.process_count() > 1:
          break  # another process may have been able to read it
        continue
      for each, error in broken:
        self._move_away(each, error, step)
      return state
    if broken:
      listed = "; ".join(f"{step}: {error}" for step, error in broken)
      advice = "move what cannot be read away, to continue from an older checkpoint or begin anew"
      raise ValueError(f"{self._path}: {listed}; {advice}")
    return None

  def _read(self, step: int, abstract_state):
    """The state of a checkpoint. Raises Unreadable where it is not whole."""
    with reading():
      saved = shapes(tree_metadata(self._manager, step))
    wanted = shapes(abstract_state)
    if saved != wanted:
      difference = descriptions.difference(wanted, saved, "this run", "checkpoint")
      raise ValueError(f"{self._path}/{step}: {difference}")
    with reading():
      state = self._manager.restore(step, args=ocp.args.StandardRestore(placed(abstract_state)))
    # What has no sharding of its own stays uncommitted, as a state that was just made.
    return jax.tree.map(
      lambda x, wanted: jnp.array(np.asarray(x)) if wanted.sharding is None else x,
      state,
      abstract_state,
    )

  def _move_away(self, step: int, error: ValueError, used: int) -> None:
    """Makes room for saving step `step` again."""
    target = self._path.parent / "broken" / f"{step}-{int(time.time())}"
    target.parent.mkdir(exist_ok=True)
    os.rename(self._path / str(step), target)
    self._manager.reload()
    line = f"cannot be read ({error}); moved to {target}; continuing from step {used}"
    print(f"{self._path}/{step}: {line}", file=sys.stderr)

  def close(self) -> None:
    """Waits until everything is written."""
    self._manager.wait_until_finished()
    self._manager.close()


class Unreadable(ValueError):
  """A checkpoint that cannot be read: why, in one line."""


@contextlib.contextmanager
def reading():
  """While a checkpoint is read: what Orbax and TensorStore raise becomes one ValueError of a line.

  Of several arrays that cannot be read, the first is raised; the errors of the rest come from
  threads, by sys.excepthook, when the event loop is closed that would have taken them.
  """
  previous = sys.excepthook

  def hook(kind, error, trace):
    if "Event loop is closed" not in str(error):
      previous(kind, error, trace)

  sys.excepthook = hook
  try:
    yield
  except (ValueError, OSError, KeyError) as error:
    time.sleep(0.5)  # the rest come at once, or a little later
    raise Unreadable(str(error).splitlines()[0]) from None
  finally:
    sys.excepthook = previous


def tree_metadata(manager: ocp.CheckpointManager, step: int):
  """The tree of a checkpoint with the shape and dtype of each array.

  Raises ValueError where the file of them is missing.
  """
  found = manager.item_metadata(step)
  if found is None or found.tree is None:
    raise ValueError("its metadata are missing")
  return found.tree


def placed(abstract):
  """Abstract arrays with a sharding each: where they have none, one device holds them."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(lambda x: x.update(sharding=x.sharding or device), abstract)


def shapes(tree) -> dict[str, tuple]:
  """{name with slashes: shape} of the arrays of a tree."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {path_name(path): tuple(getattr(leaf, "shape", ())) for path, leaf in leaves}


def path_name(path) -> str:
  """The keys of a path in a tree with slashes between them."""
  keys = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
  return "/".join(str(k) for k in keys)
