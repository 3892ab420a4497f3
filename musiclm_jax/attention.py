"""Attention over a sequence: positions, and the implementations.

Positions: T5's relative bias (Raffel et al. 2020, arXiv 1910.10683, Section 2.1) or rotary ones.
einsum letters: b batch, t query, s key, n heads, h head_dim, k bucket; x shards of the batch.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.layers import add_bias, normal
from musiclm_jax.partitioning import for_each_shard, per_shard
from musiclm_jax.ranges import PositiveFloat, PositiveInt

_TILE = 512  # positions in a tile of the splash kernel
_LANES = 128  # width of a TPU's vector unit; a tile is a multiple of it


def relative_buckets(distance: jax.Array, *, num_buckets: int, max_distance: int, causal: bool):
  """T5 bucket of each key-minus-query distance: exact when near, logarithmic up to max_distance.

  [...] int32 to [...] int32 in 0..num_buckets-1. Causal buckets cover only the past.
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


def diagonals(values: jax.Array, queries: int) -> jax.Array:
  """A Toeplitz matrix [..., queries, keys] of values [..., queries + keys - 1], one a diagonal.

  The values go from the diagonal of the lower left corner to that of the upper right one.

  >>> diagonals(jnp.arange(4), 2)
  [[1, 2, 3], [0, 1, 2]]
  """
  keys = values.shape[-1] - queries + 1
  period = queries + keys
  # The rows are one shorter than the period, so each starts one value earlier than the row above.
  # Without a gather, the gradient is a sum over the rows and not a scatter.
  rolled = jnp.concatenate(
    [values[..., queries - 1 :], values[..., :1], values[..., : queries - 1]], axis=-1
  )
  flat = jnp.tile(rolled, queries)[..., : queries * (period - 1)]
  return flat.reshape(*values.shape[:-1], queries, period - 1)[..., :keys]


class RelativeBias(nn.Module):
  """T5 relative position bias [x, heads, queries, keys], one table for all layers; equal in x.

  Positions must be consecutive, so that the bias is constant along a diagonal.
  """

  num_buckets: PositiveInt
  max_distance: PositiveInt
  causal: bool

  @nn.compact
  def __call__(self, query_positions: jax.Array, key_positions: jax.Array, num_heads: int):
    init = nn.with_logical_partitioning(normal(fan_in_axes=1), (None, "heads"))
    table = self.param("table", init, (self.num_buckets, num_heads))
    queries, keys = len(query_positions), len(key_positions)
    distance = jnp.arange(1 - queries, keys) + key_positions[0] - query_positions[0]
    buckets = relative_buckets(
      distance, num_buckets=self.num_buckets, max_distance=self.max_distance, causal=self.causal
    )
    # A matrix product instead of a gather, whose gradient would be a scatter.
    one_hot = jax.nn.one_hot(buckets, self.num_buckets, dtype=table.dtype)
    tables = for_each_shard(table, None, "heads")
    return diagonals(jnp.einsum("dk,xkn->xnd", one_hot, tables), queries)

  def angles(self, positions: jax.Array, head_dim: int) -> None:
    """None: queries and keys are not rotated."""


class Rotary(nn.Module):
  """Positions as angles by which pairs of values of queries and keys are rotated; the bias is 0.

  Su et al. 2021 (RoFormer, arXiv 2104.09864), Section 3.4.2: scores depend on the distance alone.
  Value i of the first half of a head is paired with value i of the second; `base` is 10,000 there.
  """

  base: PositiveFloat

  def __call__(self, query_positions: jax.Array, key_positions: jax.Array, num_heads: int):
    return jnp.zeros((1, 1, len(query_positions), len(key_positions)))

  def angles(self, positions: jax.Array, head_dim: int) -> jax.Array:
    """Radians [positions, head_dim / 2], float32."""
    frequencies = self.base ** (-jnp.arange(0, head_dim, 2) / head_dim)
    return positions[:, None] * frequencies[None]


