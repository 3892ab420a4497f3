"""What the models are built of: first values, the norm, dropout, and layers as one stack."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

MASKED = -1e9  # a score that no softmax sees; finite, as a row of -inf alone would be NaN
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


def unit(x: jax.Array) -> jax.Array:
  """x [..., dim] at length 1, float32."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)


class Dropout(nn.Module):
  """x / (1 - rate) with values set to 0 at `rate`; along `broadcast_dims` all or none of them.
  Where `deterministic`, x itself.

  The mask is computed once. XLA would make its random bits again within everything that reads
  them, of which a TPU's compiler makes a single Conformer layer in 258 s and not 58.
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
  """A module class of `depth` layers, compiled as one; its parameters have an axis in front.

  A layer maps (x, *others, train) to (x, result); in_axes say of each other and of train whether
  every layer has its own slice (0) or all the same (nn.broadcast). Results are stacked. What the
  backward pass needs of the activations is kept ("none") or computed again, all of it ("full") or
  all but the outputs of matrix products with parameters ("minimal").
  """
  if remat != "none":
    train = 1 + len(in_axes)  # the last argument, behind self and x
    # Without a loop around them XLA would find that both computations are one, and keep it.
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
  """The module, with this value wherever it or one of its parts has a field of this name."""
  if not dataclasses.is_dataclass(module):
    return module
  linen = ("parent", "name")
  fields = [f.name for f in dataclasses.fields(module) if f.init and f.name not in linen]
  changes = {field: with_field(getattr(module, field), name, value) for field in fields}
  if name in changes:
    changes[name] = value
  return dataclasses.replace(module, **changes)
