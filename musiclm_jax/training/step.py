"""One step of training as a pure function, and that function over a mesh.

State besides parameters is Linen collections; randomness is fold_in(seed, step).
"""

import dataclasses
import functools
import sys

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from musiclm_jax import partitioning
from musiclm_jax.ranges import PositiveInt, Seed
from musiclm_jax.seeds import random_key

# {name: (sum, weight)}: their quotient is the metric, and sums can be added.
Metrics = dict[str, tuple[jax.Array, jax.Array]]
# XLA's options by platform. On CPUs it leaves sums to YNNPACK, with which a decoder's step takes a
# tenth to a half longer, and no other model's takes less.
_OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": ""}}


@flax.struct.dataclass
class TrainState:
  """Everything a step changes: params, other collections (codebooks, statistics), the optimizer."""

  step: jax.Array
  params: dict
  collections: dict
  opt_state: optax.OptState

  @property
  def variables(self) -> dict:
    """The variables for `module.apply`, which are evaluated and left as the trained part: with the
    average of the parameters where the optimizer keeps one.
    """
    params = optax.tree.get(self.opt_state, "parameter_average", self.params)
    return {"params": params, **self.collections}


def init_state(model: nn.Module, optimizer, batch: dict, seed: int) -> TrainState:
  """The state of step 0, parameters still boxed with their axis names."""
  variables = dict(model.init(random_key(seed), batch, train=False))
  params = variables.pop("params", {})
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    collections=variables,
    opt_state=optimizer.init(nn.unbox(params)),
  )


def parameter_axes(*, model: nn.Module, examples) -> dict:
  """The logical axes of each parameter, a tuple of names and None, in the tree of the parameters.

  `examples` has the `shapes` of an example of the model's batches.
  """
  batch = partitioning.batched(examples.shapes, 2)
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), batch)
  return jax.tree.map(
    lambda x: x.names if isinstance(x, nn.Partitioned) else (None,) * x.ndim,
    variables.get("params", {}),
    is_leaf=lambda x: isinstance(x, nn.Partitioned),
  )


