"""Sampling from a stage model: one prefill, then one step per token, in one compiled program."""

import functools

import jax
import jax.numpy as jnp

from musiclm_jax.lm.token_lm import TokenLM
from musiclm_jax.tokens import PAD


@functools.partial(
  jax.jit, static_argnums=(0,), static_argnames=("num_new", "temperature", "guidance")
)
def sample(
  model: TokenLM,
  variables,
  conditions: jax.Array,
  known: jax.Array,
  keys: jax.Array,
  *,
  num_new: int,
  temperature: float,
  guidance: float,
) -> jax.Array:
  """`num_new` tokens [batch, num_new] int32 behind the known ones of the target.

  conditions [batch, condition tokens] and known [batch, tokens] int32, whole frames; keys [batch]
  are one random key per row, so a row depends on no other. Every token is in its level's range.
  `temperature` 0 takes the likeliest (MusicLM Section 4.1: 1.0 semantic, 0.95 coarse, 0.4 fine).
  `guidance` w > 0 scores (1 + w) * conditioned - w * unconditioned, against null conditions.
  """
  batch = conditions.shape[0]
  levels = model.stage.target.num_quantizers
  offsets = jnp.asarray(model.vocabulary.offsets(model.stage.target))
  begin = jnp.full((batch, 1), PAD, jnp.int32)
  prompt = jnp.concatenate([begin, conditions, known], axis=1)
  if guidance:
    prompt = jnp.concatenate(
      [prompt, prompt.at[:, 1 : 1 + conditions.shape[1]].set(_nulls(model, conditions))]
    )

  def scores(tokens, level, cache):
    logits, cache = model.apply(variables, tokens, level, cache, method="decode")
    if guidance:
      conditioned, unconditional = jnp.split(logits, 2)
      logits = (1 + guidance) * conditioned - guidance * unconditional
    return logits, cache

  def choose(logits, position):
    if temperature == 0:
      return logits.argmax(-1).astype(jnp.int32)
    row_keys = jax.vmap(lambda key: jax.random.fold_in(key, position))(keys)
    draw = jax.vmap(lambda key, row: jax.random.categorical(key, row / temperature))
    return draw(row_keys, logits).astype(jnp.int32)

  def step(carry, i):
    logits, cache = carry
    level = i % levels
    token = choose(logits, known.shape[1] + i) + offsets[level]
    rows = jnp.concatenate([token, token]) if guidance else token
    logits, cache = scores(rows[:, None], (i + 1) % levels, cache)
    return (logits, cache), token

  length = prompt.shape[1] + num_new
  cache = model.apply(variables, prompt.shape[0], length, method="init_cache")
  carry = scores(prompt, jnp.int32(0), cache)
  _, tokens = jax.lax.scan(step, carry, jnp.arange(num_new))
  return tokens.T


def _nulls(model: TokenLM, conditions: jax.Array) -> jax.Array:
  """Null ids [batch, condition tokens] in the place of the conditions, stream by stream."""
  bounds = [
    (model.vocabulary.first_id(s), model.vocabulary.null(s), s) for s in model.stage.conditions
  ]
  nulls = conditions
  for first, null, stream in bounds:
    inside = (conditions >= first) & (
      conditions < first + stream.num_quantizers * stream.codebook_size
    )
    nulls = jnp.where(inside, null, nulls)
  return nulls
