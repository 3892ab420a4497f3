"""How the next codes are chosen from their scores, and the settings of that for a stage."""

import dataclasses

import jax
import jax.numpy as jnp

from musiclm_jax.ranges import Fraction, NonNegativeFloat


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How one stage is sampled.

  `temperature` divides the scores, 0 takes the likeliest code (MusicLM Section 4.1: 1.0 semantic,
  0.95 coarse, 0.4 fine). `guidance` w > 0 scores (1 + w) * conditioned - w * unconditional, against
  null conditions (Ho & Salimans, arXiv 2207.12598). Windows are as long as the training crop; the
  share `stride_fraction` of each is new, the rest is context from the window before.
  """

  stage: str
  temperature: NonNegativeFloat
  guidance: NonNegativeFloat
  stride_fraction: Fraction

  def __post_init__(self):
    for name, fits, wanted in (
      ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
      ("guidance", 0 <= self.guidance < float("inf"), "0 or more"),
      ("stride_fraction", 0 < self.stride_fraction <= 1, "more than 0, at most 1"),
    ):
      if not fits:
        found = getattr(self, name)
        raise ValueError(f"stage {self.stage}: {name}: wanted {wanted}, found {found}")


@dataclasses.dataclass(frozen=True)
class Changes:
  """Settings in place of a bundle's own: a number for all stages, {stage: number}, or None."""

  # Written out, as the command line reads these annotations without importing this module.
  temperature: NonNegativeFloat | dict[str, NonNegativeFloat] | None = None
  guidance: NonNegativeFloat | dict[str, NonNegativeFloat] | None = None
  stride_fraction: Fraction | dict[str, Fraction] | None = None

  def apply(self, settings: dict[str, Sampling]) -> dict[str, Sampling]:
    """The settings by stage with these changes. Raises ValueError for a stage that is not there."""
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      values = value if isinstance(value, dict) else dict.fromkeys(settings, value)
      for stage, number in values.items():
        if stage not in settings:
          known = ", ".join(settings)
          raise ValueError(f"{field.name}: no stage {stage!r}; the bundle has {known}")
        if number is not None:
          changed = dataclasses.replace(settings[stage], **{field.name: number})
          settings = settings | {stage: changed}
    return settings


UNCHANGED = Changes()


def guided(scores: jax.Array, guidance: float) -> jax.Array:
  """(1 + w) * conditioned - w * unconditional: [rows, ...] of scores [2 * rows, ...].

  The first half of the rows was conditioned, the second one not.
  """
  conditioned, unconditional = jnp.split(scores, 2)
  return (1 + guidance) * conditioned - guidance * unconditional


def draw(scores: jax.Array, temperature: float, keys: jax.Array, tokens: jax.Array) -> jax.Array:
  """Codes [batch, heads] int32 drawn from scores [batch, heads, codebook_size].

  keys [batch] are one random key per row and tokens [heads] the numbers of the tokens in the
  target, so that a code depends on no other row and on no window's length.
  """
  if temperature == 0:
    return scores.argmax(-1).astype(jnp.int32)

  def one(key, token, row):
    return jax.random.categorical(jax.random.fold_in(key, token), row / temperature)

  each = jax.vmap(jax.vmap(one, in_axes=(None, 0, 0)), in_axes=(0, None, 0))
  return each(keys, tokens, scores).astype(jnp.int32)