def state_shardings(boxed: TrainState, mesh: Mesh) -> TrainState:
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

  Parts are weighted by the weight of their loss, so that for a model without other state, whose
  rows are independent, the update is that of the whole batch. Where the loss or the gradient is not
  finite the step changes only its number, and of the metrics only "skipped" has a weight.
  """
  rng = jax.random.fold_in(random_key(seed), state.step)
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
  if num_microbatches == 1:  # on CPUs even a loop of one pass prevents XLA's fast convolutions
    (collections, grads, weight), metrics = part(carry, (0, batch))
  else:
    parts = functools.partial(microbatches, num_microbatches, rows_together(model))
    inputs = jnp.arange(num_microbatches), jax.tree.map(parts, batch)
    carry, metrics = jax.lax.scan(part, carry, inputs)
    collections, grads, weight = carry
    metrics = jax.tree.map(lambda x: x.sum(0), metrics)
  grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-9), grads)
  norm = optax.global_norm(grads)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  following = TrainState(state.step + 1, params, collections, opt_state)

  finite = jnp.isfinite(metrics["loss"][0]) & jnp.isfinite(norm)
  still = state.replace(step=state.step + 1)
  following = jax.tree.map(functools.partial(jnp.where, finite), following, still)
  metrics["gradient_norm"] = (norm, jnp.float32(1))
  for name, rate in optax.tree.get_all_with_path(opt_state, "learning_rate"):
    metrics[_rate_name(name)] = (rate, jnp.float32(1))
  metrics = jax.tree.map(lambda x: jnp.where(finite, x, 0), metrics)
  metrics["skipped"] = (1 - finite.astype(jnp.float32), jnp.float32(1))
  return following, metrics


def rows_together(model: nn.Module) -> int:
  """How many neighbouring rows of a batch a model compares: its own `rows_together`, or 1."""
  return getattr(model, "rows_together", 1)


def microbatches(number: int, together: int, x: jax.Array) -> jax.Array:
  """x [rows, ...] as [number, rows / number, ...], with rows that belong together in one part.

  Each part has rows from all over the batch, so that it spreads over all devices.
  """
  groups = x.reshape(-1, number, together, *x.shape[1:])
  return groups.swapaxes(0, 1).reshape(number, -1, *x.shape[1:])


def _rate_name(path) -> str:
  """ "learning_rate", with the name of its branch where the optimizer has several."""
  branches = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
  return "/".join(("learning_rate", *branches))


@dataclasses.dataclass(frozen=True)
class Program:
  """A training on a mesh: `shapes` are those of its global batches.

  All arrays of a state and a batch have shardings, except on a single device.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  mesh: Mesh
  shapes: dict[str, jax.ShapeDtypeStruct]
  num_microbatches: int
  seed: int

  def __post_init__(self):
    rows = self.rows
    if rows % self.multiple:
      devices, parts = partitioning.num_batch_shards(self.mesh), self.num_microbatches
      together = self.multiple // (devices * parts)
      by = f", each a multiple of {together}," if together > 1 else ""
      raise ValueError(
        f"batch_size: {rows} rows do not divide into {parts} microbatches{by} on {devices} devices"
        " of slices, data and fsdp"
      )

  @property
  def multiple(self) -> int:
    """The rows of a global batch must be a multiple of this."""
    together = rows_together(self.model) if self.num_microbatches > 1 else 1
    return self.num_microbatches * partitioning.num_batch_shards(self.mesh) * together

  @property
  def rows(self) -> int:
    """Rows of a global batch."""
    return next(iter(self.shapes.values())).shape[0]

  @functools.cached_property
  def own_rows(self) -> np.ndarray:
    """Which rows of a global batch this process reads."""
    return partitioning.own_rows(self.rows, self.mesh)

  def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """The global batch from this process's own rows of it."""
    return partitioning.global_batch(batch, self.rows, self.mesh)

  @functools.cached_property
  def boxed(self) -> TrainState:
    """The abstract state, parameters boxed with their axis names."""
    return jax.eval_shape(self._init, self.shapes)

  @functools.cached_property
  def shardings(self) -> TrainState:
    """The shardings of a state; None where JAX decides. Warns where fsdp splits nothing."""
    found = state_shardings(self.boxed, self.mesh)
    if self.mesh.shape["fsdp"] > 1 and not any("fsdp" in x.spec for x in jax.tree.leaves(found)):
      fsdp = self.mesh.shape["fsdp"]
      print(f"mesh: fsdp={fsdp} splits no array: its parts would be too narrow", file=sys.stderr)
    return found

  @property
  def state(self) -> TrainState:
    """The abstract state with its shardings."""
    return jax.tree.map(_abstract, nn.unbox(self.boxed), self.shardings)

  @property
  def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """An abstract global batch with its sharding."""
    sharding = partitioning.batch_sharding(self.mesh)
    return {name: _abstract(x, sharding) for name, x in self.shapes.items()}

  def init(self) -> TrainState:
    """The state of step 0."""

    def init():
      zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in self.shapes.items()}
      return nn.unbox(self._init(zeros))

    return jax.jit(init, out_shardings=self.shardings)()

  @functools.cached_property
  def step(self):
    """The compiled (state, batch) to (next state, metrics); it reuses the state's memory."""
    step = functools.partial(
      train_step, self.model, self.optimizer, self.num_microbatches, self.seed
    )
    return self._jit(step, donate_argnums=0, out_shardings=(self.shardings, None))

  @functools.cached_property
  def eval_step(self):
    """The compiled (variables, batch) to metrics, without dropout."""
    rngs = {"dropout": random_key(self.seed)}
    return self._jit(lambda v, batch: self.model.apply(v, batch, train=False, rngs=rngs)[1])

  def _jit(self, function, **words):
    options = _OPTIONS.get(self.mesh.devices.flat[0].platform)
    return jax.jit(function, compiler_options=options, **words)

  def _init(self, batch) -> TrainState:
    return init_state(self.model, self.optimizer, batch, self.seed)


def _abstract(x, sharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training without its devices and the shapes of its data: `program` adds them."""

  model: nn.Module
  optimizer: optax.GradientTransformation
  mesh_shape: partitioning.MeshShape
  num_microbatches: PositiveInt
  seed: Seed

  def program(self, shapes: dict[str, jax.ShapeDtypeStruct], devices=None) -> Program:
    """The program of global batches of these shapes, over all devices or those given."""
    mesh = partitioning.make_mesh(self.mesh_shape, devices)
    return Program(self.model, self.optimizer, mesh, shapes, self.num_microbatches, self.seed)
