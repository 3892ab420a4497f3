"""The towers of MuLan and of the melody encoder: one vector for a spectrogram or a text.

ResNet-50 (He et al. 2016, arXiv 1512.03385) and AST (Gong et al. 2021, arXiv 2104.01778) for sound,
BERT (Devlin et al. 2018, arXiv 1810.04805) for text.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.encoder import Affine, Encoder
from musiclm_jax.layers import norm, normal
from musiclm_jax.ranges import NonNegativeInt, PositiveInt

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
