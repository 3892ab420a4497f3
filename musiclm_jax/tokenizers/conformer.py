"""The Conformer: feed-forward, attention and convolution in one block.

Gulati et al. 2020 (arXiv 2005.08100), the encoder of w2v-BERT. As there, but with a layer norm in
place of the batch norm, as in Wav2Vec2-BERT (no state, no dependence on the other clips of a
batch), and T5's relative bias instead of Transformer-XL's.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from musiclm_jax.attention import RelativeBias
from musiclm_jax.encoder import Affine, SelfAttention, layer_norm
from musiclm_jax.layers import Dropout, normal, stack
from musiclm_jax.partitioning import constrain
from musiclm_jax.ranges import Fraction, PositiveInt


def depthwise_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Each channel of x [batch, length, channels] correlated with its own kernel [width, channels].

  The same shape comes out; ends are padded with zeros, and output t meets kernel[width // 2] at
  input t. A sum of shifts: a grouped convolution and its gradient are far slower on CPUs, and as
  fast elsewhere for the short kernels of this model.
  """
  width, length = kernel.shape[0], x.shape[1]
  padded = jnp.pad(x, ((0, 0), (width // 2, width - 1 - width // 2), (0, 0)))
  return sum(padded[:, i : i + length] * kernel[i].reshape(1, 1, -1) for i in range(width))


class ConformerLayer(nn.Module):
  """Half a feed-forward, self-attention, convolution, half a feed-forward, a final norm.

  x [batch, length, embed] and an additive bias [1, heads, length, length] to (x, None).
  """

  num_heads: int
  head_dim: int
  mlp_dim: int
  kernel_size: int
  dropout_rate: float
  dtype: str

  def _norm(self, name: str) -> nn.LayerNorm:
    return layer_norm(f"{name}_norm", self.dtype, epsilon=1e-5)

  def _feed_forward(self, name: str, x, dropout):
    y = Affine((self.mlp_dim,), ("embed", "mlp"), self.dtype, name=f"{name}_wi")(
      self._norm(name)(x)
    )
    y = constrain(dropout(nn.swish(y)), "batch", "length", "mlp_act")
    return dropout(Affine((x.shape[-1],), ("mlp", "embed"), self.dtype, name=f"{name}_wo")(y))

  def _convolution(self, x, dropout):
    embed_dim = x.shape[-1]

    def param(name, shape, axes):
      init = nn.with_logical_partitioning(normal(fan_in_axes=1), axes)
      return self.param(name, init, shape).astype(self.dtype)

    gated = param("gated", (embed_dim, 2, embed_dim), ("embed", None, "mlp"))
    up, gate = jnp.moveaxis(jnp.einsum("btd,dcf->btcf", self._norm("convolution")(x), gated), 2, 0)
    kernel = param("depthwise", (self.kernel_size, embed_dim), ("kernel", "mlp"))
    y = depthwise_convolution(up * nn.sigmoid(gate), kernel)
    y = nn.swish(self._norm("depthwise")(y))
    return dropout(y @ param("pointwise", (embed_dim, embed_dim), ("mlp", "embed")))

  @nn.compact
  def __call__(self, x, bias, train: bool):
    dropout = Dropout(self.dropout_rate, deterministic=not train)
    attention = SelfAttention(
      self.num_heads, self.head_dim, self.dropout_rate, self.dtype, name="attention"
    )
    x = x + 0.5 * self._feed_forward("first", x, dropout)
    x = x + dropout(attention(self._norm("attention")(x), bias, train))
    x = x + self._convolution(x, dropout)
    x = x + 0.5 * self._feed_forward("second", x, dropout)
    return constrain(self._norm("final")(x), "batch", "length", "embed_act"), None


class Conformer(nn.Module):
  """A stack of Conformer layers over [batch, length, embed]; every layer ends in a norm."""

  num_layers: PositiveInt
  num_heads: PositiveInt
  head_dim: PositiveInt
  mlp_dim: PositiveInt
  kernel_size: PositiveInt
  dropout_rate: Fraction
  num_buckets: PositiveInt
  max_distance: PositiveInt
  remat: str
  unroll: bool
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, *, depth: int, train: bool = False) -> jax.Array:
    """The output [batch, length, embed] of layer `depth`, of 1..num_layers; 0 gives x itself.

    Later layers than `depth` are not computed. Raises ValueError where there are fewer layers.
    """
    if not 0 <= depth <= self.num_layers:
      raise ValueError(f"wanted a layer of 0..{self.num_layers}, found {depth}")
    x = constrain(x.astype(self.dtype), "batch", "length", "embed_act")
    if depth == 0:
      return x
    positions = jnp.arange(x.shape[1])
    bias = RelativeBias(self.num_buckets, self.max_distance, causal=False, name="relative_bias")
    bias = bias(positions, positions, self.num_heads)
    in_axes = (nn.broadcast, nn.broadcast)
    stacked = stack(ConformerLayer, depth, in_axes=in_axes, remat=self.remat, unroll=self.unroll)
    if depth < self.num_layers:
      # The stacked parameters of the first layers alone.
      stacked = nn.map_variables(
        stacked, "params", trans_in_fn=lambda p: jax.tree.map(lambda leaf: leaf[:depth], p)
      )
    layers = stacked(
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      mlp_dim=self.mlp_dim,
      kernel_size=self.kernel_size,
      dropout_rate=self.dropout_rate,
      dtype=self.dtype,
      name="layers",
    )
    return layers(x, bias, train)[0]
