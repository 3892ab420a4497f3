"""Residual vector quantization with codebooks learned by moving averages (SoundStream, arXiv 2107.03312, III-C).

One class serves the codec, MuLan, the melody encoder and, with one level, the k-means of the semantic tokens.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def quantize(x, codebooks):
  """Codes of the nearest vectors, level by level on what is left (SoundStream, III-C).

  x [..., dim] float32 and codebooks [num_quantizers, codebook_size, dim] to codes [..., num_quantizers] int32 and the
  sum of their vectors [..., dim]. NumPy arrays stay NumPy: a data pipeline never starts JAX.

  Raises ValueError where the dims differ.
  """
  xp = x.__array_namespace__()
  if x.shape[-1] != codebooks.shape[-1]:
    raise ValueError(f"quantize wants vectors of {codebooks.shape[-1]} dimensions, found {x.shape[-1]}")
  codebooks = xp.asarray(codebooks)
  flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
  residual, codes = flat, []
  for level in range(codebooks.shape[0]):
    nearest = _nearest(residual, codebooks[level])
    residual = residual - codebooks[level][nearest]
    codes.append(nearest)
  codes = xp.stack(codes, axis=-1).astype(xp.int32)
  return codes.reshape(*x.shape[:-1], -1), (flat - residual).reshape(x.shape)


def dequantize(codes, codebooks):
  """The sum [..., dim] of the vectors that codes [..., levels] name, one level of codebooks for each column.

  codebooks is [num_quantizers, codebook_size, dim]; levels may be fewer than num_quantizers: the first ones count.

  Raises ValueError where there are more levels than codebooks.
  """
  if codes.shape[-1] > codebooks.shape[0]:
    raise ValueError(f"dequantize wants at most {codebooks.shape[0]} levels of codes, found {codes.shape[-1]}")
  codebooks = codes.__array_namespace__().asarray(codebooks)
  return sum(codebooks[level][codes[..., level]] for level in range(codes.shape[-1]))


def perplexity(counts):
  """How many codes are in use, as exp of the entropy: counts [..., codebook_size] to [...] in [1, codebook_size]."""
  xp = counts.__array_namespace__()
  p = counts / xp.maximum(counts.sum(axis=-1, keepdims=True), 1e-20)
  return xp.exp(-(p * xp.log(xp.maximum(p, 1e-20))).sum(axis=-1))


def _nearest(x, codebook):
  """Index [n] of the vector of codebook [k, d] nearest to each of x [n, d]; |x|² is the same for all and left out."""
  return ((codebook**2).sum(axis=-1)[None, :] - 2 * (x @ codebook.T)).argmin(axis=-1)


def _assign(x, weights, codebook):
  """Codes [n] of x [n, d], and what falls to each code: weight [k] and weighted sum of vectors [k, d].

  A product with the one-hot codes rather than a scatter: it stays one collective when x is sharded.
  """
  codes = _nearest(x, codebook)
  onehot = jax.nn.one_hot(codes, codebook.shape[0], dtype=x.dtype) * weights[:, None]
  return codes, onehot.sum(axis=0), onehot.T @ x


def _centroids(counts, sums, otherwise):
  """sums / counts [k, d], and `otherwise` [k, d] where a code has no weight."""
  return jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1e-20)[:, None], otherwise)


def _spread(rng, x, weights, num_seeds):
  """Seeds [num_seeds, d] out of x [n, d], each drawn with the squared distance to the nearest before it (k-means++)."""

  def draw(i, state):
    seeds, distance = state
    cumulative = jnp.cumsum(weights * distance)
    target = jax.random.uniform(jax.random.fold_in(rng, i)) * cumulative[-1]
    index = jnp.minimum(jnp.searchsorted(cumulative, target, side="right"), len(x) - 1)
    squares = jnp.square(x - x[index][None, :]).sum(axis=-1)
    return seeds.at[i].set(x[index]), jnp.minimum(distance, squares)

  # a large finite start: the first seed is drawn uniformly
  start = jnp.zeros((num_seeds, x.shape[-1]), x.dtype), jnp.full((len(x),), 1e10, x.dtype)
  return lax.fori_loop(0, num_seeds, draw, start)[0]


def kmeans(rng, x, weights, *, codebook_size: int, iterations: int):
  """Centres [codebook_size, dim] of x [n, dim] weighted by weights [n], with the weight [codebook_size] of each.

  k-means++ seeds, then Lloyd's iterations; float32, the same result on any mesh.
  """

  def lloyd(_, centres):
    _, counts, sums = _assign(x, weights, centres)
    return _centroids(counts, sums, centres)

  centres = lax.fori_loop(0, iterations, lloyd, _spread(rng, x, weights, codebook_size))
  return centres, _assign(x, weights, centres)[1]


class ResidualQuantizer(nn.Module):
  """A stack of codebooks, each on what the ones before left over; no gradients, only moving averages.

  `decay` is that of the averages; a code whose average weight in a batch is under `threshold` restarts at a random
  vector of the batch; `iterations` is how long k-means runs on the first batch; with `level_dropout` each example
  is trained through its first 1..num_quantizers levels. The collection "codebooks" holds vectors and sums
  [num_quantizers, codebook_size, dim], counts [num_quantizers, codebook_size] and the flag `initialised`.
  """

  num_quantizers: int
  codebook_size: int
  dim: int
  decay: float
  threshold: float
  iterations: int
  level_dropout: bool

  def setup(self):
    shape = (self.num_quantizers, self.codebook_size, self.dim)
    self.vectors = self.variable("codebooks", "vectors", jnp.zeros, shape)
    self.sums = self.variable("codebooks", "sums", jnp.zeros, shape)
    self.counts = self.variable("codebooks", "counts", jnp.zeros, shape[:2])
    self.initialised = self.variable("codebooks", "initialised", jnp.zeros, (), bool)

  def encode(self, x):
    """Codes [..., num_quantizers] int32 of x [..., dim]."""
    with jax.default_matmul_precision("float32"):  # bfloat16 distances would choose other codes
      return quantize(x, self.vectors.value)[0]

  def decode(self, codes):
    """Vectors [..., dim] of codes [..., levels], levels <= num_quantizers."""
    return dequantize(codes, self.vectors.value)

  def __call__(self, x, train: bool, weights=None):
    """Quantized x, codes and metrics of x [batch, n, dim]; updates the codebooks where `train`.

    quantized [batch, n, dim] has one straight-through gradient on the sum of the levels; codes are
    [batch, n, num_quantizers] int32; metrics name -> (sum, weight): commitment (mean squared distance of x to what it
    became, with a gradient to x), perplexity_LEVEL of this batch, dead (share of codes under the threshold).
    Vectors of weight 0 (weights [batch, n]) change nothing.
    """
    batch, n, dim = x.shape
    weights = jnp.ones((batch, n), jnp.float32) if weights is None else weights
    # 0 * NaN is NaN: what is masked may hold anything
    x = jnp.where(weights[..., None] > 0, x.astype(jnp.float32), 0.0)
    flat, flat_weights = lax.stop_gradient(x).reshape(batch * n, dim), weights.reshape(batch * n)
    learn = train and not self.is_initializing()
    with jax.default_matmul_precision("float32"):
      if learn:
        self._initialise(flat, flat_weights)
      last, (codes, counts, sums) = self._levels(flat, flat_weights, self.vectors.value)
      kept = self._kept_levels(batch) if learn and self.level_dropout else None
    if kept is None:
      quantized = (flat - last).reshape(batch, n, dim)
    else:
      levels = [self.vectors.value[q][codes[q]].reshape(batch, n, dim) for q in range(self.num_quantizers)]
      quantized = sum(jnp.where((q < kept)[:, None, None], level, 0.0) for q, level in enumerate(levels))
    error = jnp.square(x - quantized).mean(axis=-1) * weights
    metrics = {"commitment": (error.sum(), weights.sum())}
    one = jnp.ones((), jnp.float32)
    metrics |= {f"perplexity_{q}": (value, one) for q, value in enumerate(perplexity(counts))}
    if learn:
      self._update(flat, flat_weights, codes, counts, sums)
    metrics["dead"] = ((self.counts.value < self.threshold).mean(), one)
    codes = jnp.moveaxis(codes, 0, -1).reshape(batch, n, self.num_quantizers).astype(jnp.int32)
    return x + lax.stop_gradient(quantized - x), codes, metrics
