"""k-means on vectors and their weights: seeds by k-means++, then Lloyd's iterations, float32.

The same result comes out on any mesh.
"""

import jax
import jax.numpy as jnp
from jax import lax


def squared_lengths(vectors):
  """The squared lengths [...] of vectors [..., dim]."""
  return (vectors**2).sum(axis=-1)


def nearest(x, codebook, squares):
  """Index [n] of the vector of codebook [k, d], of squared lengths [k], nearest to x [n, d]."""
  # |x|² is the same for all vectors and left out
  return (squares[None, :] - 2 * (x @ codebook.T)).argmin(axis=-1)


def draw(rng, weights, count: int):
  """Indices [count] drawn by weights [n] not all 0, with replacement."""
  cumulative = jnp.cumsum(weights)
  targets = jax.random.uniform(rng, (count,)) * cumulative[-1]
  # float rounding may put a target on the end
  return jnp.minimum(jnp.searchsorted(cumulative, targets, side="right"), len(weights) - 1)


def assign(x, weights, codebook):
  """Codes [n] of x [n, d], and the weight [k] and weighted sum [k, d] of what falls to each.

  A product with the one-hot codes rather than a scatter: it stays one collective when x is sharded.
  """
  codes = nearest(x, codebook, squared_lengths(codebook))
  onehot = jax.nn.one_hot(codes, codebook.shape[0], dtype=x.dtype) * weights[:, None]
  return codes, onehot.sum(axis=0), onehot.T @ x


def centroids(counts, sums, otherwise):
  """sums / counts [..., k, d], and `otherwise` [..., k, d] where a code has no weight."""
  return jnp.where(counts[..., None] > 0, sums / jnp.maximum(counts, 1e-20)[..., None], otherwise)


def _seeds(rng, x, weights, num_seeds):
  """Seeds [num_seeds, d] out of x [n, d], drawn by squared distance to those before (k-means++)."""

  def add(i, state):
    seeds, distance = state
    seed = x[draw(jax.random.fold_in(rng, i), weights * distance, 1)]
    squares = jnp.square(x - seed).sum(axis=-1)
    return seeds.at[i].set(seed[0]), jnp.minimum(distance, squares)

  # a large finite start: the first seed is drawn uniformly
  start = jnp.zeros((num_seeds, x.shape[-1]), x.dtype), jnp.full((len(x),), 1e10, x.dtype)
  return lax.fori_loop(0, num_seeds, add, start)[0]


def kmeans(rng, x, weights, *, codebook_size: int, iterations: int):
  """Centres [codebook_size, dim] of x [n, dim], weights [n], and the weight of each centre."""

  def lloyd(_, centres):
    _, counts, sums = assign(x, weights, centres)
    return centroids(counts, sums, centres)

  centres = lax.fori_loop(0, iterations, lloyd, _seeds(rng, x, weights, codebook_size))
  return centres, assign(x, weights, centres)[1]
