"""The decoder of the stage models in T5X (github.com/google-research/t5x), for train_step.py.

The DecoderOnlyModel of examples/decoder_only with T5X's Adafactor and the step of its Trainer, with
the settings of models/base.gin and the sizes of train_step.py. Attention weights have dropout too;
otherwise the arithmetic is the same as here. T5X is not on PyPI; train_step.py measures it where it
is installed.
"""

import jax
import jax.numpy as jnp
import seqio
from t5x import adafactor, models, train_state, trainer
from t5x.examples.decoder_only import network


def train_step(size: dict):
  """A function from tokens [batch, length] to the loss of one step of training."""
  decoder = network.TransformerConfig(
    vocab_size=size["vocab_size"],
    emb_dim=size["embed_dim"],
    num_heads=size["num_heads"],
    num_layers=size["num_layers"],
    head_dim=size["embed_dim"] // size["num_heads"],
    mlp_dim=size["mlp_dim"],
    mlp_activations=("gelu", "linear"),
    dropout_rate=size["dropout"],
    logits_via_embedding=True,
  )
  optimizer = adafactor.Adafactor(
    decay_rate=0.8, step_offset=0, logical_factor_rules=adafactor.standard_logical_factor_rules()
  )
  vocabulary = seqio.PassThroughVocabulary(size["vocab_size"])
  model = models.DecoderOnlyModel(network.DecoderWrapper(decoder), vocabulary, optimizer)
  rng, state = jax.random.key(0), None

  @jax.jit
  def init(rng, tokens):
    variables = model.get_initial_variables(rng, {"decoder_input_tokens": tokens.shape})
    return train_state.FlaxOptimTrainState.create(optimizer, variables)

  def update(state, tokens, rng):
    batch = {
      "decoder_target_tokens": tokens,
      "decoder_input_tokens": jnp.pad(tokens[:, :-1], ((0, 0), (1, 0))),
      "decoder_loss_weights": jnp.ones_like(tokens),
    }
    state, metrics = trainer.train_with_lr(state, batch, 0.01, rng, model, num_microbatches=None)
    return state, metrics["loss"].compute() / tokens.size

  update = jax.jit(update, donate_argnums=0)

  def step(tokens) -> float:
    nonlocal state
    state = init(rng, tokens) if state is None else state
    state, loss = update(state, tokens, jax.random.fold_in(rng, state.step))
    return float(loss)

  return step
