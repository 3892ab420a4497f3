"""The decoder: pre-norm, gated feed-forward, with the cache as an argument.

MusicLM Section 4.1 and Raffel et al. 2020 (T5 1.1). All stage models use it.
Axes of a bias: x shards of the batch, n heads, t query, s key.
"""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from musiclm_jax.attention import apply_rotary, attend, causal_attention
from musiclm_jax.layers import MASKED, Dropout, norm, normal, stack
from musiclm_jax.partitioning import constrain
from musiclm_jax.ranges import Fraction, PositiveInt


@flax.struct.dataclass
class Cache:
  """Keys and values [layers, batch, heads, length, head_dim] of the first `index` positions."""

  keys: jax.Array
  values: jax.Array
  index: jax.Array

  def append(self, keys: jax.Array, values: jax.Array) -> "Cache":
    """The cache with keys and values [layers, batch, heads, new, head_dim] added at `index`."""
    start = (0, 0, 0, self.index, 0)
    return Cache(
      keys=jax.lax.dynamic_update_slice(self.keys, keys.astype(self.keys.dtype), start),
      values=jax.lax.dynamic_update_slice(self.values, values.astype(self.values.dtype), start),
      index=self.index + keys.shape[3],
    )


def _dropout(rate: float, train: bool) -> Dropout:
  """Drops a feature at all positions of a sequence, as T5 and T5X do.

  One mask for all positions needs far fewer random bits, which are slow to make on every backend.
  """
  return Dropout(rate, broadcast_dims=(-2,), deterministic=not train)


def _project(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x [batch, length, *features] by a kernel [*features, *others]: [batch, length, *others].

  Batch and length are one axis in the product: with two, XLA for CPUs transposes the activations in
  memory for the gradient of the kernel, which takes 6% of a decoder's step.
  """
  rows = x.reshape(-1, *x.shape[2:])
  rows = jnp.tensordot(rows, kernel, axes=x.ndim - 2)
  return rows.reshape(*x.shape[:2], *rows.shape[1:])


class Layer(nn.Module):
  """Self-attention, then a gated-GELU feed-forward, both pre-norm.

  Returns (x, (new keys, new values)).
  """

  num_heads: int
  head_dim: int
  mlp_dim: int
  dropout_rate: float
  attention: str
  query_block: int
  dtype: str

  @nn.compact
  def __call__(self, x, cached, bias, cached_bias, angles, train: bool):
    embed_dim = x.shape[-1]
    dropout = _dropout(self.dropout_rate, train)
    heads = (self.num_heads, self.head_dim)

    def param(name, shape, axes, fan_in_axes):
      init = nn.with_logical_partitioning(normal(fan_in_axes=fan_in_axes), axes)
      return self.param(name, init, shape).astype(self.dtype)

    y = norm("attention_norm", self.dtype)(x)
    qkv = param("qkv", (embed_dim, 3, *heads), ("embed", None, "heads", "head_dim"), 1)
    # [batch, length, 3, heads, head_dim] to [batch, heads, length, head_dim] of each
    query, key, value = jnp.moveaxis(_project(y, qkv), (2, 3), (0, 2))
    query = apply_rotary(query * (self.head_dim**-0.5), angles)
    key = apply_rotary(key, angles)
    if cached is not None:
      y = attend(query, [cached[0], key], [cached[1], value], [cached_bias, bias])
    else:
      y = causal_attention(self.attention, query, key, value, bias, self.query_block)
    out = param("out", (*heads, embed_dim), ("heads", "head_dim", "embed"), 2)
    y = _project(y.swapaxes(1, 2), out)
    x = constrain(x + dropout(y), "batch", "length", "embed_act")

    y = norm("mlp_norm", self.dtype)(x)
    wi = param("wi", (embed_dim, 2, self.mlp_dim), ("embed", None, "mlp"), 1)
    gate, up = jnp.moveaxis(_project(y, wi), 2, 0)
    y = constrain(dropout(nn.gelu(gate) * up), "batch", "length", "mlp_act")
    wo = param("wo", (self.mlp_dim, embed_dim), ("mlp", "embed"), 1)
    x = constrain(x + dropout(_project(y, wo)), "batch", "length", "embed_act")
    return x, (key, value)


class Transformer(nn.Module):
  """A stack of causal layers over embeddings.

  x [batch, length, embed] to ([batch, length, embed] after a final norm, cache). With a cache, x
  are the positions from cache.index on, and the returned cache holds them too. `positions` is a
  module of attention.py, `attention` the kind of `causal_attention` where there is no cache.
  """

  num_layers: PositiveInt
  num_heads: PositiveInt
  head_dim: PositiveInt
  embed_dim: PositiveInt
  mlp_dim: PositiveInt
  dropout_rate: Fraction
  positions: nn.Module
  attention: str
  query_block: PositiveInt
  remat: str
  unroll: bool
  dtype: str

  def init_cache(self, batch: int, length: int) -> Cache:
    """An empty cache for `length` positions of `batch` sequences."""
    shape = (self.num_layers, batch, self.num_heads, length, self.head_dim)
    zeros = functools.partial(jnp.zeros, shape, self.dtype)
    return Cache(keys=zeros(), values=zeros(), index=jnp.zeros((), jnp.int32))

  def _biases(self, length: int, cache: Cache | None):
    """Additive float32 biases [x, n, t, s] for the new keys and for the cached ones."""
    new = jnp.arange(length)
    bias_new = self.positions(new, new, self.num_heads)
    bias_new += jnp.where(new[None, :] > new[:, None], MASKED, 0.0)[None, None]
    if cache is None:
      return bias_new, None
    old = jnp.arange(cache.keys.shape[3])
    filled = jnp.where(old < cache.index, 0.0, MASKED)[None, None, None, :]
    return bias_new, self.positions(cache.index + new, old, self.num_heads) + filled

  @nn.compact
  def __call__(self, x, *, cache: Cache | None = None, train: bool = False):
    x = _dropout(self.dropout_rate, train)(x.astype(self.dtype))
    x = constrain(x, "batch", "length", "embed_act")
    bias, cached_bias = self._biases(x.shape[1], cache)
    cached = None if cache is None else (cache.keys, cache.values)
    start = 0 if cache is None else cache.index
    angles = self.positions.angles(start + jnp.arange(x.shape[1]), self.head_dim)
    layers = stack(
      Layer,
      self.num_layers,
      in_axes=(0, *4 * (nn.broadcast,)),
      remat=self.remat,
      unroll=self.unroll,
    )(
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      mlp_dim=self.mlp_dim,
      dropout_rate=self.dropout_rate,
      attention=self.attention,
      query_block=self.query_block,
      dtype=self.dtype,
      name="layers",
    )
    x, (keys, values) = layers(x, cached, bias, cached_bias, angles, train)
    if cache is not None:
      cache = cache.append(keys, values)
    return norm("final_norm", self.dtype)(x), cache
