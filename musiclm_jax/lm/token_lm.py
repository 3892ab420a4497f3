"""The token model of every stage: a decoder over one vocabulary (MusicLM Section 3.2).

Position fixes the quantizer, so the head scores a target position against the codebook of its level
alone: the level's slice of the one embedding table.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.lm.decoding import decode, null_conditions
from musiclm_jax.lm.patterns import layout
from musiclm_jax.lm.sampling import Sampling
from musiclm_jax.partitioning import constrain
from musiclm_jax.ranges import Fraction, NonNegativeFloat
from musiclm_jax.tokenizers import inputs
from musiclm_jax.tokens import Stage, Vocabulary
from musiclm_jax.transformer import Cache, Transformer


class TokenLM(nn.Module):
  """A stage model.

  A batch holds decoder_input_tokens, decoder_target_tokens [batch, length] int32 and
  decoder_loss_weights [batch, length], where length is stage.length and the inputs are the targets
  shifted right. `condition_dropout` is the share of examples that train with null conditions, which
  is what guidance needs at sampling; the streams' own `dropout` is of each alone. `z_loss` times
  the square of the log of the softmax's denominator is added to the loss, which keeps logits near 0
  (PaLM, arXiv 2204.02311, Section 5).
  """

  stage: Stage
  vocabulary: Vocabulary
  decoder: Transformer
  condition_dropout: Fraction
  z_loss: NonNegativeFloat

  @property
  def methods(self) -> inputs.Methods:
    """What a trained stage can do; both take the number of frames and the settings too."""
    tokens = inputs.Tokens(self.vocabulary.size)
    arrays = (tokens, tokens, inputs.Keys())
    return {"generate": arrays, "generate_against": (tokens, *arrays)}

  def setup(self):
    shape = (self.vocabulary.size, self.decoder.embed_dim)
    init = nn.initializers.normal(1 / math.sqrt(self.decoder.embed_dim))
    init = nn.with_logical_partitioning(init, ("vocab", "embed"))
    self.table = self.param("table", init, shape)

  def _embed(self, tokens):
    """[batch, positions, embed]: the sums over tokens [batch, positions, width], -1 for none."""
    x = self.table.astype(self.decoder.dtype)[jnp.maximum(tokens, 0)]
    x = jnp.where(tokens[..., None] >= 0, x, 0).sum(axis=2)
    return x * math.sqrt(self.decoder.embed_dim)  # the table is scaled for the head

  @property
  def _codebooks(self):
    """The head of the target's levels [levels, codebook_size, embed]: their slice of the table."""
    target = self.stage.target
    first, levels = self.vocabulary.first_id(target), target.num_quantizers
    size = target.codebook_size
    table = self.table[first : first + levels * size].astype(self.decoder.dtype)
    return table.reshape(levels, size, -1)

  def _drop_conditions(self, tokens):
    """Input tokens with all or some conditions of some examples replaced by their null ids."""
    conditions, seconds = self.stage.conditions, self.stage.crop_seconds
    nulls = null_conditions(self.stage, self.vocabulary, seconds)
    lengths = np.array([stream.length(seconds) for stream in conditions])
    rates = np.array([[stream.dropout for stream in conditions]])
    every, each = jax.random.split(self.make_rng("dropout"))
    batch = tokens.shape[0]
    drop = jax.random.bernoulli(each, rates, (batch, len(conditions)))
    drop |= jax.random.bernoulli(every, self.condition_dropout, (batch, 1))
    drop = jnp.repeat(drop, lengths, axis=1, total_repeat_length=len(nulls))
    given = tokens[:, 1 : 1 + len(nulls)]
    return tokens.at[:, 1 : 1 + len(nulls)].set(jnp.where(drop, nulls[None], given))

  def logits(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    """Scores [batch, frames, num_quantizers, codebook_size] float32 of every target token.

    tokens [batch, length] are the decoder inputs of whole sequences, in any pattern.
    """
    stage, levels = self.stage, self.stage.target.num_quantizers
    places = layout(stage, stage.crop_seconds)
    if places.inputs.shape[1] == 1:  # each token is a position
      tokens = tokens[:, :, None]
    else:
      tokens = jnp.where(places.inputs[None] >= 0, tokens[:, places.inputs], -1)
    hidden, _ = self.decoder(self._embed(tokens), train=train)
    hidden = hidden[:, places.first :]
    if places.heads == 1:
      hidden = hidden.reshape(hidden.shape[0], -1, levels, hidden.shape[-1])
    else:
      frames = stage.target.frames(stage.crop_seconds)
      hidden = jnp.stack([hidden[:, level : level + frames] for level in range(levels)], axis=2)
    codebooks = self._codebooks
    return jnp.einsum("btqd,qkd->btqk", hidden, codebooks, preferred_element_type=jnp.float32)

  def step(self, tokens: jax.Array, levels: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """Scores [batch, heads, codebook_size] float32 after the positions of `tokens`, and the longer
    cache.

    tokens [batch, positions, width] follow the cache's positions, -1 for none (`patterns.Layout`);
    levels [heads] are the quantizers of the tokens to be scored. Prefill and step are one call.
    """
    hidden, cache = self.decoder(self._embed(tokens), cache=cache)
    codebooks = self._codebooks
    if len(levels) < len(codebooks):
      codebooks = codebooks[levels]
    last = hidden[:, -1]
    return jnp.einsum("bd,hkd->bhk", last, codebooks, preferred_element_type=jnp.float32), cache

  def init_cache(self, batch: int, positions: int) -> Cache:
    """An empty cache for `positions` positions of `batch` sequences."""
    return self.decoder.init_cache(batch, positions)

  def generate(
    self,
    conditions: jax.Array,
    known: jax.Array,
    keys: jax.Array,
    *,
    frames: int,
    settings: Sampling,
  ) -> jax.Array:
    """The target's ids [batch, (frames - known frames) * levels] after the known ones: `decode`."""
    model, variables = self.unbind()
    return decode(model, variables, conditions, known, keys, frames=frames, settings=settings)

  def generate_against(
    self, against: jax.Array, *arrays: jax.Array, frames: int, settings: Sampling
  ) -> jax.Array:
    """As `generate`, with guidance against other conditions [batch, tokens] than null ones."""
    model, variables = self.unbind()
    return decode(model, variables, *arrays, against, frames=frames, settings=settings)

  def __call__(self, batch, train: bool):
    tokens = jnp.asarray(batch["decoder_input_tokens"])
    conditions = self.stage.conditions
    if train and any(self.condition_dropout or stream.dropout for stream in conditions):
      tokens = self._drop_conditions(tokens)
    logits = self.logits(tokens, train)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    log_probs = logits - log_z[..., None]
    log_probs = constrain(log_probs, "batch", "length", None, None)
    target, start = self.stage.target, self.stage.condition_length
    levels, size = target.num_quantizers, target.codebook_size
    shape = log_probs.shape[:3]
    offsets = self.vocabulary.offsets(target).reshape(1, 1, -1)
    codes = batch["decoder_target_tokens"][:, start:].reshape(shape) - offsets
    weights = batch["decoder_loss_weights"][:, start:].reshape(shape).astype(jnp.float32)
    codes = jnp.clip(codes, 0, size - 1)  # padding, which has no weight
    nll = -jnp.take_along_axis(log_probs, codes[..., None], axis=-1)[..., 0] * weights
    right = (log_probs.argmax(-1) == codes) * weights
    total = weights.sum()
    loss = (nll + self.z_loss * log_z**2 * weights).sum() / jnp.maximum(total, 1.0)
    metrics = {
      "loss": (nll.sum(), total),
      "chance": (total * math.log(size), total),
      "accuracy": (right.sum(), total),
    }
    for level in range(levels):
      metrics[f"loss_level_{level}"] = (nll[:, :, level].sum(), weights[:, :, level].sum())
    return loss, metrics

  def decode_program(self, rows: int):
    """One step of `decode` for `rows` sequences as long as those of training, to be compiled.

    (function, arguments): function(params, *arguments) is (scores [rows, heads, codebook_size], the
    longer cache); `arguments` are pairs of (abstract arrays, logical axes), the cache last.
    """
    places = layout(self.stage, self.stage.crop_seconds)
    tokens = jax.ShapeDtypeStruct((rows, 1, places.inputs.shape[1]), jnp.int32)
    levels = jax.ShapeDtypeStruct((places.heads,), jnp.int32)
    cache = jax.eval_shape(lambda: self.decoder.init_cache(rows, len(places.outputs)))

    def step(params, tokens, levels, cache):
      return self.apply({"params": params}, tokens, levels, cache, method="step")

    cache_axes = (None, "batch", "heads", None, None)
    return step, ((tokens, ("batch", None, None)), (levels, (None,)), (cache, cache_axes))
