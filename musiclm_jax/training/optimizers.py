"""Optimizers and learning-rate schedules: optax, with names for gin.

Each optimizer clips by the global norm first. What the learning rate of a step was stands in its
state, under "learning_rate".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from musiclm_jax.ranges import (
  Fraction,
  NonNegativeFloat,
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
)


def warmup_rsqrt(*, peak: PositiveFloat, warmup_steps: NonNegativeInt) -> optax.Schedule:
  """Linear warm-up to `peak`, then peak * sqrt(warmup_steps / step) (the T5 schedule)."""

  def schedule(step):
    step = jnp.maximum(step, 1)
    return peak * jnp.minimum(step / warmup_steps, (warmup_steps / step) ** 0.5)

  return schedule


def warmup_cosine(
  *,
  peak: PositiveFloat,
  warmup_steps: NonNegativeInt,
  total_steps: PositiveInt,
  final: NonNegativeFloat,
) -> optax.Schedule:
  """Linear warm-up to `peak`, then a cosine down to `final` at `total_steps`.

  Raises ValueError where the warm-up is not shorter than the run.
  """
  _check_warmup(warmup_steps, total_steps)
  return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, total_steps, final)


def warmup_stable_decay(
  *,
  peak: PositiveFloat,
  warmup_steps: NonNegativeInt,
  decay_steps: PositiveInt,
  total_steps: PositiveInt,
  final: NonNegativeFloat,
) -> optax.Schedule:
  """Linear warm-up to `peak`, which holds until the last `decay_steps`: linear down to `final`.

  Hu et al. 2024 (MiniCPM, arXiv 2404.06395). Raises ValueError where both are longer than the run.
  """
  _check_warmup(warmup_steps + decay_steps, total_steps + 1)
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, peak, warmup_steps),
      optax.constant_schedule(peak),
      optax.linear_schedule(peak, final, decay_steps),
    ],
    [warmup_steps, total_steps - decay_steps],
  )


def _check_warmup(warmup_steps: int, total_steps: int) -> None:
  if warmup_steps >= total_steps:
    wanted = f"wanted warmup_steps of less than the {total_steps} steps of the run"
    raise ValueError(f"schedule: {wanted}, found {warmup_steps}")


class RateState(NamedTuple):
  """The number of updates, and the learning rate of the last one."""

  count: jax.Array
  learning_rate: jax.Array


def _scaled(learning_rate) -> optax.GradientTransformation:
  """Descent: updates times -learning_rate, a schedule or a number."""
  schedule = learning_rate if callable(learning_rate) else lambda count: learning_rate

  def init(params):
    del params
    return RateState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))

  def update(updates, state, params=None):
    del params
    rate = jnp.asarray(schedule(state.count), jnp.float32)
    updates = jax.tree.map(lambda u: (-rate).astype(u.dtype) * u, updates)
    return updates, RateState(state.count + 1, rate)

  return optax.GradientTransformation(init, update)


def _descent(clip: float, learning_rate, *rules) -> optax.GradientTransformation:
  """Clipping, the rules that make a direction of the gradient, and a step against it."""
  return optax.chain(optax.clip_by_global_norm(clip), *rules, _scaled(learning_rate))


def adamw(
  *,
  learning_rate,
  b1: Fraction,
  b2: Fraction,
  weight_decay: NonNegativeFloat,
  clip: NonNegativeFloat,
):
  """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""
  return _descent(
    clip,
    learning_rate,
    optax.scale_by_adam(b1=b1, b2=b2),
    optax.add_decayed_weights(weight_decay),
  )


def lion(
  *,
  learning_rate,
  b1: Fraction,
  b2: Fraction,
  weight_decay: NonNegativeFloat,
  clip: NonNegativeFloat,
):
  """Lion, one moment (Chen et al., arXiv 2302.06675)."""
  return _descent(
    clip,
    learning_rate,
    optax.scale_by_lion(b1=b1, b2=b2),
    optax.add_decayed_weights(weight_decay),
  )


