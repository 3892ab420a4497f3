"""The token model of every stage: a decoder over one vocabulary (MusicLM Section 3.2).

Position fixes the quantizer, so the head scores a target position against the codebook of its level
alone: the level's slice of the one embedding table.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from musiclm_jax.partitioning import constrain
from musiclm_jax.tokens import Stage, Vocabulary
from musiclm_jax.transformer import Cache, Transformer


class TokenLM(nn.Module):
  """A stage model.

  A batch holds decoder_input_tokens, decoder_target_tokens [batch, length] int32 and
  decoder_loss_weights [batch, length], where length is stage.length and the inputs are the targets
  shifted right. `condition_dropout` is the share of examples that train with null conditions, which
  is what guidance needs at sampling. `z_loss` times the square of the log of the softmax's
  denominator is added to the loss, which keeps logits near 0 (PaLM, arXiv 2204.02311, Section 5).
  """

  stage: Stage
  vocabulary: Vocabulary
  decoder: Transformer
  condition_dropout: float
  z_loss: float

  def setup(self):
    shape = (self.vocabulary.size, self.decoder.embed_dim)
    init = nn.initializers.normal(1 / math.sqrt(self.decoder.embed_dim))
    init = nn.with_logical_partitioning(init, ("vocab", "embed"))
    self.table = self.param("table", init, shape)

  def _hidden(self, tokens, cache=None, train=False):
    scale = math.sqrt(self.decoder.embed_dim)  # the table is scaled for the head, not for the input
    x = self.table.astype(self.decoder.dtype)[tokens] * scale
    return self.decoder(x, cache=cache, train=train)

  @property
  def _levels(self) -> tuple[int, int, int]:
    target = self.stage.target
    return self.vocabulary.first_id(target), target.num_quantizers, target.codebook_size

  def _drop_conditions(self, tokens):
    """Input tokens with the conditions of some examples replaced by their null ids."""
    nulls = [
      jnp.full((stream.length(self.stage.crop_seconds),), self.vocabulary.null(stream))
      for stream in self.stage.conditions
    ]
    start, end = 1, 1 + self.stage.condition_length
    dropped = tokens.at[:, start:end].set(jnp.concatenate(nulls)[None].astype(tokens.dtype))
    drop = jax.random.bernoulli(
      self.make_rng("dropout"), self.condition_dropout, (tokens.shape[0], 1)
    )
    return jnp.where(drop, dropped, tokens)

  def logits(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    """Scores [batch, frames, num_quantizers, codebook_size] float32 of every target position.

    tokens [batch, length] are the decoder inputs of whole sequences.
    """
    hidden, _ = self._hidden(tokens, train=train)
    hidden = hidden[:, self.stage.condition_length :]
    first, levels, size = self._levels
    hidden = hidden.reshape(hidden.shape[0], -1, levels, hidden.shape[-1])
    table = self.table[first : first + levels * size].astype(hidden.dtype)
    table = table.reshape(levels, size, -1)
    return jnp.einsum("btqd,qkd->btqk", hidden, table, preferred_element_type=jnp.float32)

  def decode(self, tokens: jax.Array, level: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """Scores [batch, codebook_size] float32 of the token behind `tokens`, and the longer cache.

    tokens [batch, new] stand behind the cache's; `level` is the quantizer of the token to come.
    Prefill and step are the same call.
    """
    hidden, cache = self._hidden(tokens, cache)
    first, _, size = self._levels
    table = jax.lax.dynamic_slice_in_dim(self.table, first + level * size, size)
    table = table.astype(hidden.dtype)
    scores = jnp.einsum("bd,kd->bk", hidden[:, -1], table, preferred_element_type=jnp.float32)
    return scores, cache

  def init_cache(self, batch: int, length: int) -> Cache:
    """An empty cache for `length` tokens of `batch` sequences."""
    return self.decoder.init_cache(batch, length)

  def __call__(self, batch, train: bool):
    tokens = jnp.asarray(batch["decoder_input_tokens"])
    if train and self.condition_dropout and self.stage.conditions:
      tokens = self._drop_conditions(tokens)
    logits = self.logits(tokens, train)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    log_probs = logits - log_z[..., None]
    log_probs = constrain(log_probs, "batch", "length", None, None)
    first, levels, size = self._levels
    start = self.stage.condition_length
    shape = log_probs.shape[:3]
    offsets = first + size * jnp.arange(levels).reshape(1, 1, -1)
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
    """The step that samples a token for each of `rows` sequences as long as those of training.

    (function, arguments): function(params, *arguments) is (scores [rows, codebook_size], the longer
    cache); `arguments` are pairs of (abstract arrays, logical axes), the cache last.
    """
    cache = jax.eval_shape(lambda: self.decoder.init_cache(rows, self.stage.length))
    token, level = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((rows, 1), ()))

    def step(params, token, level, cache):
      return self.apply({"params": params}, token, level, cache, method="decode")

    axes = (None, "batch", "heads", None, None)
    return step, ((token, ("batch", None)), (level, ()), (cache, axes))
