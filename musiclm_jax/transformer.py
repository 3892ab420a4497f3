"""The decoder: pre-norm, T5 relative bias, gated feed-forward, the cache an argument.

MusicLM Section 4.1 and Raffel et al. 2020 (T5 1.1). Every stage model is this file.
einsum letters: b batch, t query, s key, d embed, n heads, h head_dim, f mlp; x shards of the batch.
"""

import functools
import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.layers import MASKED, add_bias, norm, normal, stack
from musiclm_jax.partitioning import constrain, for_each_shard


@flax.struct.dataclass
class Cache:
  """Keys and values [layers, batch, heads, length, head_dim] of the first `index` positions."""

  keys: jax.Array
  values: jax.Array
  index: jax.Array

  def append(self, keys: jax.Array, values: jax.Array) -> "Cache":
    """The cache with [layers, batch, heads, new, head_dim] written behind position `index`."""
    start = (0, 0, 0, self.index, 0)
    return Cache(
      keys=jax.lax.dynamic_update_slice(self.keys, keys.astype(self.keys.dtype), start),
      values=jax.lax.dynamic_update_slice(self.values, values.astype(self.values.dtype), start),
      index=self.index + keys.shape[3],
    )


def relative_buckets(distance: jax.Array, *, num_buckets: int, max_distance: int, causal: bool):
  """T5 bucket of each key-minus-query distance: exact when near, logarithmic up to max_distance.

  [...] int32 to [...] int32 in 0..num_buckets-1. Causal buckets cover the past alone.
  """
  ahead = 0
  if causal:
    back = jnp.maximum(-distance, 0)
  else:
    num_buckets //= 2
    ahead = (distance > 0).astype(jnp.int32) * num_buckets
    back = jnp.abs(distance)
  exact = num_buckets // 2
  ratio = jnp.log(jnp.maximum(back, 1) / exact) / math.log(max_distance / exact)
  far = exact + (ratio * (num_buckets - exact)).astype(jnp.int32)
  return ahead + jnp.where(back < exact, back, jnp.minimum(far, num_buckets - 1))