def adafactor(*, learning_rate, decay_rate: Fraction, clip: NonNegativeFloat):
  """Adafactor with factored second moments and no momentum, steps relative to the parameters."""
  return _descent(
    clip,
    learning_rate,
    optax.scale_by_factored_rms(decay_rate=decay_rate),
    optax.clip_by_block_rms(1.0),
    optax.scale_by_param_block_rms(),
  )


def muon(*, learning_rate, beta: Fraction, weight_decay: NonNegativeFloat, clip: NonNegativeFloat):
  """Muon for the matrices of stacked layers (Jordan et al. 2024), NAdamW for all else.

  A matrix maps the axes of its inputs to those of its outputs; queries, keys and values are three.
  Updates have the size of Adam's (Liu et al., arXiv 2502.16982, Section 2.2), so that one learning
  rate serves both.
  """
  both = optax.contrib.muon(
    -1.0,  # ascent, which _scaled turns and scales
    beta=beta,
    weight_decay=weight_decay,
    adam_weight_decay=weight_decay,
    muon_weight_dimension_numbers=_matrices,
    consistent_rms=0.2,
  )
  return _descent(clip, learning_rate, both)


_INPUTS = {"out": (1, 2)}  # of the axes [layers, inputs, ..., outputs]; where others have one
_OUTPUTS = {"qkv": (3, 4)}
_MATRICES = ("qkv", "out", "wi", "wo", "first_wi", "first_wo", "second_wi", "second_wo", "gated")


def _matrices(params):
  """For each parameter which of its axes are inputs and outputs; None for what is no matrix."""

  def numbers(path, x):
    names = [key.key for key in path]
    name = names[-2] if names[-1] == "kernel" else names[-1]
    if "layers" not in names or names[-1] == "bias" or name not in _MATRICES:
      return None
    inputs, outputs = _INPUTS.get(name, (1,)), _OUTPUTS.get(name, (x.ndim - 1,))
    return optax.contrib.MuonDimensionNumbers(inputs, outputs)

  return jax.tree_util.tree_map_with_path(numbers, params)


def branches(*, main: optax.GradientTransformation, discriminators: optax.GradientTransformation):
  """One optimizer for the parameters under "discriminators", another for all the rest (a GAN)."""

  def labels(params):
    return {name: "discriminators" if name == "discriminators" else "main" for name in params}

  return optax.multi_transform({"main": main, "discriminators": discriminators}, labels)


def none() -> optax.GradientTransformation:
  """For models without trainable parameters (quantizers)."""
  return optax.set_to_zero()


class AverageState(NamedTuple):
  """The state of the optimizer inside, the average and how many steps are in it."""

  inner: optax.OptState
  steps: jax.Array
  parameter_average: optax.Params


def averaged(*, optimizer: optax.GradientTransformation, decay: Fraction):
  """`optimizer`, which also keeps the exponential moving average of the parameters, float32.

  Of each average the share 1 - `decay` is new, at first more, so that the random start is soon
  forgotten: step t decays by (1 + t) / (10 + t) if that is less, as TensorFlow's
  ExponentialMovingAverage does. A `decay` of 0 keeps none and gives the optimizer itself. Raises
  ValueError for one that is not in [0, 1).
  """
  if not 0 <= decay < 1:
    raise ValueError(f"EMA_DECAY: wanted 0 or more and less than 1, found {decay}")
  if not decay:
    return optimizer

  def init(params):
    average = jax.tree.map(jnp.copy, params)
    return AverageState(optimizer.init(params), jnp.zeros((), jnp.int32), average)

  def update(updates, state, params):
    updates, inner = optimizer.update(updates, state.inner, params)
    moved = optax.apply_updates(params, updates)
    new = jnp.maximum(1 - decay, 9 / (10 + state.steps))
    average = optax.incremental_update(moved, state.parameter_average, new)
    return updates, AverageState(inner, state.steps + 1, average)

  return optax.GradientTransformation(init, update)
