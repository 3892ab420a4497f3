"""Building blocks of the models: initializers, norms, dropout, and stacks of layers."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

MASKED = -1e9  # a score whose softmax is 0; finite, because a row of -inf gives NaN
_REMAT = {
  "minimal": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
  "full": jax.checkpoint_policies.nothing_saveable,
}


def normal(*, fan_in_axes: int):
  """Initializer of variance 1 / fan-in; the fan-in is the product of the shape's first axes."""

  def init(key, shape, dtype=jnp.float32):
    fan_in = math.prod(shape[:fan_in_axes])
    return jax.random.normal(key, shape, dtype) / math.sqrt(fan_in)

  return init


def norm(name: str, dtype: str) -> nn.RMSNorm:
  """T5's layer norm: a scale, no mean and no bias; statistics in float32."""
  ones = nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",))
  return nn.RMSNorm(epsilon=1e-6, dtype=dtype, scale_init=ones, name=name)


def standardised(name: str, x: jax.Array, train: bool, decay: float) -> jax.Array:
  """x [..., features] with mean 0 and variance 1 of each feature.

  Over the batch in training, by moving averages of `decay` (collection "batch_stats") otherwise.
  """
  return nn.BatchNorm(
    use_running_average=not train, momentum=decay, use_bias=False, use_scale=False, name=name
  )(x)


def unit(x: jax.Array) -> jax.Array:
  """x [..., dim] scaled to length 1, float32."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)


class Dropout(nn.Module):
  """x / (1 - rate) with a share `rate` of values set to 0, all or none along `broadcast_dims`.

  x itself where `deterministic`. A barrier keeps the mask from being fused: XLA would recompute its
  random bits in each operation that reads it, and compile a Conformer layer for TPUs in 258 s
  instead of 58 s.
  """

  rate: float
  deterministic: bool
  broadcast_dims: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.deterministic or self.rate == 0:
      return x
    along = {dim % x.ndim for dim in self.broadcast_dims}
    shape = [1 if dim in along else size for dim, size in enumerate(x.shape)]
    kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
    return jnp.where(jax.lax.optimization_barrier(kept), x / (1 - self.rate), 0)


def add_bias(scores: jax.Array, bias: jax.Array) -> jax.Array:
  """scores [batch, heads, queries, keys] with bias [rows, heads or 1, queries or 1, keys] added.

  Each row of the bias is for the same number of neighbouring rows of the batch.
  """
  rows = scores.reshape(len(bias), -1, *scores.shape[1:])
  return (rows + bias[:, None]).reshape(scores.shape)


def stack(layer: type[nn.Module], depth: int, *, in_axes: tuple, remat: str, unroll: bool):
  """A module class of `depth` layers, compiled once; its parameters have a first axis of layers.

  A layer maps (x, *others, train) to (x, result). in_axes has an entry for each other argument and
  for train: 0 where each layer gets its own slice, nn.broadcast where all get the same. Results are
  stacked. `remat` tells which activations the backward pass recomputes: "none", "full" (all) or
  "minimal" (all but the outputs of matrix products with parameters).
  """
  if remat != "none":
    train = 1 + len(in_axes)  # the last argument; self and x come before in_axes'
    # Without a loop XLA would merge the recomputation with the first one, and keep its result.
    layer = nn.remat(layer, prevent_cse=unroll, static_argnums=(train,), policy=_REMAT[remat])
  return nn.scan(
    layer,
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=in_axes,
    length=depth,
    unroll=depth if unroll else 1,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )


def with_field(module, name: str, value):
  """The module, with this value in every field of this name, in its submodules too."""
  if not dataclasses.is_dataclass(module):
    return module
  linen = ("parent", "name")
  fields = [f.name for f in dataclasses.fields(module) if f.init and f.name not in linen]
  changes = {field: with_field(getattr(module, field), name, value) for field in fields}
  if name in changes:
    changes[name] = value
  return dataclasses.replace(module, **changes)
