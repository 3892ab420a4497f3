"""The targets of w2v-BERT: a code and a vector for each frame, of two kinds.

`Clusters` are clusters of one view of the frames, as in MuQ (arXiv 2501.01108) for music: made from
the first batch, they stay fixed. Several of them, of pitch and of timbre, make a model hold both,
as the two teachers of MERT do (arXiv 2306.00107). `Learned` are the paper's (arXiv 2108.06209,
Section 3): the codes of a Gumbel-softmax quantizer on the features, learned with them (wav2vec 2.0,
arXiv 2006.11477, Section 2), which change while the model learns to predict them.

Both map (views {name: [batch, frames, dim]}, features [batch, frames, embed], train) to codes
[batch, frames] int32, their vectors [batch, frames, code_dim] float32 of length 1, the diversity
loss, a float32 in [0, 1), and metrics {name: (sum, weight)}.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from musiclm_jax.layers import normal, standardised, unit
from musiclm_jax.ranges import Fraction, PositiveFloat, PositiveInt
from musiclm_jax.tokenizers.quantizer import ResidualQuantizer


def diversity_loss(probabilities: jax.Array) -> jax.Array:
  """How far the use of codes of probabilities [..., codebook_size] is from uniform, float32.

  (V - exp(entropy of their mean)) / V of V codes: 0 where it is uniform, (V - 1) / V where one code
  is used. The form of the authors' code; Section 2 of wav2vec 2.0 has the negative entropy itself.
  """
  size = probabilities.shape[-1]
  share = size * probabilities.reshape(-1, size).mean(axis=0)  # 1 for each code when equally used
  # log V - entropy, without the difference of two nearly equal numbers.
  divergence = jax.scipy.special.kl_div(share, 1.0).mean()
  return -jnp.expm1(-divergence)


class Clusters(nn.Module):
  """Codes of the view `view` by `quantizer`, of one level; vectors projected from its centres.

  The diversity loss is 0: k-means on a batch leaves no code without a frame.
  """

  view: str
  quantizer: ResidualQuantizer
  code_dim: PositiveInt
  dtype: str

  @property
  def codebook_size(self) -> int:
    """How many codes there are."""
    return self.quantizer.codebook_size

  def setup(self):
    init = nn.with_logical_partitioning(normal(fan_in_axes=1), ("embed", "code"))
    self.project = nn.Dense(self.code_dim, use_bias=False, dtype=self.dtype, kernel_init=init)

  def __call__(self, views: dict[str, jax.Array], features: jax.Array, train: bool):
    """(codes, vectors, diversity loss, metrics), as above; features are not used.

    Raises ValueError where there is no such view.
    """
    if self.view not in views:
      raise ValueError(f"view: wanted one of {', '.join(views)}, found {self.view!r}")
    codes, metrics = self.quantizer(views[self.view], train)[1:]
    codes = codes[:, :, 0]
    centres = self.quantizer.decode(jnp.arange(self.codebook_size)[:, None])
    centres = centres - centres.mean(axis=0, keepdims=True)
    vectors = unit(self.project(jax.lax.stop_gradient(unit(centres))))
    return codes, vectors[codes], jnp.zeros(()), {"dead": metrics["dead"]}


class Learned(nn.Module):
  """Codes of the features by a Gumbel softmax over one codebook [codebook_size, code_dim].

  In training a code is drawn, and its gradient is that of the softmax at a temperature that starts
  at `initial_temperature`, is multiplied by `annealing` in each update and stays at or above
  `min_temperature`; in evaluation it is the most likely one. The collection "counters" holds the
  number of updates; each microbatch counts as one.

  Every feature is brought to mean 0 and variance 1 first: over the batch in training, by moving
  averages of `decay` (collection "batch_stats") in evaluation. Neither paper has it, but what all
  frames have in common would give all of them one code: "critical" in BEST-RQ (arXiv 2202.01855).
  """

  codebook_size: PositiveInt
  code_dim: PositiveInt
  initial_temperature: PositiveFloat
  min_temperature: PositiveFloat
  annealing: Fraction
  decay: Fraction

  @nn.compact
  def __call__(self, views: dict[str, jax.Array], features: jax.Array, train: bool):
    """(codes, vectors, diversity loss, metrics), as above; views are not used."""
    temperature = self._temperature(train)
    logits = self._logits(features.astype(jnp.float32), train)
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("code", "embed"))
    codebook = self.param("codebook", init, (self.codebook_size, self.code_dim))
    scores = logits
    if train:
      scores = logits + jax.random.gumbel(self.make_rng("dropout"), logits.shape)
    codes = scores.argmax(axis=-1).astype(jnp.int32)
    soft = jax.nn.softmax(scores / temperature, axis=-1)
    # One code forward, the softmax's gradient backward.
    choice = jax.nn.one_hot(codes, self.codebook_size) + (soft - jax.lax.stop_gradient(soft))
    # Of the softmax without noise and temperature (wav2vec 2.0, Section 2).
    diversity = diversity_loss(jax.nn.softmax(logits, axis=-1))
    one = jnp.ones(())
    metrics = {"diversity_loss": (diversity, one), "gumbel_temperature": (temperature, one)}
    return codes, unit(choice @ codebook), diversity, metrics

  def _logits(self, x, train: bool):
    """[batch, frames, codebook_size] of features [batch, frames, embed]."""
    x = standardised("standardise", x, train, self.decay)
    # wav2vec 2.0's: logits far apart, so that a draw is nearly sure from the start.
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed", "code"))
    return nn.Dense(
      self.codebook_size,
      precision="float32",
      kernel_init=init,
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), ("code",)),
      name="logits",
    )(x)

  def _temperature(self, train: bool):
    updates = self.variable("counters", "updates", jnp.zeros, (), jnp.int32)
    annealed = self.initial_temperature * jnp.exp(updates.value * math.log(self.annealing))
    if train and not self.is_initializing():
      updates.value = updates.value + 1
    return jnp.maximum(annealed, self.min_temperature)
