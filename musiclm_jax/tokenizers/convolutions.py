"""The convolutional encoder and decoder of SoundStream (2107.03312, III-A and III-B, Fig. 3).

A convolution of kernel 2S and stride S is one of kernel 2 over folded frames, and its transpose is
one of kernel 2 that is unfolded: the same function, written so that narrow layers at a high rate
become wide matrix products. ELU, no normalisation; in the encoder and the decoder nothing looks
ahead.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from musiclm_jax.layers import norm
from musiclm_jax.partitioning import constrain
from musiclm_jax.ranges import PositiveInt


def fold(x, factor: int):
  """[batch, frames, channels] to [batch, frames / factor, factor * channels].

  >>> fold([[[0], [1], [2], [3]]], 2)
  [[[0, 1], [2, 3]]]
  """
  batch, frames, channels = x.shape
  return x.reshape(batch, frames // factor, factor * channels)


def unfold(x, factor: int):
  """[batch, frames, channels] to [batch, frames * factor, channels / factor], undoing fold."""
  batch, frames, channels = x.shape
  return x.reshape(batch, frames * factor, channels // factor)


class Convolution(nn.Module):
  """A convolution [batch, frames, channels] to [batch, frames, features].

  Where `causal` it sees the past only, else as much of the past as of the future. `init_scale` is
  the size of the output at the start, for an input of size 1. Where the collection "stream" is
  mutable, frames continue those of the call before, which it holds; else silence. Raises ValueError
  for a stream that is not causal.
  """

  features: int
  kernel: int
  dilation: int
  dtype: str
  init_scale: float = 1.0
  causal: bool = True

  @nn.compact
  def __call__(self, x):
    shape = (self.kernel, x.shape[-1], self.features)
    init = nn.with_logical_partitioning(
      nn.initializers.variance_scaling(self.init_scale**2, "fan_in", "truncated_normal"),
      ("kernel", "channels_in", "channels_out"),
    )
    bias_init = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("channels_out",))
    kernel, bias = self.param("kernel", init, shape), self.param("bias", bias_init, shape[-1:])
    x, missing = x.astype(self.dtype), (self.kernel - 1) * self.dilation
    future = 0 if self.causal else missing // 2
    if self.is_mutable_collection("stream") and not self.is_initializing():
      if not self.causal:
        raise ValueError("a stream wants a causal model; this one sees the future")
      past = self.variable("stream", "past", jnp.zeros, (len(x), missing, x.shape[2]), x.dtype)
      x, missing = jnp.concatenate([past.value, x], axis=1), 0
      past.value = x[:, x.shape[1] - past.value.shape[1] :]
    x = lax.conv_general_dilated(
      x,
      kernel.astype(self.dtype),
      window_strides=(1,),
      padding=[(missing - future, future)],
      rhs_dilation=(self.dilation,),
      dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return x + bias.astype(self.dtype)[None, None, :]


class ResidualUnit(nn.Module):
  """x plus a dilated convolution and one of kernel 1; [batch, frames, channels] stays.

  It starts near the identity, so that a stack of them learns from the first step on.
  """

  kernel: int
  dilation: int
  dtype: str

  @nn.compact
  def __call__(self, x):
    h = Convolution(x.shape[-1], self.kernel, self.dilation, self.dtype, name="dilated")(nn.elu(x))
    last = Convolution(x.shape[-1], 1, 1, self.dtype, init_scale=0.1, name="pointwise")
    return x + last(nn.elu(h))


class FrameUnit(nn.Module):
  """x plus a dilated convolution and one of kernel 1 of its norm; [batch, frames, channels] stays.

  `ResidualUnit` with a norm before, which lets wide stacks learn faster.
  """

  kernel: int
  dilation: int
  dtype: str
  causal: bool

  @nn.compact
  def __call__(self, x):
    dilated = Convolution(
      x.shape[-1], self.kernel, self.dilation, self.dtype, causal=self.causal, name="dilated"
    )
    last = Convolution(x.shape[-1], 1, 1, self.dtype, init_scale=0.1, name="pointwise")
    return x + last(nn.gelu(dilated(norm("norm", self.dtype)(x))))


class FrameStack(nn.Module):
  """Residual units at one rate: [batch, frames, any] to [batch, frames, channels].

  A projection, then `repeats` times one residual unit of `kernel` for each of `dilations`. All of
  its compute is wide matrix products, which CPUs and accelerators do best.
  """

  channels: PositiveInt
  kernel: PositiveInt
  dilations: tuple[PositiveInt, ...]
  repeats: PositiveInt
  causal: bool
  dtype: str

  @nn.compact
  def __call__(self, x):
    x = constrain(x, "batch", "length", None)
    x = Convolution(self.channels, 1, 1, self.dtype, name="first")(x)
    for repeat in range(self.repeats):
      for unit, dilation in enumerate(self.dilations):
        name = f"unit_{repeat}_{unit}"
        x = FrameUnit(self.kernel, dilation, self.dtype, self.causal, name=name)(x)
    return norm("norm", self.dtype)(x)


class Encoder(nn.Module):
  """Waveform [batch, samples] to embeddings [batch, samples / hop, dim], hop = patch *
  prod(strides).

  `patch` samples are folded into channels in front of the first convolution (1 in the paper);
  `channels` come out of it and double with each stride; each block has one residual unit of
  `kernel` for each of `dilations`.
  """

  channels: PositiveInt
  strides: tuple[PositiveInt, ...]
  dim: PositiveInt
  kernel: PositiveInt
  dilations: tuple[PositiveInt, ...]
  patch: PositiveInt
  dtype: str

  @property
  def hop(self) -> int:
    """Samples in a frame."""
    return self.patch * math.prod(self.strides)

  @nn.compact
  def __call__(self, waveform):
    x = fold(constrain(waveform, "batch", "length")[..., None], self.patch)
    x = Convolution(self.channels, 7, 1, self.dtype, name="first")(x)
    for block, stride in enumerate(self.strides):
      for unit, dilation in enumerate(self.dilations):
        x = ResidualUnit(self.kernel, dilation, self.dtype, name=f"unit_{block}_{unit}")(x)
      features = self.channels * 2 ** (block + 1)
      x = Convolution(features, 2, 1, self.dtype, name=f"down_{block}")(fold(nn.elu(x), stride))
    return Convolution(self.dim, 3, 1, self.dtype, name="last")(nn.elu(x)).astype("float32")


class Decoder(nn.Module):
  """Embeddings [batch, frames, dim] to a waveform [batch, frames * hop] float32; mirrors Encoder.

  `strides` are in the encoder's order; `channels` enter the last convolution.
  """

  channels: PositiveInt
  strides: tuple[PositiveInt, ...]
  kernel: PositiveInt
  dilations: tuple[PositiveInt, ...]
  patch: PositiveInt
  dtype: str

  @property
  def hop(self) -> int:
    """Samples in a frame."""
    return self.patch * math.prod(self.strides)

  @nn.compact
  def __call__(self, x):
    width = self.channels * 2 ** len(self.strides)
    x = Convolution(width, 7, 1, self.dtype, name="first")(constrain(x, "batch", "length", None))
    for block, stride in enumerate(reversed(self.strides)):
      width //= 2
      x = Convolution(width * stride, 2, 1, self.dtype, name=f"up_{block}")(nn.elu(x))
      x = unfold(x, stride)
      for unit, dilation in enumerate(self.dilations):
        x = ResidualUnit(self.kernel, dilation, self.dtype, name=f"unit_{block}_{unit}")(x)
    # Quiet at first: unlearning noise that is louder than the music takes longer than learning it.
    last = Convolution(self.patch, 7, 1, self.dtype, init_scale=0.05, name="last")
    x = last(nn.elu(x))
    return unfold(x, self.patch)[..., 0].astype("float32")
