"""Residual vector quantization, codebooks by moving averages (SoundStream, 2107.03312, III-C).

One class serves the codec, MuLan, melody and, with one level, the k-means of semantic tokens.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from musiclm_jax.ranges import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt
from musiclm_jax.tokenizers import inputs
from musiclm_jax.tokenizers.kmeans import (
  assign,
  centroids,
  draw,
  kmeans,
  nearest,
  squared_lengths,
)


def quantize(x, codebooks, squares=None):
  """Codes of the nearest vectors, level by level on the residual (SoundStream, III-C).

  x [..., dim] float32 and codebooks [num_quantizers, codebook_size, dim] to codes
  [..., num_quantizers] int32 and the sum of their vectors [..., dim]. NumPy arrays stay NumPy: a
  data pipeline never starts JAX. `squares` are the `squared_lengths` of the codebooks, for callers
  that keep them from call to call. Raises ValueError where the dims differ.
  """
  xp = x.__array_namespace__()
  if x.shape[-1] != codebooks.shape[-1]:
    wanted = codebooks.shape[-1]
    raise ValueError(f"quantize wants vectors of {wanted} dimensions, found {x.shape[-1]}")
  codebooks = xp.asarray(codebooks)
  squares = squared_lengths(codebooks) if squares is None else squares
  flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
  residual, codes = flat, []
  for level in range(codebooks.shape[0]):
    codes.append(nearest(residual, codebooks[level], squares[level]))
    residual = residual - codebooks[level][codes[-1]]
  codes = xp.stack(codes, axis=-1).astype(xp.int32)
  return codes.reshape(*x.shape[:-1], -1), (flat - residual).reshape(x.shape)


def dequantize(codes, codebooks):
  """The sum [..., dim] of the vectors of codes [..., levels], a column for each level.

  codebooks is [num_quantizers, codebook_size, dim]; levels may be fewer than num_quantizers: the
  first ones count. Raises ValueError where there are more levels than codebooks.
  """
  if codes.shape[-1] > codebooks.shape[0]:
    wanted = codebooks.shape[0]
    raise ValueError(f"dequantize wants at most {wanted} levels of codes, found {codes.shape[-1]}")
  codebooks = codes.__array_namespace__().asarray(codebooks)
  return sum(codebooks[level][codes[..., level]] for level in range(codes.shape[-1]))


def perplexity(counts):
  """exp of the entropy, [...] in [1, codebook_size], of counts [..., codebook_size]."""
  xp = counts.__array_namespace__()
  p = counts / xp.maximum(counts.sum(axis=-1, keepdims=True), 1e-20)
  return xp.exp(-(p * xp.log(xp.maximum(p, 1e-20))).sum(axis=-1))


class ResidualQuantizer(nn.Module):
  """A stack of codebooks, each on the residual of those before, learned by moving averages.

  `decay` is that of the averages. A code is dead where its average weight in a batch is under
  `restart_threshold` times the mean over the codes of its level, and restarts at a random vector of
  the batch. Restarts end after `restart_updates` updates (None: never), so that training can end
  with vectors that are averages and not single residuals; each microbatch is an update.
  `iterations` is how long k-means runs on the first batch; with `level_dropout` each example is
  trained through its first 1..num_quantizers levels. In the first `warmup_updates` vectors stay as
  they are: k-means of an encoder that has learned nothing leaves most codes without a vector later.
  The collection "codebooks" holds vectors [num_quantizers, codebook_size, dim], their weights
  `counts` [num_quantizers, codebook_size], the number of updates and the flag `initialised`.
  """

  num_quantizers: PositiveInt
  codebook_size: PositiveInt
  dim: PositiveInt
  decay: Fraction
  restart_threshold: NonNegativeFloat
  restart_updates: NonNegativeInt | None
  iterations: NonNegativeInt
  level_dropout: bool
  warmup_updates: NonNegativeInt = 0  # of quantizers described before there was a choice

  def setup(self):
    shape = (self.num_quantizers, self.codebook_size, self.dim)
    self.vectors = self.variable("codebooks", "vectors", jnp.zeros, shape)
    self.counts = self.variable("codebooks", "counts", jnp.zeros, shape[:2])
    self.updates = self.variable("codebooks", "updates", jnp.zeros, (), jnp.int32)
    self.initialised = self.variable("codebooks", "initialised", jnp.zeros, (), bool)

  def encode(self, x):
    """Codes [..., num_quantizers] int32 of x [..., dim]."""
    with jax.default_matmul_precision("float32"):  # bfloat16 distances would choose other codes
      return quantize(x, self.vectors.value)[0]

  def decode(self, codes):
    """Vectors [..., dim] float32 of codes [..., levels], levels <= num_quantizers."""
    return dequantize(codes, self.vectors.value)

  def __call__(self, x, train: bool, weights=None):
    """Quantized x, codes and metrics of x [batch, n, dim]; updates the codebooks where `train`.

    quantized [batch, n, dim] has one straight-through gradient on the sum of the levels; codes are
    [batch, n, num_quantizers] int32; metrics name -> (sum, weight): commitment (mean squared
    distance of x to its quantized vector, with a gradient to x), perplexity_LEVEL of this batch,
    dead and restarted (shares of all codes). Vectors of weight 0 (weights [batch, n]) change
    nothing.
    """
    batch, n, dim = x.shape
    weights = jnp.ones((batch, n), jnp.float32) if weights is None else weights
    x = jnp.where(weights[..., None] > 0, x.astype(jnp.float32), 0.0)  # what is masked may be NaN
    flat, flat_weights = lax.stop_gradient(x).reshape(batch * n, dim), weights.reshape(batch * n)
    kept = jnp.full((batch * n,), self.num_quantizers)
    restart_indices = jnp.zeros((self.codebook_size,), jnp.int32)
    learn = train and not self.is_initializing()
    with jax.default_matmul_precision("float32"):
      if learn:
        self._initialise(flat, flat_weights)
        restart_indices = draw(self.make_rng("dropout"), flat_weights, self.codebook_size)
      if learn and self.level_dropout:
        kept = jax.random.randint(self.make_rng("dropout"), (batch, 1), 1, self.num_quantizers + 1)
        kept = jnp.broadcast_to(kept, (batch, n)).reshape(batch * n)
      quantized, (codes, *level_stats) = self._levels(flat, flat_weights, kept, restart_indices)
    if self.warmup_updates:
      quantized = jnp.where(self.initialised.value, quantized, flat)
    if learn:
      dead, restarted = self._update(*level_stats)
    else:
      dead = self._dead(self.counts.value)
      restarted = jnp.zeros_like(dead)
    quantized = quantized.reshape(batch, n, dim)
    error = jnp.square(x - quantized).mean(axis=-1) * weights
    one = jnp.ones((), jnp.float32)
    used = perplexity(level_stats[0])
    metrics = {f"perplexity_{level}": (used[level], one) for level in range(self.num_quantizers)}
    metrics |= {"dead": (dead.mean(), one), "restarted": (restarted.mean(), one)}
    metrics["commitment"] = error.sum(), weights.sum()
    codes = codes.T.reshape(batch, n, self.num_quantizers).astype(jnp.int32)
    return x + lax.stop_gradient(quantized - x), codes, metrics

  def _levels(self, x, weights, kept, restart_indices):
    """The sum [n, dim] of the first `kept` [n] levels of x [n, dim], and of each level: codes [n],
    their weights and sums of residuals, and the residuals at `restart_indices`.
    """

    def level(carry, inputs):
      residual, quantized = carry
      index, codebook = inputs
      codes, counts, sums = assign(residual, weights, codebook)
      vectors = codebook[codes]
      quantized = quantized + jnp.where((index < kept)[:, None], vectors, 0.0)
      return (residual - vectors, quantized), (codes, counts, sums, residual[restart_indices])

    inputs = jnp.arange(self.num_quantizers), self.vectors.value
    (_, quantized), seen = lax.scan(level, (x, jnp.zeros_like(x)), inputs)
    return quantized, seen

  def _initialise(self, x, weights):
    """k-means of each level on the first batch that has any weight."""

    def level(residual, rng):
      vectors, counts = kmeans(
        rng, residual, weights, codebook_size=self.codebook_size, iterations=self.iterations
      )
      codes = nearest(residual, vectors, squared_lengths(vectors))
      return residual - vectors[codes], (vectors, counts)

    def first():
      return lax.scan(level, x, jax.random.split(rng, self.num_quantizers))[1]

    rng = self.make_rng("dropout")
    state = self.vectors.value, self.counts.value
    waits = self.updates.value < self.warmup_updates
    state = lax.cond(self.initialised.value | waits, lambda: state, first)
    self.vectors.value, self.counts.value = state
    self.initialised.value = self.initialised.value | ((weights.sum() > 0) & ~waits)

  def _threshold(self, counts):
    """The average weights [num_quantizers, 1] under which codes are dead."""
    return self.restart_threshold * counts.mean(axis=-1, keepdims=True)

  def _dead(self, counts):
    return counts < self._threshold(counts)

  def _update(self, counts, sums, candidates):
    """Moves the averages by one batch and restarts dead codes; which are dead and which restarted,
    masks [num_quantizers, codebook_size].
    """
    anything = (counts.sum() > 0) & self.initialised.value
    decay = jnp.where(self.initialised.value, self.decay, 1.0)
    before = self.vectors.value * self.counts.value[..., None]
    counts = decay * self.counts.value + (1 - decay) * counts
    sums = decay * before + (1 - decay) * sums
    vectors = centroids(counts, sums, self.vectors.value)
    dead, threshold = self._dead(counts), self._threshold(counts)
    restarted = dead & anything
    if self.restart_updates is not None:
      restarted &= self.updates.value < self.restart_updates
    self.vectors.value = jnp.where(restarted[..., None], candidates, vectors)
    self.counts.value = jnp.where(restarted, threshold, counts)
    self.updates.value = self.updates.value + 1
    return dead, restarted


class EmbeddingQuantizer(nn.Module):
  """Learns codebooks for vectors of a frozen model; meets the model contract and has no parameters.

  The batch is {"embeddings": [batch, n, dim] float32, optional "weights": [batch, n]}. With
  `standardise` every dimension is brought to mean 0 and variance 1 first, by averages over all
  vectors of the training so far (collection "statistics"); the codes are those of the standardised
  vectors.
  """

  quantizer: ResidualQuantizer
  standardise: bool

  @property
  def methods(self) -> inputs.Methods:
    """What a trained quantizer can do."""
    codes = inputs.Codes(self.num_quantizers, self.codebook_size)
    return {"encode": (inputs.Embeddings(self.embed_dim),), "decode": (codes,)}

  @property
  def embed_dim(self) -> int:
    """Dimensions of the embeddings."""
    return self.quantizer.dim

  @property
  def num_quantizers(self) -> int:
    """Codes of an embedding."""
    return self.quantizer.num_quantizers

  @property
  def codebook_size(self) -> int:
    """How many codes each level has."""
    return self.quantizer.codebook_size

  def setup(self):
    dim = self.embed_dim
    self.seen = self.variable("statistics", "seen", jnp.zeros, ())
    self.mean = self.variable("statistics", "mean", jnp.zeros, (dim,))
    self.variance = self.variable("statistics", "variance", jnp.ones, (dim,))

  def __call__(self, batch, *, train: bool):
    """(loss, metrics); the loss is the squared error over the input's variance: 1 for the mean
    alone.
    """
    x = batch["embeddings"]
    weights = batch.get("weights", jnp.ones(x.shape[:2], jnp.float32))
    x = jnp.where(weights[..., None] > 0, x, 0.0)
    if train and not self.is_initializing():
      self._see(x, weights)
    shift, scale = self._affine(x.ndim)
    _, _, metrics = self.quantizer((x - shift) / scale, train, weights)
    error, total = metrics.pop("commitment")
    variance = (self.variance.value / jnp.square(scale).reshape(-1)).mean()
    loss = lax.stop_gradient(error / jnp.maximum(total, 1e-20) / jnp.maximum(variance, 1e-20))
    return loss, metrics | {"loss": (loss * total, total), "chance": (total, total)}

  def encode(self, embeddings):
    """Codes [..., num_quantizers] int32 of embeddings [..., dim]."""
    shift, scale = self._affine(embeddings.ndim)
    return self.quantizer.encode((embeddings - shift) / scale)

  def decode(self, codes):
    """Embeddings [..., dim] float32, not standardised, of codes [..., levels]."""
    x = self.quantizer.decode(codes)
    shift, scale = self._affine(x.ndim)
    return x * scale + shift

  def _affine(self, ndim: int):
    """(shift, scale), each [1, ..., dim], that standardise embeddings of `ndim` axes."""
    shape = (1,) * (ndim - 1) + (-1,)
    shift, scale = self.mean.value, jnp.sqrt(jnp.maximum(self.variance.value, 1e-10))
    if not self.standardise:
      shift, scale = jnp.zeros_like(shift), jnp.ones_like(scale)
    return shift.reshape(shape), scale.reshape(shape)

  def _see(self, x, weights):
    """Merges x [batch, n, dim], weights [batch, n], into the mean and variance."""
    total = weights.sum()
    shares = (weights / jnp.maximum(total, 1e-20))[..., None]
    mean = (shares * x).sum(axis=(0, 1))
    variance = (shares * jnp.square(x - mean[None, None, :])).sum(axis=(0, 1))
    self.seen.value = self.seen.value + total
    share = total / jnp.maximum(self.seen.value, 1e-20)
    delta = mean - self.mean.value
    self.mean.value = self.mean.value + share * delta
    merged = (1 - share) * self.variance.value + share * variance
    self.variance.value = merged + share * (1 - share) * jnp.square(delta)
