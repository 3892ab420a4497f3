"""The one trainer: any module that maps a batch to (loss, {name: (sum, weight)}).

State besides parameters is Linen collections; randomness is fold_in(seed, step). A step is one
jitted program over the mesh, and running the same command again continues where it stopped.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import pathlib
import time

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from musiclm_jax import checkpointing, partitioning
from musiclm_jax.training import progress

_KEEP = 2  # checkpoints


@flax.struct.dataclass
class TrainState:
  """Everything a step changes: params, other collections (codebooks, statistics), the optimizer."""

  step: jax.Array
  params: dict
  collections: dict
  opt_state: optax.OptState

  @property
  def variables(self) -> dict:
    """What `module.apply` takes."""
    return {"params": self.params, **self.collections}


@dataclasses.dataclass(frozen=True)
class Steps:
  """How many steps a run has, and every how many it logs, evaluates (0: only at the end), saves.

  It ends early where a metric, at a log, is under its floor: `floors` maps names of metrics to (the
  least value that is healthy, what is wrong below it).
  """

  total: int
  log: int
  evaluate: int
  checkpoint: int
  floors: dict[str, tuple[float, str]]


def init_state(model: nn.Module, optimizer, batch: dict, seed: int) -> TrainState:
  """The state of step 0, parameters still boxed with their axis names."""
  variables = dict(model.init(jax.random.key(seed), batch, train=False))
  params = variables.pop("params", {})
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    collections=variables,
    opt_state=optimizer.init(nn.unbox(params)),
  )


def state_shardings(boxed: TrainState, mesh) -> TrainState:
  """Shardings of a state from the axis names of its abstract, boxed parameters.

  A moment, which is a leaf of the optimizer's state under the path and of the shape of a parameter,
  is sharded like it; everything else is replicated.
  """
  params = partitioning.shardings(boxed.params, mesh)
  whole = partitioning.replicated(mesh)
  leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(boxed.params))
  known = {
    path: (leaf.shape, sharding) for (path, leaf), sharding in zip(leaves, jax.tree.leaves(params))
  }

  def moment(path, leaf):
    suffixes = (path[i:] for i in range(len(path)))
    shape, sharding = next((known[s] for s in suffixes if s in known), (None, whole))
    return sharding if leaf.shape == shape else whole

  opt_state = jax.tree_util.tree_map_with_path(moment, boxed.opt_state)
  collections = partitioning.shardings(boxed.collections, mesh)
  return TrainState(step=whole, params=params, collections=collections, opt_state=opt_state)


def loss_and_updates(model, params, collections, batch, rng):
  """(loss, (metrics, updated collections)) of one batch in training."""
  (loss, metrics), updates = model.apply(
    {"params": params, **collections},
    batch,
    train=True,
    rngs={"dropout": rng},
    mutable=list(collections),
  )
  return loss, (metrics, {**collections, **updates})


def train_step(model, optimizer, num_microbatches: int, seed: int, state: TrainState, batch):
  """(next state, metrics): one update from `batch`, in `num_microbatches` parts one by one.

  Parts are weighted by the weight of their loss, so that for a model without other state the
  update is that of the whole batch.
  """
  rng = jax.random.fold_in(jax.random.key(seed), state.step)
  grad = jax.value_and_grad(functools.partial(loss_and_updates, model), has_aux=True)

  def part(carry, inputs):
    collections, total, summed = carry
    index, rows = inputs
    part_rng = jax.random.fold_in(rng, index)
    (_, (metrics, collections)), grads = grad(state.params, collections, rows, part_rng)
    weight = metrics["loss"][1]
    total = jax.tree.map(lambda t, g: t + g * weight, total, grads)
    return (collections, total, summed + weight), metrics

  carry = (state.collections, jax.tree.map(jnp.zeros_like, state.params), jnp.float32(0))
  if num_microbatches == 1:  # even a loop of one turn keeps XLA's fast convolutions away on the CPU
    (collections, grads, weight), metrics = part(carry, (0, batch))
  else:
    # rows i, i + n, i + 2n, ... form a part, so that each part spreads over all devices
    parts = jax.tree.map(
      lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1), batch
    )
    carry, metrics = jax.lax.scan(part, carry, (jnp.arange(num_microbatches), parts))
    collections, grads, weight = carry
    metrics = jax.tree.map(lambda x: x.sum(0), metrics)
  grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-9), grads)
  metrics["gradient_norm"] = (optax.global_norm(grads), jnp.float32(1))
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, collections, opt_state), metrics


def evaluate(eval_step, variables, data, mesh) -> dict[str, float]:
  """Mean metrics over one pass of `data`, which is the same at every call."""
  total = {}
  with contextlib.closing(data.batches(0)) as batches:
    for batch in itertools.islice(batches, data.num_batches):
      metrics = eval_step(variables, partitioning.global_batch(batch, mesh))
      total = jax.tree.map(jnp.add, total, metrics) if total else metrics
  return progress.means(total)


def train(
  *,
  model: nn.Module,
  train_data,
  eval_data,
  optimizer: optax.GradientTransformation,
  mesh_shape: partitioning.MeshShape,
  model_dir: str,
  steps: Steps,
  seed: int,
  num_microbatches: int,
  initial: dict[str, str],
  config_text: str = "",
) -> dict[str, float]:
  """Trains `model` to `steps.total` and leaves a part in `model_dir`; gives the last evaluation.

  Continues from the newest checkpoint if there is one; else from random values, but for what
  `initial`, {path among the parameters: directory of a part}, names: an empty directory names
  nothing, the path "" the whole model. Raises ValueError where model_dir belongs to
  another configuration, or its checkpoint or a part has another tree, and where training has
  failed: `check_health`.
  """
  mesh = partitioning.make_mesh(mesh_shape)
  initial = {path: directory for path, directory in initial.items() if directory}
  checkpointing.describe_run(
    model_dir, model, train_data.provenance | checkpointing.origins(initial)
  )
  checkpointing.write_text(pathlib.Path(model_dir, "config.gin"), config_text)
  with partitioning.use(mesh), progress.Progress(model_dir, steps.total) as log:
    # Shapes alone are needed of the first batch, before it is known where to start.
    with contextlib.closing(train_data.batches(0)) as batches:
      sample = partitioning.global_batch(next(batches), mesh)
    init = functools.partial(init_state, model, optimizer, seed=seed)
    boxed = jax.eval_shape(init, sample)
    shardings = state_shardings(boxed, mesh)
    checkpoints = checkpointing.Checkpoints(model_dir, _KEEP)
    if checkpoints.latest_step is None:
      state = jax.jit(lambda batch: nn.unbox(init(batch)), out_shardings=shardings)(sample)
      state = _take_over(state, initial, shardings)
    else:
      state = checkpoints.restore(_sharded(nn.unbox(boxed), shardings))
    step_fn = jax.jit(
      functools.partial(train_step, model, optimizer, num_microbatches, seed),
      donate_argnums=0,
      out_shardings=(shardings, None),
    )
    eval_step = jax.jit(
      lambda variables, batch: model.apply(
        variables, batch, train=False, rngs={"dropout": jax.random.key(seed)}
      )[1]
    )
    held_out = functools.partial(evaluate, eval_step, data=eval_data, mesh=mesh)
    with contextlib.closing(train_data.batches(int(state.step))) as batches:
      batches = (partitioning.global_batch(batch, mesh) for batch in batches)
      state = _loop(state, step_fn, batches, steps, held_out, checkpoints, log)
    final = held_out(state.variables)
    log.evaluation(steps.total, final)
    checkpoints.save(steps.total, state)
    checkpoints.close()
    if jax.process_index() == 0:
      checkpointing.write_weights(model_dir, state.variables)
  return final


def _sharded(abstract: TrainState, shardings: TrainState) -> TrainState:
  """Abstract arrays with their shardings; None leaves one open."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    abstract,
    shardings,
  )


