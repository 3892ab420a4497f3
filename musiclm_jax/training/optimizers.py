"""Optimizers and learning-rate schedules of optax, with names for gin.

Each optimizer clips by the global norm first, and keeps the learning rate of the last step in its
state as "learning_rate".
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
  """Linear warm-up to `peak`, which is kept until the last `decay_steps`: linear down to `final`.

  Hu et al. 2024 (MiniCPM, arXiv 2404.06395). Raises ValueError where both together are longer than
  the run.
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
  """Clipping, the rules that turn the gradient into a direction, and a step against it."""
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


def muon(
  *,
  learning_rate,
  beta: Fraction,
  weight_decay: NonNegativeFloat,
  clip: NonNegativeFloat,
  axes: dict,
):
  """Muon for the matrices of stacked layers (Jordan et al. 2024), NAdamW for all other parameters.

  `axes` are the logical axes of each parameter (`step.parameter_axes`). Updates have the size of
  Adam's (Liu et al., arXiv 2502.16982, Section 2.2), so one learning rate serves both.
  """
  is_names = lambda x: isinstance(x, tuple)  # noqa: E731
  both = optax.contrib.muon(
    -1.0,  # ascent: _scaled negates and scales
    beta=beta,
    weight_decay=weight_decay,
    adam_weight_decay=weight_decay,
    muon_weight_dimension_numbers=jax.tree.map(matrix_axes, axes, is_leaf=is_names),
    consistent_rms=0.2,
  )
  return _descent(clip, learning_rate, both)


_FEATURES = {"embed": "embed", "mlp": "mlp", "heads": "heads", "head_dim": "heads"}


def matrix_axes(names: tuple[str | None, ...]) -> optax.contrib.MuonDimensionNumbers | None:
  """Which axes of a parameter with these logical axes are the inputs and outputs of its matrices.

  None where it is no matrix of stacked layers: the layers' axis must come first, and the other
  named axes be two features of the model, inputs first. Unnamed axes count matrices: queries, keys
  and values are three.
  """
  if names[:1] != ("layers",):
    return None
  features: dict[str, list[int]] = {}
  for axis, name in enumerate(names[1:], 1):
    if name is not None:
      features.setdefault(_FEATURES.get(name, name), []).append(axis)
  if len(features) != 2 or not set(features) <= set(_FEATURES.values()):
    return None
  inputs, outputs = features.values()
  return optax.contrib.MuonDimensionNumbers(tuple(inputs), tuple(outputs))


def branches(*, main: optax.GradientTransformation, discriminators: optax.GradientTransformation):
  """One optimizer for the parameters under "discriminators", another for the rest (a GAN)."""

  def labels(params):
    return {name: "discriminators" if name == "discriminators" else "main" for name in params}

  return optax.multi_transform({"main": main, "discriminators": discriminators}, labels)


def none() -> optax.GradientTransformation:
  """For models without trainable parameters (quantizers)."""
  return optax.set_to_zero()


class AverageState(NamedTuple):
  """The state of the inner optimizer, the average, and over how many steps it was taken."""

  inner: optax.OptState
  steps: jax.Array
  parameter_average: optax.Params


def averaged(*, optimizer: optax.GradientTransformation, decay: Fraction):
  """`optimizer` with the exponential moving average of the parameters, float32, in its state.

  Step t (from 0) decays the average by min(`decay`, (1 + t) / (10 + t)), as TensorFlow's
  ExponentialMovingAverage does, so that the random start is soon forgotten. A `decay` of 0 returns
  the optimizer itself. Raises ValueError for one that is not in [0, 1).
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
