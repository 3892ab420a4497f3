"""The encoder of BERT and ViT: bidirectional attention, layer norms, biases.

Devlin et al. 2018 (arXiv 1810.04805) and Dosovitskiy et al. 2020 (arXiv 2010.11929): MuLan's text
and spectrogram towers and the melody encoder. Position embeddings are added by the caller.
einsum letters: b batch, t query, s key, d embed, n heads, h head_dim, f mlp.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from musiclm_jax.layers import MASKED, Dropout, add_bias, normal, stack
from musiclm_jax.partitioning import constrain
from musiclm_jax.ranges import Fraction, PositiveInt


def layer_norm(name: str, dtype: str, epsilon: float = 1e-12) -> nn.LayerNorm:
  """A norm with mean, scale and bias; statistics in float32."""
  ones = nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",))
  zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed",))
  return nn.LayerNorm(
    epsilon=epsilon,
    dtype=dtype,
    scale_init=ones,
    bias_init=zeros,
    use_fast_variance=False,  # is inexact where the mean is large
    name=name,
  )


class Affine(nn.Module):
  """x [..., inputs] to x @ kernel + bias [..., *outputs]; `axes` are the kernel's logical axes."""

  outputs: tuple[int, ...]
  axes: tuple[str | None, ...]
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    num_inputs = len(self.axes) - len(self.outputs)
    inputs = x.shape[-num_inputs:]
    init = nn.with_logical_partitioning(normal(fan_in_axes=num_inputs), self.axes)
    kernel = self.param("kernel", init, (*inputs, *self.outputs)).astype(self.dtype)
    init = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.axes[num_inputs:])
    bias = self.param("bias", init, self.outputs).astype(self.dtype)
    y = jnp.tensordot(x, kernel, num_inputs)
    return y + jnp.expand_dims(bias, range(y.ndim - bias.ndim))


class SelfAttention(nn.Module):
  """Softmax attention among the positions of x [batch, length, embed], to the same shape.

  `bias` [rows, heads or 1, queries or 1, keys] float32 is added to the scores by
  `add_bias`.
  """

  num_heads: int
  head_dim: int
  dropout_rate: float
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, bias: jax.Array | None, train: bool) -> jax.Array:
    heads, axes = (self.num_heads, self.head_dim), ("heads", "head_dim")
    qkv = Affine((3, *heads), ("embed", None, *axes), self.dtype, name="qkv")(x)
    query, key, value = jnp.moveaxis(qkv, 2, 0)
    query = query * self.head_dim**-0.5
    scores = jnp.einsum("btnh,bsnh->bnts", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
      scores = add_bias(scores, bias)
    weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
    weights = Dropout(self.dropout_rate, deterministic=not train)(weights)
    y = jnp.einsum("bnts,bsnh->btnh", weights, value)
    return Affine((x.shape[-1],), (*axes, "embed"), self.dtype, name="out")(y)


class EncoderLayer(nn.Module):
  """Self-attention, then a GELU feed-forward. Returns (x, None).

  Each has a norm before it inside the residual branch (`norm_first`, ViT) or after the sum (BERT).
  """

  num_heads: int
  head_dim: int
  mlp_dim: int
  dropout_rate: float
  norm_first: bool
  dtype: str

  @nn.compact
  def __call__(self, x, bias, train: bool):
    dropout = Dropout(self.dropout_rate, deterministic=not train)
    attention = SelfAttention(
      self.num_heads, self.head_dim, self.dropout_rate, self.dtype, name="attention"
    )

    def feed_forward(y):
      y = Affine((self.mlp_dim,), ("embed", "mlp"), self.dtype, name="wi")(y)
      y = constrain(nn.gelu(y, approximate=False), "batch", "length", "mlp_act")
      return Affine((x.shape[-1],), ("mlp", "embed"), self.dtype, name="wo")(y)

    blocks = (("attention_norm", lambda y: attention(y, bias, train)), ("mlp_norm", feed_forward))
    for name, block in blocks:
      norm = layer_norm(name, self.dtype)
      x = x + dropout(block(norm(x))) if self.norm_first else norm(x + dropout(block(x)))
      x = constrain(x, "batch", "length", "embed_act")
    return x, None


class Encoder(nn.Module):
  """A stack of layers over embeddings x [batch, length, embed], to the same shape.

  There is one more norm after the last layer (`norm_first`) or before the first. `mask` [batch,
  length] is true where a key may be attended to; values elsewhere, even NaN, do not change the
  result where it is true.
  """

  num_layers: PositiveInt
  num_heads: PositiveInt
  head_dim: PositiveInt
  embed_dim: PositiveInt
  mlp_dim: PositiveInt
  dropout_rate: Fraction
  norm_first: bool
  remat: str
  unroll: bool
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, *, mask: jax.Array | None = None, train: bool = False):
    x, bias = x.astype(self.dtype), None
    if mask is not None:
      x = jnp.where(mask[:, :, None], x, 0)  # a weight of 0 does not hide a NaN
      bias = jnp.where(mask, 0.0, MASKED)[:, None, None, :]
    norm = layer_norm("norm", self.dtype)
    x = x if self.norm_first else norm(x)
    x = Dropout(self.dropout_rate, deterministic=not train)(x)
    x = constrain(x, "batch", "length", "embed_act")
    in_axes = (nn.broadcast, nn.broadcast)
    layers = stack(
      EncoderLayer, self.num_layers, in_axes=in_axes, remat=self.remat, unroll=self.unroll
    )(
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      mlp_dim=self.mlp_dim,
      dropout_rate=self.dropout_rate,
      norm_first=self.norm_first,
      dtype=self.dtype,
      name="layers",
    )
    x, _ = layers(x, bias, train)
    return norm(x) if self.norm_first else x
