"""Ways to make one loss of the losses of a codec's output: a weighted sum, or EnCodec's balancer.

Both take `losses`, a function of output [batch, ...] to {name: float32 scalar}, means over the
batch, and weights {name: float}; both give (loss, {name: value of the loss}). The loss is the
weighted sum; the balancer changes its gradient alone, so that curves can be compared.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from musiclm_jax.ranges import Fraction


class WeightedSum(nn.Module):
  """Every gradient counts by its weight and its size."""

  def __call__(self, losses, output, weights: dict[str, float], train: bool):
    """(loss, values) of output [batch, ...]."""
    values = losses(output)
    return _sum(values, weights), values


class Balancer(nn.Module):
  """Every gradient has the share of its weight, whatever its size (EnCodec, 2210.13438, 3.4).

  Where g_i is the gradient of a loss to the output, the output receives the sum of
  g_i * weight_i / sum(weights) / average of |g_i|. |g_i| is the norm of an example's gradient, as
  if it were alone in the batch, averaged over the batch and, with `decay`, over the batches of
  training: the published form (audiocraft) but for a factor of the batch size, without which the
  ratio to losses that are not balanced is the same for any batch. The collection "balancer" holds
  the averages by name, and in `seen` the weight of the batches in them.
  """

  decay: Fraction

  @nn.compact
  def __call__(self, losses, output, weights: dict[str, float], train: bool):
    """(loss, values) of output [batch, ...]; updates the averages where `train`.

    The gradient is balanced where `train`, else that of the weighted sum.
    """
    averages = {name: self.variable("balancer", name, jnp.zeros, ()) for name in weights}
    seen = self.variable("balancer", "seen", jnp.zeros, ())
    if not train or self.is_initializing():
      return WeightedSum(parent=None)(losses, output, weights, train)
    seen.value = self.decay * seen.value + 1
    fixed, values, balanced = lax.stop_gradient(output), {}, jnp.zeros_like(output)
    for name, average in averages.items():
      # one by one: XLA shares what the losses have in common, and nothing runs back through zeros
      values[name], gradient = jax.value_and_grad(lambda y: losses(y)[name])(fixed)  # noqa: B023
      # the first step is 1, a whole one: no bias towards the 0 of the start
      average.value += (_norm(gradient) - average.value) / seen.value
      share = weights[name] / sum(weights.values())
      balanced += gradient * share / jnp.maximum(average.value, 1e-12)
    loss, carrier = _sum(values, weights), (balanced * output).sum()
    return lax.stop_gradient(loss) + (carrier - lax.stop_gradient(carrier)), values


def _sum(values, weights):
  return sum(weights[name] * values[name] for name in weights)


def _norm(gradient):
  """Mean norm of the gradients [batch, ...] that a mean over the batch gives its examples."""
  flat = gradient.reshape(len(gradient), -1)
  return len(flat) * jnp.sqrt(jnp.square(flat).sum(axis=1)).mean()
