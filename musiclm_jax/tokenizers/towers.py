"""The towers of MuLan and of the melody encoder: one vector for a spectrogram or a text.

ResNet-50 (He et al. 2016, arXiv 1512.03385) and AST (Gong et al. 2021, arXiv 2104.01778) for sound,
BERT (Devlin et al. 2018, arXiv 1810.04805) for text. StatisticsTower is ours, for CPUs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax import spectrograms
from musiclm_jax.encoder import Affine, Encoder, layer_norm
from musiclm_jax.layers import Dropout, norm, normal, standardised
from musiclm_jax.ranges import Fraction, NonNegativeInt, PositiveFloat, PositiveInt

_SMALL = nn.initializers.normal(0.02)  # BERT's and ViT's, of tables and position embeddings


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions, or 1x1, 3x3, 1x1 where `expansion` > 1, around a shortcut."""

  features: int
  expansion: int
  stride: int
  dtype: str

  @nn.compact
  def __call__(self, x):
    outputs = self.features * self.expansion
    plan = [(self.features, 3, self.stride), (outputs, 3, 1)]
    if self.expansion > 1:
      plan = [(self.features, 1, 1), (self.features, 3, self.stride), (outputs, 1, 1)]
    y = x
    for index, (features, kernel_size, stride) in enumerate(plan):
      y = nn.relu(norm(f"norm_{index}", self.dtype)(y))
      y = convolution(f"convolution_{index}", features, kernel_size, stride, self.dtype)(y)
    if x.shape != y.shape:
      x = convolution("shortcut", outputs, 1, self.stride, self.dtype)(x)
    return x + y


class ResNet(nn.Module):
  """A residual network over the spectrogram as an image, averaged over time and mel.

  [batch, frames, mels] to [batch, width * 2^(stages - 1) * expansion]; stage_sizes (3, 4, 6, 3),
  width 64 and expansion 4 are ResNet-50. Norms are over channels, before each convolution: batch
  norms would leak the batch into a clip, which a contrastive loss exploits. The first stage strides
  in its first block instead of a max-pool, whose gradient is a scatter.
  """

  stage_sizes: tuple[PositiveInt, ...]
  width: PositiveInt
  expansion: PositiveInt
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    x = convolution("stem", self.width, 7, 2, self.dtype)(x[..., None].astype(self.dtype))
    for stage, size in enumerate(self.stage_sizes):
      for block in range(size):
        x = ResidualBlock(
          features=self.width * 2**stage,
          expansion=self.expansion,
          stride=2 if block == 0 else 1,
          dtype=self.dtype,
          name=f"stage_{stage}_block_{block}",
        )(x)
    return norm("final_norm", self.dtype)(x).mean(axis=(1, 2))


class SpectrogramTransformer(nn.Module):
  """AST and, in one channel, ViT: a Transformer over patches of a spectrogram as an image.

  [batch, frames, mels] to [batch, embed]. There is a patch of `patch` (frames, mels) every
  `stride` (frames, mels); frames and mels that fill no patch are dropped. Position embeddings are
  learned, up to `num_frames`: a shorter spectrogram is padded with 0. `num_class_tokens` learned
  vectors come first, and the mean of their outputs is the result (ViT has 1, AST 2); without any it
  is that of the patches. Raises ValueError where there are more frames than num_frames, or the mels
  do not fill a patch.
  """

  num_frames: PositiveInt
  patch: tuple[PositiveInt, PositiveInt]
  stride: tuple[PositiveInt, PositiveInt]
  num_class_tokens: NonNegativeInt
  encoder: Encoder

  def _patches(self, x):
    """Patches [batch, columns * rows, frames * mels] of x [batch, num_frames, mels]."""
    for axis, size, stride in zip((1, 3), self.patch, self.stride):
      starts = np.arange(0, x.shape[axis] - size + 1, stride)
      x = jnp.take(x, starts[:, None] + np.arange(size), axis=axis)
    x = x.swapaxes(2, 3)  # [batch, columns, rows, frames, mels]
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], -1)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    batch, frames, mels = x.shape
    if frames > self.num_frames or mels < self.patch[1]:
      raise ValueError(
        f"wanted at most {self.num_frames} frames of {self.patch[1]} mels or more, found {frames}"
        f" frames of {mels}"
      )
    dim, dtype = self.encoder.embed_dim, self.encoder.dtype
    x = self._patches(jnp.pad(x, ((0, 0), (0, self.num_frames - frames), (0, 0))).astype(dtype))
    x = Affine((dim,), (None, "embed"), dtype, name="project")(x)
    count = self.num_class_tokens

    def learned(name, length):
      init = nn.with_logical_partitioning(_SMALL, ("position", "embed"))
      return self.param(name, init, (length, dim)).astype(dtype)[None]

    if count:
      first = jnp.broadcast_to(learned("class_tokens", count), (batch, count, dim))
      x = jnp.concatenate([first, x], axis=1)
    x = self.encoder(x + learned("position_embedding", x.shape[1]), train=train)
    return x[:, : count or None].mean(axis=1)


