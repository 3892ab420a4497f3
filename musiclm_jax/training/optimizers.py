"""Optimizers and learning-rate schedules: optax, with names for gin."""

import jax.numpy as jnp
import optax


def warmup_rsqrt(*, peak: float, warmup_steps: int) -> optax.Schedule:
  """Linear warm-up to `peak`, then peak * sqrt(warmup_steps / step) (the T5 schedule)."""

  def schedule(step):
    step = jnp.maximum(step, 1)
    return peak * jnp.minimum(step / warmup_steps, (warmup_steps / step) ** 0.5)

  return schedule


def warmup_cosine(*, peak: float, warmup_steps: int, total_steps: int, final: float):
  """Linear warm-up to `peak`, then a cosine down to `final` at `total_steps`."""
  return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, total_steps, final)


def adamw(*, learning_rate, b1: float, b2: float, weight_decay: float, clip: float):
  """AdamW behind clipping by the global norm."""
  return optax.chain(
    optax.clip_by_global_norm(clip),
    optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay),
  )


def adafactor(*, learning_rate, decay_rate: float, clip: float):
  """Adafactor with factored second moments and no momentum, steps relative to the parameters."""
  return optax.chain(
    optax.clip_by_global_norm(clip),
    optax.adafactor(learning_rate, decay_rate=decay_rate, multiply_by_parameter_scale=True),
  )


def branches(*, main: optax.GradientTransformation, discriminators: optax.GradientTransformation):
  """One optimizer for the parameters under "discriminators", another for all the rest (a GAN)."""

  def labels(params):
    return {name: "discriminators" if name == "discriminators" else "main" for name in params}

  return optax.multi_transform({"main": main, "discriminators": discriminators}, labels)


def none() -> optax.GradientTransformation:
  """For models without trainable parameters (quantizers)."""
  return optax.set_to_zero()