class RelativeBias(nn.Module):
  """T5 relative position bias [x, heads, queries, keys], one table for all layers; equal in x."""

  num_heads: int
  num_buckets: int
  max_distance: int
  causal: bool

  @nn.compact
  def __call__(self, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
    init = nn.with_logical_partitioning(normal(fan_in_axes=1), (None, "heads"))
    table = self.param("table", init, (self.num_buckets, self.num_heads))
    distance = key_positions[None, :] - query_positions[:, None]
    buckets = relative_buckets(
      distance, num_buckets=self.num_buckets, max_distance=self.max_distance, causal=self.causal
    )
    # A matrix product and not a gather: its gradient is then no scatter.
    one_hot = jax.nn.one_hot(buckets, self.num_buckets, dtype=table.dtype)
    tables = for_each_shard(table, None, "heads")
    return jnp.einsum("tsk,xkn->xnts", one_hot, tables)


def _attend(query, keys, values, bias):
  """[b, n, t, h] from blocks of keys and values [b, n, s, h], each with a bias [x, n, t, s]."""
  scores = [
    add_bias(jnp.einsum("bnth,bnsh->bnts", query, k, preferred_element_type=jnp.float32), b)
    for k, b in zip(keys, bias)
  ]
  weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(query.dtype)
  ends = np.cumsum([k.shape[2] for k in keys])[:-1]
  parts = jnp.split(weights, ends, axis=-1)
  return sum(jnp.einsum("bnts,bnsh->bnth", w, v) for w, v in zip(parts, values))


def causal_attention(query, key, value, bias, block: int):
  """Causal attention [b, n, t, h] by blocks of queries, so that the masked half costs nothing.

  bias [x, n, t, s] already holds the causal mask; a block of queries meets the keys up to its end.
  """
  length = query.shape[2]
  outs = []
  for start in range(0, length, block):
    end = min(start + block, length)
    scope = bias[:, :, start:end, :end]
    keys, values = key[:, :, :end], value[:, :, :end]
    outs.append(_attend(query[:, :, start:end], [keys], [values], [scope]))
  return jnp.concatenate(outs, axis=2)


class Layer(nn.Module):
  """Self-attention, then a gated-GELU feed-forward, both pre-norm; (x, (new keys, new values))."""

  num_heads: int
  head_dim: int
  mlp_dim: int
  dropout_rate: float
  query_block: int
  dtype: str

  @nn.compact
  def __call__(self, x, cached, bias, cached_bias, train: bool):
    embed_dim = x.shape[-1]
    dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
    heads = (self.num_heads, self.head_dim)

    def param(name, shape, axes, fan_in_axes):
      init = nn.with_logical_partitioning(normal(fan_in_axes=fan_in_axes), axes)
      return self.param(name, init, shape).astype(self.dtype)

    y = norm("attention_norm", self.dtype)(x)
    qkv = param("qkv", (embed_dim, 3, *heads), ("embed", None, "heads", "head_dim"), 1)
    query, key, value = jnp.einsum("btd,dcnh->cbnth", y, qkv)
    query = query * (self.head_dim**-0.5)
    if cached is not None:
      y = _attend(query, [cached[0], key], [cached[1], value], [cached_bias, bias])
    else:
      y = causal_attention(query, key, value, bias, self.query_block)
    out = param("out", (*heads, embed_dim), ("heads", "head_dim", "embed"), 2)
    x = constrain(x + dropout(jnp.einsum("bnth,nhd->btd", y, out)), "batch", "length", "embed_act")

    y = norm("mlp_norm", self.dtype)(x)
    wi = param("wi", (embed_dim, 2, self.mlp_dim), ("embed", None, "mlp"), 1)
    gate, up = jnp.moveaxis(jnp.einsum("btd,dcf->btcf", y, wi), 2, 0)
    y = constrain(dropout(nn.gelu(gate) * up), "batch", "length", "mlp_act")
    wo = param("wo", (self.mlp_dim, embed_dim), ("mlp", "embed"), 1)
    x = constrain(x + dropout(jnp.einsum("btf,fd->btd", y, wo)), "batch", "length", "embed_act")
    return x, (key, value)


class Transformer(nn.Module):
  """A stack of causal layers over embeddings.

  x [batch, length, embed] to ([batch, length, embed] after a final norm, cache). With a cache, x
  are the positions behind cache.index and the returned cache holds them too.
  """

  num_layers: int
  num_heads: int
  head_dim: int
  embed_dim: int
  mlp_dim: int
  dropout_rate: float
  num_buckets: int
  max_distance: int
  query_block: int
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
    bias = RelativeBias(
      self.num_heads, self.num_buckets, self.max_distance, causal=True, name="relative_bias"
    )
    new = jnp.arange(length)
    bias_new = bias(new, new)
    bias_new += jnp.where(new[None, :] > new[:, None], MASKED, 0.0)[None, None]
    if cache is None:
      return bias_new, None
    old = jnp.arange(cache.keys.shape[3])
    free = jnp.where(old < cache.index, 0.0, MASKED)[None, None, None, :]
    return bias_new, bias(cache.index + new, old) + free

  @nn.compact
  def __call__(self, x, *, cache: Cache | None = None, train: bool = False):
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x.astype(self.dtype))
    x = constrain(x, "batch", "length", "embed_act")
    bias, cached_bias = self._biases(x.shape[1], cache)
    cached = None if cache is None else (cache.keys, cache.values)
    layers = stack(
      Layer,
      self.num_layers,
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      remat=self.remat,
      unroll=self.unroll,
    )(
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      mlp_dim=self.mlp_dim,
      dropout_rate=self.dropout_rate,
      query_block=self.query_block,
      dtype=self.dtype,
      name="layers",
    )
    x, (keys, values) = layers(x, cached, bias, cached_bias, train)
    if cache is not None:
      cache = cache.append(keys, values)
    return norm("final_norm", self.dtype)(x), cache