def modulations(x: jax.Array, num_bands: int, num_frames: int) -> jax.Array:
  """Log spectra over time of what rises in a log spectrogram [batch, frames, bins].

  [batch, num_bands, num_frames // 2 + 1] float32: magnitude k of a band of neighbouring bins has k
  cycles in `num_frames` frames. Beats and notes are peaks in it wherever the clip begins. A shorter
  spectrogram is followed by zeros. Raises ValueError where there are more frames, or the bins do
  not divide into the bands.
  """
  batch, frames, bins = x.shape
  if frames > num_frames or bins % num_bands:
    raise ValueError(
      f"wanted at most {num_frames} frames of a multiple of {num_bands} bins, found {frames} frames"
      f" of {bins}"
    )
  rises = jnp.maximum(jnp.diff(x, axis=1), 0).reshape(batch, frames - 1, num_bands, -1).mean(-1)
  rises = (rises - rises.mean(axis=1, keepdims=True)) * np.hanning(frames + 1)[1:-1, None][None]
  rises = jnp.pad(rises, ((0, 0), (0, num_frames - frames + 1), (0, 0))).astype(jnp.float32)
  return jnp.log(jnp.abs(spectrograms.fourier_product(rises.swapaxes(1, 2))) + 0.01)


def pitch_classes(x: jax.Array, bins_per_octave: int) -> jax.Array:
  """Shares [batch, bins_per_octave] of the magnitude in a log spectrogram [batch, frames, bins] of
  bands by pitch, summed over time and octaves.
  """
  share = jax.nn.softmax(jax.nn.logsumexp(x, axis=1), axis=-1)
  octaves = -(-x.shape[2] // bins_per_octave)
  share = jnp.pad(share, ((0, 0), (0, octaves * bins_per_octave - x.shape[2])))
  return share.reshape(len(x), octaves, bins_per_octave).sum(axis=1)


def bispectrum(shares: jax.Array) -> jax.Array:
  """[batch, 48] of shares [batch, bins] of pitch classes, the same for all transpositions.

  They are the magnitudes of the first 6 coefficients F of the Fourier transform over the octave,
  and the bispectrum F(a) F(b) F*(a + b), 1 <= a <= b <= 6, real and imaginary parts, of which the
  magnitudes are cube roots. Major and minor are each other's mirror image: of equal magnitudes, and
  of opposite imaginary parts.
  """
  a, b = np.triu_indices(6)
  a, b = a + 1, b + 1
  spectrum = jnp.fft.fft(shares)
  product = spectrum[:, a] * spectrum[:, b] * spectrum[:, (a + b) % shares.shape[1]].conj()
  product *= jnp.maximum(jnp.abs(product), 1e-9) ** (-2 / 3)
  return jnp.concatenate([jnp.abs(spectrum[:, 1:7]), product.real, product.imag], axis=-1)


def harmonics(x: jax.Array, below: int, above: int) -> jax.Array:
  """The mean spectrum [batch, below + above] around the strongest bin of each frame.

  x is a log spectrogram [batch, frames, bins] of bands by pitch, where the overtones of any note
  lie at the same distances from it. Values are relative to the strongest bin, which is the one at
  index `below`; where a distance is beyond the bins in all frames, the value is 0.
  """
  strongest = x.argmax(axis=2)[..., None]
  places = strongest + jnp.arange(-below, above)[None, None]
  there = (places >= 0) & (places < x.shape[2])
  around = jnp.take_along_axis(x, jnp.clip(places, 0, x.shape[2] - 1), axis=2)
  around = jnp.where(there, around - jnp.take_along_axis(x, strongest, axis=2), 0)
  return around.sum(axis=1) / jnp.maximum(there.sum(axis=1), 1)


class StatisticsTower(nn.Module):
  """Statistics over time of a log spectrogram of bands by pitch, then a residual MLP.

  [batch, frames, bins] to [batch, embed_dim]. They are the mean and the deviation of each bin
  (register), its `harmonics` up to `above` bins (timbre), the shares of the pitch classes (key),
  the `bispectrum` of these (mode), and `num_modulations` magnitudes from `first_modulation` on of
  the `modulations` of `num_bands` bands (tempo). Every number is brought to mean 0 and variance 1:
  over the batch in training, by moving averages of `decay` (collection "batch_stats") otherwise.
  Then all groups are scaled to the same sum of variances, or the 48 numbers of the mode would count
  for little beside 576 of the tempo; those of key and mode, which a contrastive loss learns last,
  are `key_weight` times as large. Raises ValueError as `modulations` does.
  """

  num_frames: PositiveInt
  bins_per_octave: PositiveInt
  below: NonNegativeInt
  above: PositiveInt
  num_bands: PositiveInt
  first_modulation: NonNegativeInt
  num_modulations: PositiveInt
  num_layers: PositiveInt
  embed_dim: PositiveInt
  mlp_dim: PositiveInt
  dropout_rate: Fraction
  decay: Fraction
  key_weight: PositiveFloat
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    x = x.astype(jnp.float32)
    chosen = slice(self.first_modulation, self.first_modulation + self.num_modulations)
    spectra = modulations(x, self.num_bands, self.num_frames)[:, :, chosen]
    shares = pitch_classes(x, self.bins_per_octave)
    groups = (
      x.mean(axis=1),
      x.std(axis=1),
      harmonics(x, self.below, self.above),
      shares,
      bispectrum(shares),
      spectra.reshape(len(x), -1),
    )
    y = standardised("standardise", jnp.concatenate(groups, axis=-1), train, self.decay)
    sizes = np.array([group.shape[-1] for group in groups])
    weights = np.array([1, 1, 1, self.key_weight, self.key_weight, 1])
    scales = np.repeat(weights * np.sqrt(sizes.mean() / sizes), sizes).astype(np.float32)
    dropout = Dropout(self.dropout_rate, deterministic=not train)
    y = dropout((y * scales[None]).astype(self.dtype))
    y = Affine((self.embed_dim,), (None, "embed"), self.dtype, name="project")(y)
    for layer in range(self.num_layers):
      z = layer_norm(f"norm_{layer}", self.dtype, 1e-6)(y)
      z = nn.gelu(Affine((self.mlp_dim,), ("embed", "mlp"), self.dtype, name=f"wi_{layer}")(z))
      y = y + dropout(
        Affine((self.embed_dim,), ("mlp", "embed"), self.dtype, name=f"wo_{layer}")(z)
      )
    return layer_norm("final_norm", self.dtype, 1e-6)(y)


class TextTower(nn.Module):
  """BERT: token ids [batch, length] int32, 0 for padding, to [batch, embed].

  The output at the first token is the embedding of the text; it is never padding, so that even an
  empty text has one. The content of padding changes nothing. Raises ValueError where there are
  more than `max_length` tokens.
  """

  vocab_size: PositiveInt
  max_length: PositiveInt
  encoder: Encoder

  @nn.compact
  def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
    length = tokens.shape[1]
    if length > self.max_length:
      raise ValueError(f"wanted at most {self.max_length} tokens of text, found {length}")

    def learned(name, size, axis):
      init = nn.with_logical_partitioning(_SMALL, (axis, "embed"))
      shape = (size, self.encoder.embed_dim)
      return self.param(name, init, shape).astype(self.encoder.dtype)

    table = learned("table", self.vocab_size, "vocab")
    position_embedding = learned("position_embedding", self.max_length, "position")[:length]
    mask = (tokens > 0) | (jnp.arange(length) == 0)[None]
    return self.encoder(table[tokens] + position_embedding[None], mask=mask, train=train)[:, 0]


def convolution(name: str, features: int, kernel_size: int, stride: int, dtype: str) -> nn.Conv:
  """A square convolution of images [batch, frames, mels, channels] that keeps size / stride."""
  axes = ("kernel", "kernel", "channels_in", "channels_out")
  return nn.Conv(
    features,
    (kernel_size, kernel_size),
    strides=(stride, stride),
    use_bias=False,
    dtype=dtype,
    kernel_init=nn.with_logical_partitioning(normal(fan_in_axes=3), axes),
    name=name,
  )
