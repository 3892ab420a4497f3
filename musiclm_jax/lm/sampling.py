"""How the next codes are chosen from their scores, and the settings of that for a stage."""

import dataclasses

import jax
import jax.numpy as jnp

from musiclm_jax.ranges import Fraction, NonNegativeFloat, NonNegativeInt


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How one stage is sampled.

  `temperature` divides the scores, 0 takes the likeliest code (MusicLM Section 4.1: 1.0 semantic,
  0.95 coarse, 0.4 fine). `guidance` w > 0 scores (1 + w) * conditioned - w * unconditional, against
  null conditions (Ho & Salimans, arXiv 2207.12598). Of the scores, the `top_k` highest are drawn
  from (0: all), and of these the likeliest that reach the probability `top_p` together (nucleus
  sampling, arXiv 1904.09751). Windows are as long as the training crop; the share `stride_fraction`
  of each is new, the rest is context from the window before.
  """

  stage: str
  temperature: NonNegativeFloat
  guidance: NonNegativeFloat
  stride_fraction: Fraction
  top_k: NonNegativeInt = 0
  top_p: Fraction = 1.0

  def __post_init__(self):
    for name, fits, wanted in (
      ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
      ("guidance", 0 <= self.guidance < float("inf"), "0 or more"),
      ("stride_fraction", 0 < self.stride_fraction <= 1, "more than 0, at most 1"),
      ("top_k", self.top_k >= 0, "0 or more"),
      ("top_p", 0 < self.top_p <= 1, "more than 0, at most 1"),
    ):
      if not fits:
        found = getattr(self, name)
        raise ValueError(f"stage {self.stage}: {name}: wanted {wanted}, found {found}")


@dataclasses.dataclass(frozen=True)
class Changes:
  """Settings in place of a bundle's own: a number for all stages, {stage: number}, or None."""

  temperature: NonNegativeFloat | dict[str, NonNegativeFloat] | None = None
  guidance: NonNegativeFloat | dict[str, NonNegativeFloat] | None = None
  stride_fraction: Fraction | dict[str, Fraction] | None = None
  top_k: NonNegativeInt | dict[str, NonNegativeInt] | None = None
  top_p: Fraction | dict[str, Fraction] | None = None

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


def likeliest(scores: jax.Array, top_k: int, top_p: float) -> jax.Array:
  """Scores [..., codebook_size] with -inf for all codes but the likeliest: `Sampling`."""
  size = scores.shape[-1]
  if top_k and top_k < size:
    least = jax.lax.top_k(scores, top_k)[0][..., -1:]
    scores = jnp.where(scores < least, -jnp.inf, scores)
  if top_p < 1:
    ordered = jnp.sort(scores, axis=-1, descending=True)
    shares = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(shares, axis=-1) - shares  # of the likelier ones
    least = jnp.where(before < top_p, ordered, jnp.inf).min(axis=-1, keepdims=True)
    scores = jnp.where(scores < least, -jnp.inf, scores)
  return scores


def draw(scores: jax.Array, settings: Sampling, keys: jax.Array, tokens: jax.Array) -> jax.Array:
  """Codes [batch, heads] int32 drawn from scores [batch, heads, codebook_size].

  keys [batch] are one random key per row and tokens [heads] the numbers of the tokens in the
  target, so that a code depends on no other row and on no window's length.
  """
  if settings.temperature == 0:
    return scores.argmax(-1).astype(jnp.int32)
  scores = likeliest(scores / settings.temperature, settings.top_k, settings.top_p)

  def one(key, token, row):
    return jax.random.categorical(jax.random.fold_in(key, token), row)

  each = jax.vmap(jax.vmap(one, in_axes=(None, 0, 0)), in_axes=(0, None, 0))
  return each(keys, tokens, scores).astype(jnp.int32)
