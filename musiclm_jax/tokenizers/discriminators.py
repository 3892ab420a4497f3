"""The discriminators of SoundStream (2107.03312, III-D and III-E): of waveforms, and of their STFT.

Each gives logits over time and its internal features. Kernels and widths that the paper leaves open
are those of MelGAN's (1910.06711), which it names as the origin.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from musiclm_jax import spectrograms
from musiclm_jax.partitioning import per_shard
from musiclm_jax.ranges import PositiveInt


class Conv(nn.Module):
  """A convolution over all but the first and last axis, padded to keep lengths / strides."""

  features: int
  kernel: tuple[int, ...]
  strides: tuple[int, ...]
  groups: int
  padding: str
  dtype: str

  @nn.compact
  def __call__(self, x):
    axes = ("kernel",) * len(self.kernel) + ("channels_in", "channels_out")
    init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), axes)
    bias_init = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("channels_out",))
    shape = (*self.kernel, x.shape[-1] // self.groups, self.features)
    kernel, bias = self.param("kernel", init, shape), self.param("bias", bias_init, shape[-1:])
    layout = ("NWC", "WIO", "NWC") if len(self.kernel) == 1 else ("NHWC", "HWIO", "NHWC")
    convolve = functools.partial(
      lax.conv_general_dilated,
      window_strides=self.strides,
      padding=self.padding,
      dimension_numbers=layout,
      feature_group_count=self.groups,
    )
    x = per_shard(convolve, ("batch",), (), output=("batch",))(
      x.astype(self.dtype), kernel.astype(self.dtype)
    )
    return x + bias.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class WaveDiscriminator(nn.Module):
  """Logits [batch, frames] of a waveform [batch, samples], and features, list of [batch, ?, ?].

  A plain convolution to `channels`, one grouped convolution for each of `strides` that multiplies
  the channels by its stride up to `max_channels`, in groups of `group_size` channels, and two plain
  ones.
  """

  channels: PositiveInt
  max_channels: PositiveInt
  group_size: PositiveInt
  strides: tuple[PositiveInt, ...]
  dtype: str

  @nn.compact
  def __call__(self, waveform):
    x, features, layers = waveform[..., None], [], [(self.channels, 15, 1, 1)]
    for stride in self.strides:
      width = layers[-1][0]
      groups = max(1, width // self.group_size)
      layers.append((min(width * stride, self.max_channels), 10 * stride + 1, stride, groups))
    layers.append((layers[-1][0], 5, 1, 1))
    for index, (width, kernel, stride, groups) in enumerate(layers):
      x = Conv(width, (kernel,), (stride,), groups, "SAME", self.dtype, name=f"conv_{index}")(x)
      x = nn.leaky_relu(x, 0.2)
      features.append(x)
    logits = Conv(1, (3,), (1,), 1, "SAME", self.dtype, name="logits")(x)
    return logits[..., 0].astype(jnp.float32), features


class StftDiscriminator(nn.Module):
  """Logits [batch, frames] of the complex spectrogram of [batch, samples], and features.

  A 7 x 7 convolution to `channels`, then one residual block for each of `multipliers` (of the
  channels), whose strides over (time, frequency) alternate (1, 2) and (2, 2).
  """

  window: PositiveInt
  hop: PositiveInt
  channels: PositiveInt
  multipliers: tuple[PositiveInt, ...]
  dtype: str

  @nn.compact
  def __call__(self, waveform):
    spectrum = spectrograms.stft(waveform, window=self.window, hop=self.hop)[
      ..., : self.window // 2
    ]
    x = jnp.stack([spectrum.real, spectrum.imag], axis=-1)
    x = Conv(self.channels, (7, 7), (1, 1), 1, "SAME", self.dtype, name="first")(x)
    features = [x]
    for block, multiplier in enumerate(self.multipliers):
      x = self._block(x, self.channels * multiplier, (1 + block % 2, 2), f"block_{block}")
      features.append(x)
    x = Conv(1, (1, x.shape[2]), (1, 1), 1, "VALID", self.dtype, name="logits")(nn.elu(x))
    return x[:, :, 0, 0].astype(jnp.float32), features

  def _block(self, x, width: int, strides: tuple[int, int], name: str):
    """A 3 x 3 and a strided convolution beside a skip: [b, t, f, c] to [b, t/s, f/s, width]."""
    kernel = (strides[0] + 2, strides[1] + 2)
    h = Conv(x.shape[-1], (3, 3), (1, 1), 1, "SAME", self.dtype, name=f"{name}_first")(nn.elu(x))
    h = Conv(width, kernel, strides, 1, "SAME", self.dtype, name=f"{name}_second")(nn.elu(h))
    return h + Conv(width, (1, 1), strides, 1, "SAME", self.dtype, name=f"{name}_skip")(x)


class Discriminators(nn.Module):
  """One STFT discriminator, and a wave discriminator for each of `scales` (averages of 1, 2, 4
  samples).

  A waveform [batch, samples] to a list of (logits [batch, frames], features), one per
  discriminator.
  """

  stft: StftDiscriminator
  wave: WaveDiscriminator
  scales: tuple[PositiveInt, ...]

  def setup(self):
    self.waves = [self.wave.clone(parent=None) for _ in self.scales]

  def __call__(self, waveform):
    batch, samples = waveform.shape
    outputs = [self.stft(waveform)]
    for scale, wave in zip(self.scales, self.waves):
      frames = waveform[:, : samples // scale * scale].reshape(batch, samples // scale, scale)
      outputs.append(wave(frames.mean(axis=-1)))
    return outputs


def opposed(discriminators: Discriminators, x, y, samples: int, rng=None):
  """The losses of an output, a function of [batch, samples] to {"adversarial", "features"}, and the
  discriminators' own loss on real x and made y [batch, samples].

  The first have no gradient to the discriminators, the last none to y. All are of the same
  `samples` of each waveform: the first ones, or with `rng` some at random.
  """
  length, start = min(samples, x.shape[1]), 0
  if rng is not None:
    start = jax.random.randint(rng, (), 0, x.shape[1] - length + 1)

  def cut(waveform):
    return lax.dynamic_slice_in_dim(waveform, start, length, axis=1)

  real, fake = (discriminators(cut(z)) for z in (x, lax.stop_gradient(y)))
  frozen, variables = discriminators.unbind()
  variables = jax.tree.map(lax.stop_gradient, variables)

  def losses(output):
    judged = frozen.apply(variables, cut(output))
    return {"adversarial": adversarial_loss(judged), "features": feature_loss(real, judged)}

  return losses, discriminator_loss(real, fake)


def discriminator_loss(real, fake):
  """Hinge loss that asks for logits above 1 of real and below -1 of fake waveforms, averaged over
  time and discriminators; both are the outputs of Discriminators (III-E, eq. 1).
  """
  return _mean(nn.relu(1 - r).mean() + nn.relu(1 + f).mean() for (r, _), (f, _) in zip(real, fake))


def adversarial_loss(fake):
  """What the generator minimises: the hinge of its logits below 1 (III-E, eq. 2)."""
  return _mean(nn.relu(1 - logits).mean() for logits, _ in fake)


def feature_loss(real, fake):
  """Mean absolute difference of the internal features, over layers and discriminators (III-E, eq.
  3).

  No gradient flows to the real waveform's features.
  """
  return _mean(
    jnp.abs(lax.stop_gradient(r).astype(jnp.float32) - f).mean()
    for (_, reals), (_, fakes) in zip(real, fake)
    for r, f in zip(reals, fakes)
  )


def _mean(values):
  values = list(values)
  return sum(values) / len(values)
