"""w2v-BERT, the self-supervised encoder of the semantic tokens (Chung et al., arXiv 2108.06209).

One Conformer learns to tell the code of each masked frame from those of other frames, a second one
on top of it to name that code. MusicLM takes its semantic tokens from a layer of the second.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from musiclm_jax import audio
from musiclm_jax.tokenizers.conformer import Conformer
from musiclm_jax.tokenizers.quantizer import perplexity
from musiclm_jax.transformer import norm, normal

_SUBSAMPLING = 4  # two convolutions of stride 2
_NEVER = -1e9


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
  frames], weighted so that together they count as `num_distractors`: what drawing that many gives
  on average, without the noise. A frame that has no distractor does not count.
  """
  others = (codes[:, :, None] != codes[:, None, :]) & masked[:, None, :]
  available = others.sum(axis=-1)
  share = math.log(num_distractors) - jnp.log(jnp.maximum(available, 1).astype(jnp.float32))
  distractors = jnp.where(others, scores + share[:, :, None], _NEVER)
  own = jnp.diagonal(scores, axis1=1, axis2=2)
  loss = jnp.logaddexp(own, jax.nn.logsumexp(distractors, axis=-1)) - own
  return loss, masked & (available > 0)


class FrontEnd(nn.Module):
  """Log-mel spectrogram, two convolutions of stride 2, a linear layer and a norm.

  waveform [batch, samples] at `sample_rate` Hz to [batch, samples // (4 * hop), embed]. The last
  samples that fill no frame are dropped; raises ValueError where they are all.
  """

  sample_rate: int
  window: int
  hop: int
  num_mels: int
  channels: int
  embed_dim: int
  dtype: str

  @nn.compact
  def __call__(self, waveform: jax.Array) -> jax.Array:
    stride = _SUBSAMPLING * self.hop
    frames = waveform.shape[1] // stride
    if not frames:
      raise ValueError(f"wanted a waveform of {stride} samples or more, found {waveform.shape[1]}")
    pad = self.window - self.hop  # half on each side, so that there are samples / hop mel frames
    waveform = jnp.pad(waveform[:, : frames * stride], ((0, 0), (pad // 2, pad - pad // 2)))
    x = audio.log_mel(
      waveform,
      sample_rate=self.sample_rate,
      window=self.window,
      hop=self.hop,
      num_mels=self.num_mels,
    )
    x = 1 - 2 * x / math.log(audio.LOG_FLOOR)  # -1 for silence, 1 for a magnitude of 1
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


class Codebook(nn.Module):
  """The codes of unmasked features, chosen by Gumbel softmax (wav2vec 2.0, arXiv 2006.11477, 2).

  x [batch, frames, embed] to code vectors [batch, frames, code_dim] with a straight-through
  gradient, the codes they are and the likeliest codes [batch, frames] int32, and the mean
  probability of each code [codebook_size]. Nothing is drawn where rng is None.
  """

  codebook_size: int
  code_dim: int
  temperature: float

  @nn.compact
  def __call__(self, x: jax.Array, rng: jax.Array | None):
    init = nn.with_logical_partitioning(normal(fan_in_axes=1), ("embed", "code"))
    logits = x.astype(jnp.float32) @ self.param("logits", init, (x.shape[-1], self.codebook_size))
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("code", None))
    vectors = self.param("vectors", init, (self.codebook_size, self.code_dim))
    likeliest = logits.argmax(axis=-1).astype(jnp.int32)
    noisy = logits if rng is None else logits + jax.random.gumbel(rng, logits.shape)
    codes = noisy.argmax(axis=-1).astype(jnp.int32)
    soft = jax.nn.softmax(noisy / self.temperature, axis=-1)
    hard = jax.nn.one_hot(codes, self.codebook_size, dtype=soft.dtype)
    choice = soft + jax.lax.stop_gradient(hard - soft)
    return choice @ vectors, codes, likeliest, jax.nn.softmax(logits, axis=-1).mean(axis=(0, 1))


class W2vBert(nn.Module):
  """w2v-BERT; meets the model contract with batches {"waveform": [batch, samples] float32}.

  `contrastive` and `masked` are the two Conformers. Masked frames become random vectors, as in the
  paper: there is then no vector that a frozen model never sees. Codebook diversity enters the loss
  with `diversity_weight`; `temperature` is that of the contrastive scores.
  """

  front_end: FrontEnd
  contrastive: Conformer
  masked: Conformer
  codebook: Codebook
  start_rate: float
  span: int
  num_distractors: int
  temperature: float
  diversity_weight: float

  def setup(self):
    def dense(features, axes):
      init = nn.with_logical_partitioning(normal(fan_in_axes=1), axes)
      return nn.Dense(features, use_bias=False, dtype=self.front_end.dtype, kernel_init=init)

    self.context = dense(self.codebook.code_dim, ("embed", "code"))
    self.head = dense(self.codebook.codebook_size, ("embed", "code"))

  def __call__(self, batch, *, train: bool):
    """(loss, metrics): contrastive + masked-prediction + diversity loss (Section 3.2)."""
    # A validation without a key still needs a mask, the same one each time.
    rng = self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(0)
    mask_rng, noise_rng, gumbel_rng = jax.random.split(rng, 3)
    x = self.front_end(batch["waveform"])
    masked = span_mask(mask_rng, x.shape[:2], start_rate=self.start_rate, span=self.span)
    targets, drawn, codes, usage = self.codebook(x, gumbel_rng if train else None)
    noise = jax.random.normal(noise_rng, x.shape, x.dtype)
    x = jnp.where(masked[:, :, None], noise, x)

    x = self.contrastive(x, depth=self.contrastive.num_layers, train=train)
    scores = jnp.einsum("btc,bsc->bts", _unit(self.context(x)), _unit(targets))
    contrastive, counted = contrastive_loss(
      scores / self.temperature, drawn, masked, self.num_distractors
    )
    x = self.masked(x, depth=self.masked.num_layers, train=train)
    logits = self.head(x).astype(jnp.float32)
    cross_entropy = -_pick(jax.nn.log_softmax(logits, axis=-1), codes)
    right = logits.argmax(axis=-1) == codes

    diversity = 1 - perplexity(usage) / self.codebook.codebook_size
    sums = {
      "contrastive_loss": _total(contrastive, counted),
      "masked_loss": _total(cross_entropy, masked),
      "masked_accuracy": _total(right, masked),
    }
    loss = _mean(sums["contrastive_loss"]) + _mean(sums["masked_loss"])
    loss = loss + self.diversity_weight * diversity
    weight = sums["masked_loss"][1]
    return loss, sums | self._usage(codes, weight) | {
      "loss": (loss * weight, weight),
      "diversity": (diversity * weight, weight),
    }

  def _usage(self, codes, weight):
    """Metrics of the codes [batch, frames] of a batch, and the loss of knowing nothing."""
    size = self.codebook.codebook_size
    counts = jax.nn.one_hot(codes, size, dtype=jnp.float32).sum(axis=(0, 1))
    chance = math.log(size) + math.log(self.num_distractors + 1)
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
    x = self.contrastive(self.front_end(waveform), depth=self.contrastive.num_layers)
    return self.masked(x, depth=layer)


def _unit(x):
  """x [..., dim] at length 1, float32."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)


def _pick(x, codes):
  """The entries [...] of x [..., codebook_size] that codes [...] name."""
  return jnp.take_along_axis(x, codes[..., None], axis=-1)[..., 0]


def _total(values, counted):
  """(sum, weight) of values [batch, frames] where `counted`."""
  return jnp.where(counted, values, 0).sum().astype(jnp.float32), counted.sum().astype(jnp.float32)


def _mean(total):
  """The mean that a (sum, weight) stands for; 0 where the weight is."""
  return total[0] / jnp.maximum(total[1], 1)