def apply_rotary(x: jax.Array, angles: jax.Array | None) -> jax.Array:
  """x [batch, heads, positions, head_dim] rotated by `Rotary.angles`; unchanged for None."""
  if angles is None:
    return x
  first_half, second_half = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = jnp.cos(angles)[None, None], jnp.sin(angles)[None, None]
  rotated = (first_half * cos - second_half * sin, first_half * sin + second_half * cos)
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def attend(query, keys, values, bias):
  """Softmax attention [b, n, t, h] of a query [b, n, t, h] over several blocks of keys and values.

  keys and values are lists of [b, n, s, h], bias of [x, n or 1, t, s].
  """
  scores = [
    add_bias(jnp.einsum("bnth,bnsh->bnts", query, k, preferred_element_type=jnp.float32), b)
    for k, b in zip(keys, bias)
  ]
  weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(query.dtype)
  ends = np.cumsum([k.shape[2] for k in keys])[:-1]
  parts = jnp.split(weights, ends, axis=-1)
  return sum(jnp.einsum("bnts,bnsh->bnth", w, v) for w, v in zip(parts, values))


def _by_blocks(query, key, value, bias, block: int):
  """In blocks of queries, each over the keys up to its end, which skips most masked scores.

  Plain XLA, for every backend.
  """
  length = query.shape[2]
  outs = []
  for start in range(0, length, block):
    end = min(start + block, length)
    block_bias = bias[:, :, start:end, :end]
    keys, values = key[:, :, :end], value[:, :, :end]
    outs.append(attend(query[:, :, start:end], [keys], [values], [block_bias]))
  return jnp.concatenate(outs, axis=2)


def _by_cudnn(query, key, value, bias, block: int):
  """NVIDIA's fused kernel, with the bias and its gradient; needs 16 bits and an even length."""
  batch, _, length, _ = query.shape
  if query.dtype == jnp.float32 or length % 2:
    raise ValueError(
      f"attention: cudnn needs bfloat16 and an even length, got {query.dtype} and {length}; "
      "--attention=blocks needs neither"
    )
  query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
  bias = jnp.broadcast_to(bias, (len(bias), query.shape[2], length, length)).astype(query.dtype)
  out = jax.nn.dot_product_attention(
    query, key, value, bias, scale=1.0, is_causal=True, implementation="cudnn"
  )
  return jnp.swapaxes(out, 1, 2)


def _by_splash(query, key, value, bias, block: int, interpret: bool = False):
  """The TPU's fused kernel, which takes no bias: for rotary positions.

  Lengths are padded to whole tiles after the end, to which no query attends.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask

  if bias.shape[1] != 1:
    raise ValueError(
      "attention: splash takes no relative bias; use rotary positions or --attention=blocks"
    )
  _, heads, length, _ = query.shape
  tile = min(_TILE, -(-length // _LANES) * _LANES)
  padded = -(-length // tile) * tile
  query, key, value = (
    jnp.pad(x, ((0, 0), (0, 0), (0, padded - length), (0, 0))) for x in (query, key, value)
  )
  tiles = kernel.BlockSizes(
    **dict.fromkeys(
      ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv")
      + ("block_kv_dkv_compute", "block_q_dq", "block_kv_dq"),
      tile,
    )
  )
  masks = mask.MultiHeadMask([mask.CausalMask((padded, padded))] * heads)
  attention = kernel.make_splash_mha_single_device(masks, block_sizes=tiles, interpret=interpret)
  return jax.vmap(attention)(query, key, value)[:, :, :length]


_KINDS = {"blocks": _by_blocks, "cudnn": _by_cudnn, "splash": _by_splash}


def causal_attention(kind: str, query, key, value, bias, block: int):
  """Causal attention [b, n, t, h] of query, key and value [b, n, t, h].

  bias [x, n or 1, t, s] float32 includes the causal mask. `kind` is "blocks" (of `block` queries),
  "cudnn" or "splash". Raises ValueError for another kind, or for input that the kind cannot take.
  """
  if kind not in _KINDS:
    raise ValueError(f"attention: wanted one of {', '.join(_KINDS)}, got {kind!r}")
  attention = functools.partial(_KINDS[kind], block=block)
  if kind == "blocks":
    return attention(query, key, value, bias)
  heads = ("batch", "heads")
  bias_axes = heads if bias.shape[1] > 1 else ()
  return per_shard(attention, heads, heads, heads, bias_axes, output=heads)(query, key, value, bias)
