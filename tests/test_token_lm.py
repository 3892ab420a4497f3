"""The stage model's contracts: decoding equals the whole pass, ids stay in range, it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from musiclm_jax.attention import RelativeBias
from musiclm_jax.lm.sampling import sample
from musiclm_jax.lm.token_lm import TokenLM
from musiclm_jax.tokens import Stage, Stream, Vocabulary, flatten, unflatten
from musiclm_jax.transformer import Transformer
from tests import trainings

MULAN = Stream("mulan", "mulan", 0.0, 0, 3, 8)
SEMANTIC = Stream("semantic", "semantic", 25.0, 0, 1, 16)
COARSE = Stream("coarse", "acoustic", 50.0, 0, 2, 12)
VOCABULARY = Vocabulary((MULAN, SEMANTIC, COARSE))
STAGE = Stage("coarse", (MULAN, SEMANTIC), COARSE, 0.2)  # 3 + 5 conditions, 10 frames of 2 levels
DECODER = Transformer(
  num_layers=2,
  num_heads=2,
  head_dim=8,
  embed_dim=16,
  mlp_dim=32,
  dropout_rate=0.0,
  positions=RelativeBias(num_buckets=8, max_distance=16, causal=True),
  attention="blocks",
  query_block=16,
  remat="none",
  unroll=False,
  dtype="float32",
)
MODEL = TokenLM(STAGE, VOCABULARY, DECODER, condition_dropout=0.5, z_loss=0.0)


def test_rotary_positions_take_the_place_of_the_relative_bias():
  asked = trainings.load("tiny/coarse model/rotary", ATTENTION="splash", Z_LOSS=0.1)
  assert asked.model.decoder.attention == "splash" and asked.model.z_loss == 0.1
  rotary = trainings.load("tiny/coarse model/rotary")
  assert "positions" not in rotary.abstract_state.params["decoder"]
  assert "positions" in trainings.load("tiny/coarse").abstract_state.params["decoder"]


def random_batch(rows=4, seed=0):
  rng = np.random.default_rng(seed)
  streams = [(MULAN, 1), (SEMANTIC, 5), (COARSE, 10)]
  parts = [
    flatten(
      rng.integers(0, s.codebook_size, (rows, frames, s.num_quantizers)), VOCABULARY.offsets(s)
    )
    for s, frames in streams
  ]
  targets = np.concatenate(parts, axis=1).astype(np.int32)
  weights = (np.arange(STAGE.length) >= STAGE.condition_length).astype(np.int32)
  return {
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
    "decoder_loss_weights": np.tile(weights, (rows, 1)),
  }


@pytest.fixture(scope="module")
def variables():
  init = jax.jit(functools.partial(MODEL.init, train=False))
  return nn.unbox(init(jax.random.key(0), random_batch()))


@functools.partial(jax.jit, static_argnames=("method", "model", "train"))
def apply(variables, *args, model=MODEL, **options):
  return model.apply(variables, *args, **options)


def test_decoding_equals_the_whole_pass(variables):
  inputs = random_batch()["decoder_input_tokens"]
  whole = apply(variables, inputs, method="logits")  # [4, 10, 2, 12]
  cache = MODEL.apply(variables, 4, STAGE.length, method="init_cache")
  start = STAGE.condition_length + 1 + 4  # two frames are known
  scores, cache = apply(variables, inputs[:, :start], 0, cache, method="decode")
  for position in range(4, 19):
    frame, level = divmod(position, 2)
    np.testing.assert_allclose(scores, whole[:, frame, level], atol=1e-5)
    token = inputs[:, STAGE.condition_length + 1 + position][:, None]
    scores, cache = apply(variables, token, (position + 1) % 2, cache, method="decode")


@pytest.mark.slow
def test_loss_is_the_mean_over_the_target_alone(variables):
  batch = random_batch()
  loss, metrics = apply(variables, batch, train=False)
  logits = np.asarray(apply(variables, batch["decoder_input_tokens"], method="logits"))
  codes = unflatten(batch["decoder_target_tokens"][:, 8:], VOCABULARY.offsets(COARSE))
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  nll = -np.take_along_axis(log_probs, codes[..., None], -1)
  np.testing.assert_allclose(loss, nll.mean(), rtol=1e-5)
  assert metrics["loss"][1] == 4 * 20
  np.testing.assert_allclose(metrics["chance"][0] / metrics["chance"][1], np.log(12), rtol=1e-6)
  # a target without weight counts nothing, whatever it is
  batch["decoder_loss_weights"][:, -4:] = 0
  batch["decoder_target_tokens"][:, -4:] = 0
  loss, metrics = apply(variables, batch, train=False)
  np.testing.assert_allclose(loss, nll[:, :8].mean(), rtol=1e-5)
  assert metrics["loss"][1] == 4 * 16


@pytest.mark.slow
def test_dropped_conditions_do_not_matter(variables):
  one, other = random_batch(seed=1), random_batch(seed=2)
  other["decoder_input_tokens"][:, 9:] = one["decoder_input_tokens"][:, 9:]
  other["decoder_target_tokens"][:, 8:] = one["decoder_target_tokens"][:, 8:]
  always = MODEL.clone(condition_dropout=1.0)
  rngs = {"dropout": jax.random.key(0)}
  dropped = [apply(variables, b, model=always, train=True, rngs=rngs)[0] for b in (one, other)]
  np.testing.assert_allclose(*dropped, rtol=1e-6)
  kept = [apply(variables, b, train=False)[0] for b in (one, other)]
  assert abs(kept[0] - kept[1]) > 1e-6


def draw(variables, batch, **changes):
  settings = dict(num_new=14, temperature=1.0, guidance=0.0) | changes
  rows = len(batch["decoder_target_tokens"])
  keys = jax.vmap(jax.random.key)(jnp.arange(rows) + 7)
  return np.asarray(
    sample(
      MODEL,
      variables,
      jnp.asarray(batch["decoder_target_tokens"][:, :8]),
      jnp.asarray(batch["decoder_target_tokens"][:, 8:14]),
      keys,
      **settings,
    )
  )


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"guidance": 2.0}, {"temperature": 0.0}])
def test_samples_are_in_the_range_of_their_level(variables, changes):
  codes = unflatten(draw(variables, random_batch(), **changes), VOCABULARY.offsets(COARSE))
  assert codes.shape == (4, 7, 2)
  assert codes.min() >= 0 and codes.max() < 12


@pytest.mark.slow
def test_samples_depend_on_their_own_key_alone(variables):
  batch = random_batch()
  four = draw(variables, batch)
  np.testing.assert_array_equal(four, draw(variables, batch))
  one = draw(variables, {name: value[:1] for name, value in batch.items()})
  np.testing.assert_array_equal(four[:1], one)


@pytest.mark.slow
def test_greedy_sampling_is_the_argmax_of_the_whole_pass(variables):
  batch = random_batch()
  tokens = draw(variables, batch, temperature=0.0)
  whole = np.concatenate([batch["decoder_target_tokens"][:, :14], tokens], axis=1)
  inputs = np.pad(whole, ((0, 0), (1, 0)))[:, :-1]
  scores = apply(variables, inputs, method="logits")
  best = flatten(np.asarray(scores.argmax(-1)), VOCABULARY.offsets(COARSE))
  np.testing.assert_array_equal(best[:, 6:], tokens)


@pytest.mark.slow
def test_guidance_moves_the_scores_away_from_the_unconditioned(variables):
  batch = random_batch(rows=8)
  assert (draw(variables, batch) != draw(variables, batch, guidance=5.0)).any()


@pytest.mark.slow
def test_overfits_one_batch_and_moves_every_parameter(variables):
  batch, optimizer = random_batch(rows=2), optax.adam(1e-2)
  model = MODEL.clone(condition_dropout=0.0)

  @jax.jit
  def step(variables, state):
    grad = jax.value_and_grad(lambda v: model.apply(v, batch, train=True)[0])
    loss, grads = grad(variables)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(variables, updates), state, loss, grads

  state = optimizer.init(variables)
  first = None
  for _ in range(150):
    variables, state, loss, grads = step(variables, state)
    first = grads if first is None else first
  assert loss < 0.1
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(first))


def test_z_loss_is_added_to_the_gradient_and_not_to_the_metric():
  batch, variables = random_batch(), None
  plain = MODEL.clone(condition_dropout=0.0)
  variables = jax.jit(functools.partial(plain.init, train=False))(jax.random.key(0), batch)
  loss, metrics = plain.apply(variables, batch, train=False)
  more, same = plain.clone(z_loss=0.5).apply(variables, batch, train=False)
  logits = plain.apply(variables, jnp.asarray(batch["decoder_input_tokens"]), method="logits")
  weights = batch["decoder_loss_weights"][:, STAGE.condition_length :].reshape(logits.shape[:3])
  squares = (np.square(jax.nn.logsumexp(logits, axis=-1)) * weights).sum() / weights.sum()
  assert float(more - loss) == pytest.approx(0.5 * squares, rel=1e-4)
  assert float(same["loss"][0]) == float(metrics["loss"][0])