def _take_over(state: TrainState, initial: dict[str, str], shardings: TrainState) -> TrainState:
  """The state of step 0 with the values of the parts that `initial` names."""
  if not initial:
    return state
  taken = checkpointing.take_over(state.variables, initial)

  def put(x, sharding):
    return jnp.asarray(x) if sharding is None else jax.device_put(x, sharding)

  where = {"params": shardings.params, **shardings.collections}
  taken = jax.tree.map(put, taken, where)
  return state.replace(params=taken.pop("params"), collections=taken)


def check_health(step: int, means: dict[str, float], floors: dict[str, tuple[float, str]]) -> None:
  """Raises ValueError where the loss is not finite, or one of the means is under its floor."""
  if not math.isfinite(means["loss"]):
    raise ValueError(f"step {step}: the loss is {means['loss']}; lower the learning rate")
  for name, (floor, diagnosis) in floors.items():
    if name not in means:
      raise ValueError(f"floors name {name!r}, which is no metric; there are {sorted(means)}")
    if not means[name] >= floor:
      raise ValueError(f"step {step}: {diagnosis}: {name} is {means[name]:.3g}, under {floor:g}")


def _loop(state, step_fn, batches, steps, held_out, checkpoints, log):
  """The steps from the state's own to the last, each on the next of the global batches."""
  for step in range(int(state.step) + 1, steps.total + 1):
    waited = time.perf_counter()
    batch = next(batches)
    waited = time.perf_counter() - waited
    state, metrics = step_fn(state, batch)
    rows = len(jax.tree.leaves(batch)[0])
    log.step(step, metrics, rows=rows, waited=waited)
    if step % steps.log == 0 or step == steps.total:
      check_health(step, log.flush(step), steps.floors)
    if steps.evaluate and step % steps.evaluate == 0 and step < steps.total:
      log.evaluation(step, held_out(state.variables))
    if step % steps.checkpoint == 0:
      checkpoints.save(step, state)
  return state
