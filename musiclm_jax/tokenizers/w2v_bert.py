"""w2v-BERT, the self-supervised encoder of the semantic tokens (Chung et al., arXiv 2108.06209).

One Conformer learns to distinguish the code of each masked frame from those of other frames, a
second one on its output to predict that code, and MusicLM's semantic tokens come from a layer of
the second.

The codes are those of `targets`: learned with the features, as in the paper, or fixed clusters of
views of the frames. With several targets each has a code in every frame and heads of its own, and
their losses add up (MERT, arXiv 2306.00107).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from musiclm_jax.layers import MASKED, normal, unit
from musiclm_jax.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from musiclm_jax.tokenizers import inputs
from musiclm_jax.tokenizers.conformer import Conformer
from musiclm_jax.tokenizers.front_ends import LogMel, Views
from musiclm_jax.tokenizers.quantizer import perplexity
from musiclm_jax.tokenizers.targets import Clusters, Learned


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


class W2vBert(nn.Module):
  """w2v-BERT; meets the model contract with batches {"waveform": [batch, samples] float32}.

  `contrastive` and `masked` are the two Conformers; `targets` make the codes. Masked frames become
  one learned vector. `temperature` is that of the contrastive scores. The weights are those of the
  losses; of the diversity loss, within the contrastive one. `unmasked_weight` is that of predicting
  the codes of frames that are not masked too (HuBERT, arXiv 2106.07447, Equation 2): 0 in w2v-BERT;
  with it the last layers hold what the codes of each frame tell.
  """

  front_end: LogMel | Views
  contrastive: Conformer
  masked: Conformer
  targets: tuple[Clusters | Learned, ...]
  start_rate: Fraction
  span: PositiveInt
  num_distractors: PositiveInt
  temperature: PositiveFloat
  contrastive_weight: NonNegativeFloat
  diversity_weight: NonNegativeFloat
  masked_weight: NonNegativeFloat
  unmasked_weight: NonNegativeFloat

  @property
  def methods(self) -> inputs.Methods:
    """What a trained encoder can do; `embed` takes the layer too."""
    return {"embed": (inputs.Waveform(),)}

  @property
  def sample_rate(self) -> int:
    """Hz of the waveforms."""
    return self.front_end.sample_rate

  @property
  def layers(self) -> tuple[int | None, ...]:
    """What `embed` can give."""
    return (None, *range(self.masked.num_layers + 1))

  def setup(self):
    if self.contrastive is self.masked:
      raise ValueError("contrastive and masked are one Conformer: they would share their weights")

    def dense(features):
      init = nn.with_logical_partitioning(normal(fan_in_axes=1), ("embed", "code"))
      return nn.Dense(features, use_bias=False, dtype=self.front_end.dtype, kernel_init=init)

    self.contexts = [dense(target.code_dim) for target in self.targets]
    self.heads = [dense(target.codebook_size) for target in self.targets]
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",))
    self.mask_embedding = self.param("mask_embedding", init, (self.front_end.embed_dim,))

  def __call__(self, batch, *, train: bool):
    """(loss, metrics): contrastive, with diversity, + masked-prediction loss (Section 3).

    Metrics NAME_INDEX are those of one target.
    """
    views = self.front_end.views(batch["waveform"])
    x = self.front_end(views, train)
    made = [target(views, x, train) for target in self.targets]
    # A validation without a key still needs a mask, the same one each time.
    rng = self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(0)
    masked = span_mask(rng, x.shape[:2], start_rate=self.start_rate, span=self.span)
    x = jnp.where(masked[:, :, None], self.mask_embedding.astype(x.dtype)[None, None], x)
    context = self.contrastive(x, depth=self.contrastive.num_layers, train=train)
    output = self.masked(context, depth=self.masked.num_layers, train=train)

    weight = masked.sum().astype(jnp.float32)
    loss, chance, metrics = jnp.zeros(()), 0.0, {}
    for index, (codes, vectors, diversity, more) in enumerate(made):
      scores = unit(self.contexts[index](context))
      scores = jnp.einsum("btc,bsc->bts", scores, vectors) / self.temperature
      contrastive, counted = contrastive_loss(scores, codes, masked, self.num_distractors)
      logits = self.heads[index](output).astype(jnp.float32)
      cross_entropy = -_pick(jax.nn.log_softmax(logits, axis=-1), codes)
      sums = {
        "contrastive_loss": _total(contrastive, counted),
        "masked_loss": _total(cross_entropy, masked),
        "unmasked_loss": _total(cross_entropy, ~masked),
        "masked_accuracy": _total(logits.argmax(axis=-1) == codes, masked),
      }
      total = _mean(sums["contrastive_loss"]) + self.diversity_weight * diversity
      loss += self.contrastive_weight * total + self.masked_weight * _mean(sums["masked_loss"])
      loss += self.unmasked_weight * _mean(sums["unmasked_loss"])
      size = logits.shape[-1]
      chance += self.contrastive_weight * math.log(self.num_distractors + 1)
      chance += (self.masked_weight + self.unmasked_weight) * math.log(size)
      sums |= _usage(codes, size, weight) | more
      metrics |= {f"{name}_{index}": each for name, each in sums.items()}
    return loss, {"loss": (loss * weight, weight), "chance": (chance * weight, weight)} | metrics

  def embed(self, waveform: jax.Array, layer: int | None = None) -> jax.Array:
    """Output [batch, frames, embed] of layer `layer` of the masked-prediction module.

    Layers count from 1; 0 is the module's input; None gives the front end's `vectors`, before any
    layer. Nothing is masked and later layers are not computed. Raises ValueError where there is no
    such layer or not one frame.
    """
    if layer is None:
      return self.front_end.vectors(waveform)
    x = self.front_end(self.front_end.views(waveform), False)
    x = self.contrastive(x, depth=self.contrastive.num_layers)
    return self.masked(x, depth=layer)


def _usage(codes, size: int, weight):
  """Metrics of the use of `size` codes [batch, frames] in a batch."""
  counts = jax.nn.one_hot(codes, size, dtype=jnp.float32).sum(axis=(0, 1))
  return {
    "most_frequent_share": (counts.max() / counts.sum() * weight, weight),
    "code_perplexity": (perplexity(counts) * weight, weight),
  }


def _pick(x, codes):
  """The entries [...] of x [..., codebook_size] that codes [...] name."""
  return jnp.take_along_axis(x, codes[..., None], axis=-1)[..., 0]


def _total(values, counted):
  """(sum, weight) of values [batch, frames] where `counted`."""
  return jnp.where(counted, values, 0).sum().astype(jnp.float32), counted.sum().astype(jnp.float32)


def _mean(total):
  """The mean of a (sum, weight); 0 where the weight is 0."""
  return total[0] / jnp.maximum(total[1], 1)
