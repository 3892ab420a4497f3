"""w2v-BERT, the self-supervised encoder of the semantic tokens (Chung et al., arXiv 2108.06209).

One Conformer learns to distinguish the code of each masked frame from those of other frames, a
second one on its output to predict that code, and MusicLM's semantic tokens come from a layer of
the second.

The codes are those of `targets`: learned with the features, as in the paper, or fixed clusters of
the log-mel frames.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from musiclm_jax import spectrograms
from musiclm_jax.layers import MASKED, norm, normal, unit
from musiclm_jax.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from musiclm_jax.tokenizers import inputs
from musiclm_jax.tokenizers.conformer import Conformer
from musiclm_jax.tokenizers.quantizer import perplexity
from musiclm_jax.tokenizers.targets import Clusters, Learned

_SUBSAMPLING = 4  # two convolutions of stride 2


def span_mask(rng: jax.Array, shape: tuple[int, int], *, start_rate: float, span: int) -> jax.Array:
  """A mask [batch, frames] bool: every frame starts a span of `span` true ones with probability
  `start_rate`; spans may overlap and are cut at the end.
  """
  starts = jax.random.bernoulli(rng, start_rate, shape)
  padded = jnp.pad(starts, ((0, 0), (span - 1, 0)))
  return jnp.any(jnp.stack([padded[:, i : i + shape[1]] for i in range(span)]), axis=0)


def contrastive_loss(scores, codes, masked, num_distractors: int):
  """Cross-entropy [batch, frames] of each masked frame's own code, and where it counts (bool).

  scores [batch, frames, frames] compare the context at one masked frame with the code of another.
  The distractors are all other masked frames of the clip that hold another of the codes [batch,
  frames], weighted so that together they count as `num_distractors`: the expectation of drawing
  that many. A frame that has no distractor does not count.
  """
  others = (codes[:, :, None] != codes[:, None, :]) & masked[:, None, :]
  available = others.sum(axis=-1)
  share = math.log(num_distractors) - jnp.log(jnp.maximum(available, 1).astype(jnp.float32))
  distractors = jnp.where(others, scores + share[:, :, None], MASKED)
  own = jnp.diagonal(scores, axis1=1, axis2=2)
  loss = jnp.logaddexp(own, jax.nn.logsumexp(distractors, axis=-1)) - own
  return loss, masked & (available > 0)


class FrontEnd(nn.Module):
  """A log-mel spectrogram; two convolutions of stride 2, a linear layer and a norm over it.

  window and hop are samples at `sample_rate` Hz.
  """

  sample_rate: PositiveInt
  window: PositiveInt
  hop: PositiveInt
  num_mels: PositiveInt
  channels: PositiveInt
  embed_dim: PositiveInt
  dtype: str

  def spectrogram(self, waveform: jax.Array) -> jax.Array:
    """[batch, samples] to [batch, frames, 4 * num_mels] float32, frames = samples // (4 * hop).

    -1 is silence, 1 a magnitude of 1. The last samples that fill no frame are dropped; raises
    ValueError where they are all.
    """
    stride = _SUBSAMPLING * self.hop
    frames = waveform.shape[1] // stride
    if not frames:
      raise ValueError(f"wanted a waveform of {stride} samples or more, found {waveform.shape[1]}")
    pad = self.window - self.hop  # half on each side, so that there are samples / hop mel frames
    waveform = jnp.pad(waveform[:, : frames * stride], ((0, 0), (pad // 2, pad - pad // 2)))
    x = spectrograms.log_mel(
      waveform,
      sample_rate=self.sample_rate,
      window=self.window,
      hop=self.hop,
      num_mels=self.num_mels,
    )
    return 1 - 2 * x.reshape(x.shape[0], frames, -1) / math.log(spectrograms.LOG_FLOOR)

  @nn.compact
  def __call__(self, spectrogram: jax.Array) -> jax.Array:
    """[batch, frames, 4 * num_mels] to features [batch, frames, embed]."""
    batch, frames, _ = spectrogram.shape
    x = spectrogram.reshape(batch, frames * _SUBSAMPLING, self.num_mels)
    x = x[..., None].astype(self.dtype)
    for index in range(2):
      x = nn.relu(
        nn.Conv(
          self.channels,
          (3, 3),
          strides=(2, 2),
          dtype=self.dtype,
          kernel_init=nn.with_logical_partitioning(
            normal(fan_in_axes=3), ("kernel", "kernel", "channels_in", "channels_out")
          ),
          bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), ("channels_out",)),
          name=f"convolution_{index}",
        )(x)
      )
    x = x.reshape(*x.shape[:2], -1)
    init = nn.with_logical_partitioning(normal(fan_in_axes=1), ("mlp", "embed"))
    x = x @ self.param("project", init, (x.shape[-1], self.embed_dim)).astype(self.dtype)
    return norm("norm", self.dtype)(x)


class W2vBert(nn.Module):
  """w2v-BERT; meets the model contract with batches {"waveform": [batch, samples] float32}.

  `contrastive` and `masked` are the two Conformers; `targets` makes the codes. Masked frames become
  one learned vector. `temperature` is that of the contrastive scores. The weights are those of the
  three losses; of the diversity loss, within the contrastive one.
  """

  front_end: FrontEnd
  contrastive: Conformer
  masked: Conformer
  targets: Clusters | Learned
  start_rate: Fraction
  span: PositiveInt
  num_distractors: PositiveInt
  temperature: PositiveFloat
  contrastive_weight: NonNegativeFloat
  diversity_weight: NonNegativeFloat
  masked_weight: NonNegativeFloat

  @property
  def methods(self) -> inputs.Methods:
    """What a trained encoder can do; `embed` takes the layer too."""
    return {"embed": (inputs.Waveform(),)}

  @property
  def sample_rate(self) -> int:
    """Hz of the waveforms."""
    return self.front_end.sample_rate

  @property
  def num_layers(self) -> int:
    """Layers that `embed` can give, besides layer 0."""
    return self.masked.num_layers

  def setup(self):
    if self.contrastive is self.masked:
      raise ValueError("contrastive and masked are one Conformer: they would share their weights")

    def dense(features):
      init = nn.with_logical_partitioning(normal(fan_in_axes=1), ("embed", "code"))
      return nn.Dense(features, use_bias=False, dtype=self.front_end.dtype, kernel_init=init)

    self.context, self.head = dense(self.targets.code_dim), dense(self.targets.codebook_size)
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",))
    self.mask_embedding = self.param("mask_embedding", init, (self.front_end.embed_dim,))

  def __call__(self, batch, *, train: bool):
    """(loss, metrics): contrastive, with diversity, + masked-prediction loss (Section 3)."""
    spectrogram = self.front_end.spectrogram(batch["waveform"])
    x = self.front_end(spectrogram)
    codes, vectors, diversity, metrics = self.targets(spectrogram, x, train)
    # A validation without a key still needs a mask, the same one each time.
    rng = self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(0)
    masked = span_mask(rng, codes.shape, start_rate=self.start_rate, span=self.span)
    x = jnp.where(masked[:, :, None], self.mask_embedding.astype(x.dtype)[None, None], x)

    x = self.contrastive(x, depth=self.contrastive.num_layers, train=train)
    scores = jnp.einsum("btc,bsc->bts", unit(self.context(x)), vectors) / self.temperature
    contrastive, counted = contrastive_loss(scores, codes, masked, self.num_distractors)
    x = self.masked(x, depth=self.masked.num_layers, train=train)
    logits = self.head(x).astype(jnp.float32)
    cross_entropy = -_pick(jax.nn.log_softmax(logits, axis=-1), codes)

    sums = {
      "contrastive_loss": _total(contrastive, counted),
      "masked_loss": _total(cross_entropy, masked),
      "masked_accuracy": _total(logits.argmax(axis=-1) == codes, masked),
    }
    contrastive_total = _mean(sums["contrastive_loss"]) + self.diversity_weight * diversity
    masked_total = _mean(sums["masked_loss"])
    loss = self.contrastive_weight * contrastive_total + self.masked_weight * masked_total
    weight = sums["masked_loss"][1]
    return loss, {"loss": (loss * weight, weight)} | sums | self._usage(codes, weight) | metrics

  def _usage(self, codes, weight):
    """Metrics of the codes [batch, frames] of a batch, and the loss at chance."""
    size = self.targets.codebook_size
    counts = jax.nn.one_hot(codes, size, dtype=jnp.float32).sum(axis=(0, 1))
    chance = self.contrastive_weight * math.log(self.num_distractors + 1)
    chance += self.masked_weight * math.log(size)
    return {
      "chance": (chance * weight, weight),
      "most_frequent_share": (counts.max() / counts.sum() * weight, weight),
      "code_perplexity": (perplexity(counts) * weight, weight),
    }

  def embed(self, waveform: jax.Array, layer: int) -> jax.Array:
    """Output [batch, samples // (4 * hop), embed] of layer `layer` of the masked-prediction module.

    Layers count from 1; 0 is the module's input. Nothing is masked and later layers are not
    computed. Raises ValueError where there is no such layer or not one frame.
    """
    x = self.front_end(self.front_end.spectrogram(waveform))
    x = self.contrastive(x, depth=self.contrastive.num_layers)
    return self.masked(x, depth=layer)


def _pick(x, codes):
  """The entries [...] of x [..., codebook_size] that codes [...] name."""
  return jnp.take_along_axis(x, codes[..., None], axis=-1)[..., 0]


def _total(values, counted):
  """(sum, weight) of values [batch, frames] where `counted`."""
  return jnp.where(counted, values, 0).sum().astype(jnp.float32), counted.sum().astype(jnp.float32)


def _mean(total):
  """The mean of a (sum, weight); 0 where the weight is 0."""
  return total[0] / jnp.maximum(total[1], 1)
