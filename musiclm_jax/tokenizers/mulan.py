"""MuLan: one space for music and the words about it (Huang et al. 2022, arXiv 2208.12415).

An audio tower and a text tower learn from pairs to embed a clip near its own text.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from musiclm_jax import spectrograms
from musiclm_jax.layers import MASKED, normal, unit
from musiclm_jax.partitioning import constrain
from musiclm_jax.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from musiclm_jax.tokenizers import inputs
from musiclm_jax.tokenizers.melody import LogPitch
from musiclm_jax.tokenizers.towers import TextTower


@dataclasses.dataclass(frozen=True)
class LogMel:
  """The settings of a log-mel spectrogram: rate and range in Hz, window and hop in samples."""

  sample_rate: PositiveInt
  window: PositiveInt
  hop: PositiveInt
  num_mels: PositiveInt
  fmin: NonNegativeFloat
  fmax: PositiveFloat

  def __call__(self, waveform: jax.Array) -> jax.Array:
    """[batch, samples] to [batch, frames, num_mels] float32: -1 in silence, 1 at magnitude 1.

    Raises ValueError where the samples do not fill one window.
    """
    if waveform.shape[-1] < self.window:
      raise ValueError(f"wanted {self.window} samples or more, found {waveform.shape[-1]}")
    spectrogram = spectrograms.log_mel(waveform, **dataclasses.asdict(self))
    return 1 - 2 * spectrogram / math.log(spectrograms.LOG_FLOOR)


@dataclasses.dataclass(frozen=True)
class SpecAugment:
  """Bands of time and mel that are masked in training (Park et al. 2019, arXiv 1904.08779)."""

  time_masks: NonNegativeInt
  time_width: NonNegativeInt
  mel_masks: NonNegativeInt
  mel_width: NonNegativeInt

  def __call__(self, rng: jax.Array, x: jax.Array) -> jax.Array:
    """x [batch, frames, mels] with random bands of each clip set to the clip's mean."""
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


def decoupled_loss(similarity: jax.Array, same: jax.Array, temperature: jax.Array):
  """Loss [batch] of each pair and where it counts (bool), the pair itself not in the denominator.

  similarity [audio, text] are cosines; `same` [batch, batch] is true where two texts are equal:
  such a text is no negative. The negatives of a pair are the other texts for its audio and the
  other audio for its text (MuLan Section 3.1). A pair without negatives does not count.
  """
  scores = similarity / temperature
  negatives = jnp.where(same[None], MASKED, jnp.stack([scores, scores.T]))
  loss = jax.nn.logsumexp(negatives, axis=(0, 2)) - jnp.diagonal(scores)
  return loss, ~same.all(axis=1)


class MuLan(nn.Module):
  """Meets the model contract with batches {"waveform": [batch, samples], "text": [batch, length]}.

  The waveform is float32 at log_mel.sample_rate, the text int32 ids with 0 for padding. `log_mel`
  is any log spectrogram: a LogPitch of melody.py tells semitones apart. The learned temperature
  stays between `min_temperature` and 1: the decoupled loss has no lower bound, so that it could
  fall to 0 in a model that fits its data.
  """

  log_mel: LogMel | LogPitch
  augment: SpecAugment
  audio_tower: nn.Module
  text_tower: TextTower
  embed_dim: PositiveInt
  initial_temperature: PositiveFloat
  min_temperature: PositiveFloat

  @property
  def methods(self) -> inputs.Methods:
    """What a trained joint embedding can do."""
    return {"embed_audio": (inputs.Waveform(),), "embed_text": (inputs.Tokens(self.vocab_size),)}

  @property
  def sample_rate(self) -> int:
    """Hz of the waveforms."""
    return self.log_mel.sample_rate

  @property
  def vocab_size(self) -> int:
    """How many ids a token of text may have."""
    return self.text_tower.vocab_size

  @property
  def max_tokens(self) -> int:
    """The most tokens of a text."""
    return self.text_tower.max_length

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
    return unit(self.audio_head(self.audio_tower(x, train=train)))

  def _text(self, tokens, train: bool):
    return unit(self.text_head(self.text_tower(tokens, train=train)))

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
