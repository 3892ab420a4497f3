"""MuLan: one space for music and the words about it (Huang et al. 2022, arXiv 2208.12415).

An audio tower and a text tower learn, from pairs alone, to put a clip near its own text.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from musiclm_jax import audio
from musiclm_jax.partitioning import constrain
from musiclm_jax.transformer import Transformer, norm, normal

_NEVER = -1e9


@dataclasses.dataclass(frozen=True)
class LogMel:
  """What a log-mel spectrogram is made with: Hz for rate and range, samples for the rest."""

  sample_rate: int
  window: int
  hop: int
  num_mels: int
  fmin: float
  fmax: float

  def __call__(self, waveform: jax.Array) -> jax.Array:
    """[batch, samples] to [batch, frames, num_mels] float32: -1 in silence, 1 at magnitude 1.

    Raises ValueError where the samples do not fill one window.
    """
    if waveform.shape[-1] < self.window:
      raise ValueError(f"wanted {self.window} samples or more, found {waveform.shape[-1]}")
    spectrogram = audio.log_mel(waveform, **dataclasses.asdict(self))
    return 1 - 2 * spectrogram / math.log(audio.LOG_FLOOR)


@dataclasses.dataclass(frozen=True)
class SpecAugment:
  """Bands of time and mel that are blanked in training (Park et al. 2019, arXiv 1904.08779)."""

  time_masks: int
  time_width: int
  mel_masks: int
  mel_width: int

  def __call__(self, rng: jax.Array, x: jax.Array) -> jax.Array:
    """x [batch, frames, mels] with the mean of each clip in bands of random width and place."""
    keep = jnp.ones(x.shape, bool)
    plan = ((1, self.time_masks, self.time_width), (2, self.mel_masks, self.mel_width))
    for axis, count, width in plan:
      size = x.shape[axis]
      for _ in range(count):
        rng, width_rng, start_rng = jax.random.split(rng, 3)
        widths = jax.random.randint(width_rng, (x.shape[0], 1), 0, width + 1)
        starts = jax.random.randint(start_rng, (x.shape[0], 1), 0, size)
        offset = jnp.arange(size)[None, :] - starts
        inside = (offset >= 0) & (offset < widths)
        keep &= ~jnp.expand_dims(inside, 3 - axis)
    return jnp.where(keep, x, x.mean(axis=(1, 2), keepdims=True))


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
  """A residual network over the spectrogram as a picture, averaged over time and mel.

  [batch, frames, mels] to [batch, width * 2^(stages - 1) * expansion]; stage_sizes (3, 4, 6, 3),
  width 64 and expansion 4 are ResNet-50. Norms are over channels, before each convolution: batch
  norms would let a clip see its batch, which a contrastive loss exploits. The first stage strides
  in its first block instead of a max-pool, whose gradient is a scatter.
  """

  stage_sizes: tuple[int, ...]
  width: int
  expansion: int
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
  """A Transformer over patches of the spectrogram (AST, arXiv 2104.01778), averaged.

  [batch, frames, mels] to [batch, embed]. Places in time are relative, so that any length works;
  places in mel are learned. Frames that fill no patch are dropped. Raises ValueError where that is
  all of them, or where mels do not divide into patches.
  """

  patch_frames: int
  patch_mels: int
  encoder: Transformer

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    batch, frames, mels = x.shape
    columns, rows = frames // self.patch_frames, mels // self.patch_mels
    if not columns or mels % self.patch_mels:
      patch = f"{self.patch_frames} frames x {self.patch_mels} mels"
      raise ValueError(f"wanted whole patches of {patch}, found {frames} frames x {mels} mels")
    x = x[:, : columns * self.patch_frames]
    x = x.reshape(batch, columns, self.patch_frames, rows, self.patch_mels)
    x = x.swapaxes(2, 3).reshape(batch, columns, rows, -1).astype(self.encoder.dtype)
    init = nn.with_logical_partitioning(normal(fan_in_axes=1), (None, "embed"))
    project = self.param("project", init, (x.shape[-1], self.encoder.embed_dim))
    x = jnp.einsum("bcrp,pd->bcrd", x, project.astype(x.dtype))
    place = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("position", "embed"))
    x = x + self.param("place", place, x.shape[2:]).astype(x.dtype)[None, None]
    x, _ = self.encoder(x.reshape(batch, columns * rows, -1), train=train)
    return x.mean(axis=1)


class TextTower(nn.Module):
  """Token ids [batch, text_length] int32, 0 for padding, to [batch, embed].

  A learned vector stands in front, as BERT's [CLS], and its place in the output is the embedding of
  the text: even an empty text has one. What padding holds changes nothing.
  """

  vocab_size: int
  encoder: Transformer

  @nn.compact
  def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
    dim, dtype = self.encoder.embed_dim, self.encoder.dtype
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
    table = self.param("table", init, (self.vocab_size, dim)).astype(dtype)
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",))
    first = self.param("first", init, (dim,)).astype(dtype)
    batch = tokens.shape[0]
    x = jnp.concatenate([jnp.broadcast_to(first[None, None], (batch, 1, dim)), table[tokens]], 1)
    mask = jnp.concatenate([jnp.ones((batch, 1), bool), tokens > 0], axis=1)
    return self.encoder(x, mask=mask, train=train)[0][:, 0]


def decoupled_loss(similarity: jax.Array, same: jax.Array, temperature: jax.Array):
  """Loss [batch] of each pair and where it counts (bool), the pair itself not in the denominator.

  similarity [audio, text] are cosines; `same` [batch, batch] is true where two texts are equal:
  such a text is no negative. Each pair meets the other texts of its audio and the other audio of
  its text (MuLan Section 3.1). A pair that has no negative does not count.
  """
  scores = similarity / temperature
  negatives = jnp.where(same[None], _NEVER, jnp.stack([scores, scores.T]))
  loss = jax.nn.logsumexp(negatives, axis=(0, 2)) - jnp.diagonal(scores)
  return loss, ~same.all(axis=1)


class MuLan(nn.Module):
  """Meets the model contract with batches {"waveform": [batch, samples], "text": [batch, length]}.

  The waveform is float32 at log_mel.sample_rate, the text int32 ids with 0 for padding. The learned
  temperature stays between `min_temperature` and 1: the decoupled loss has no lower bound, so that
  without one a model that fits its data could run off to 0.
  """

  log_mel: LogMel
  augment: SpecAugment
  audio_tower: nn.Module
  text_tower: TextTower
  embed_dim: int
  initial_temperature: float
  min_temperature: float

  def setup(self):
    def dense():
      init = nn.with_logical_partitioning(normal(fan_in_axes=1), ("embed", None))
      return nn.Dense(self.embed_dim, use_bias=False, kernel_init=init)

    self.audio_head, self.text_head = dense(), dense()
    share = (self.initial_temperature - self.min_temperature) / (1 - self.min_temperature)
    start = nn.with_logical_partitioning(
      nn.initializers.constant(math.log(share / (1 - share))), ()
    )
    self.temperature_logit = self.param("temperature_logit", start, ())

  def temperature(self) -> jax.Array:
    """The learned temperature, a float32 scalar in (0, 1]."""
    return self.min_temperature + (1 - self.min_temperature) * nn.sigmoid(self.temperature_logit)

  def _audio(self, waveform, train: bool):
    x = self.log_mel(waveform)
    if train:
      x = self.augment(self.make_rng("dropout"), x)
    return _unit(self.audio_head(self.audio_tower(x, train=train)))

  def _text(self, tokens, train: bool):
    return _unit(self.text_head(self.text_tower(tokens, train=train)))

  def __call__(self, batch, *, train: bool):
    """(loss, metrics); every other clip and text of the global batch is a negative."""
    tokens = jnp.asarray(batch["text"])
    sound, text = self._audio(batch["waveform"], train), self._text(tokens, train)
    similarity = constrain(sound @ text.T, "batch", None)
    same = (tokens[:, None, :] == tokens[None, :, :]).all(axis=-1)
    temperature = self.temperature()
    losses, counted = decoupled_loss(similarity, same, temperature)
    rows = jnp.arange(len(tokens))
    weight = counted.sum().astype(jnp.float32)
    loss = jnp.where(counted, losses, 0).sum() / jnp.maximum(weight, 1)
    negatives = jnp.maximum((~same).sum(axis=1), 1).astype(jnp.float32)

    def share(found):
      return jnp.where(counted, same[rows, found], False).sum().astype(jnp.float32), weight

    return loss, {
      "loss": (loss * weight, weight),
      "chance": (jnp.where(counted, jnp.log(2 * negatives), 0).sum(), weight),
      "audio_to_text_recall": share(similarity.argmax(axis=1)),
      "text_to_audio_recall": share(similarity.argmax(axis=0)),
      "temperature": (temperature * weight, weight),
    }

  def embed_audio(self, waveform: jax.Array) -> jax.Array:
    """Embeddings [batch, embed_dim] float32 of length 1 of waveforms [batch, samples]."""
    return self._audio(waveform, False)

  def embed_text(self, tokens: jax.Array) -> jax.Array:
    """Embeddings [batch, embed_dim] float32 of length 1 of token ids [batch, length]; 0 pads."""
    return self._text(tokens, False)


def convolution(name: str, features: int, kernel_size: int, stride: int, dtype: str) -> nn.Conv:
  """A square convolution of pictures [batch, frames, mels, channels] that keeps size / stride."""
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


def _unit(x):
  """x [..., dim] at length 1, float32."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)
