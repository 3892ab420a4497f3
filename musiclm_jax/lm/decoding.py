"""Autoregressive decoding of a stage model: one prefill, then one step per position."""

import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.lm.patterns import layout
from musiclm_jax.lm.sampling import Sampling, draw, guided
from musiclm_jax.tokens import PAD, Stage, Vocabulary


def decode(
  model, variables, conditions, known, keys, against=None, *, frames: int, settings: Sampling
):
  """The target's token ids [batch, (frames - known frames) * levels] int32 after the known ones.

  conditions [batch, tokens] and known [batch, tokens] int32 as `sequences.sequence` makes them, the
  known ones whole frames; keys [batch] are one random key per row, so a row depends on no other.
  Guidance goes against the conditions `against` [batch, tokens], null ones where it is None.
  Every id is in its level's range. `model.step` scores positions, `model.init_cache` makes a cache.
  """
  stage, guidance = model.stage, settings.guidance
  places = layout(stage, frames / stage.target.frame_rate)
  offsets = jnp.asarray(model.vocabulary.offsets(stage.target))
  batch, count, levels = len(conditions), known.shape[1], stage.target.num_quantizers
  begin = 1 + conditions.shape[1]  # of the target among the decoder's inputs
  unknown = jnp.full((batch, frames * levels - count), PAD, jnp.int32)
  pad = jnp.full((batch, 1), PAD, jnp.int32)
  buffer = jnp.concatenate([pad, conditions, known, unknown], axis=1)
  if against is None:
    against = null_conditions(stage, model.vocabulary, frames / stage.target.frame_rate)[None]

  def score(buffer, inputs, heads, cache):
    """Scores [batch, heads, codebook_size] after the positions that read `inputs`."""
    if guidance:
      unconditional = buffer.at[:, 1:begin].set(against)
      buffer = jnp.concatenate([buffer, unconditional])
    tokens = jnp.where(inputs[None] >= 0, buffer[:, jnp.maximum(inputs, 0)], -1)
    scores, cache = model.apply(variables, tokens, heads % levels, cache, method="step")
    return guided(scores, guidance) if guidance else scores, cache

  def write(buffer, scores, heads):
    """The buffer with drawn codes at those tokens that are there and not known."""
    ids = draw(scores, settings, keys, heads) + offsets[heads % levels][None]
    where = jnp.where(heads >= count, begin + heads, buffer.shape[1])  # out of bounds: dropped
    return buffer.at[:, where].set(ids, mode="drop")

  start, end = places.start(count), len(places.outputs)
  cache = model.apply(variables, (2 if guidance else 1) * batch, end, method="init_cache")
  inputs, outputs = jnp.asarray(places.inputs), jnp.asarray(places.outputs)
  scores, cache = score(buffer, inputs[: start + 1], outputs[start], cache)

  def step(carry, position):
    buffer, scores, cache = carry
    buffer = write(buffer, scores, outputs[position])
    after = position + 1
    scores, cache = score(buffer, inputs[after][None], outputs[after], cache)
    return (buffer, scores, cache), None

  carry, _ = jax.lax.scan(step, (buffer, scores, cache), jnp.arange(start, end - 1))
  buffer, scores, _ = carry
  return write(buffer, scores, outputs[end - 1])[:, begin + count :]


def null_conditions(stage: Stage, vocabulary: Vocabulary, seconds: float) -> np.ndarray:
  """The null ids [condition tokens] int32 of a span's conditions."""
  nulls = [
    np.full((stream.length(seconds),), vocabulary.null(stream), np.int32)
    for stream in stage.conditions
  ]
  return np.concatenate([np.zeros((0,), np.int32), *nulls])
