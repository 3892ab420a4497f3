"""The stage model's contracts in every pattern: decoding equals the whole pass, causality."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from musiclm_jax.attention import RelativeBias
from musiclm_jax.lm import patterns
from musiclm_jax.lm.sampling import Sampling, likeliest
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
MODELS = [MODEL, MODEL.clone(stage=dataclasses.replace(STAGE, pattern="delayed"))]
each_pattern = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stage.pattern)


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


@functools.partial(jax.jit, static_argnames=("method", "model", "train", "frames", "settings"))
def apply(variables, *args, model=MODEL, **options):
  return model.apply(variables, *args, **options)


@each_pattern
def test_decoding_equals_the_whole_pass(variables, model):
  """From two known frames on, position by position, and from the beginning."""
  inputs = random_batch()["decoder_input_tokens"]
  whole = apply(variables, inputs, model=model, method="logits")  # [4, 10, 2, 12]
  places = patterns.layout(model.stage, 0.2)
  for known in (4, 0):
    cache = model.apply(variables, 4, len(places.inputs), method="init_cache")
    position, start = places.start(known), 0
    while position < len(places.inputs):
      read, heads = places.inputs[start : position + 1], places.outputs[position]
      tokens = np.where(read >= 0, inputs[:, read], -1)
      levels = jnp.asarray(heads % 2)
      scores, cache = apply(variables, tokens, levels, cache, model=model, method="step")
      for head, token in enumerate(heads):
        if token >= 0:
          np.testing.assert_allclose(scores[:, head], whole[:, token // 2, token % 2], atol=1e-5)
      start = position = position + 1


@each_pattern
def test_scores_depend_on_no_token_that_comes_later(variables, model):
  """Of the target: a frame on earlier frames and, of its own, on lower levels; in the delayed
  pattern also on lower levels of the frame before the upper ones.
  """
  inputs = random_batch(rows=1)["decoder_input_tokens"]
  begin = 1 + STAGE.condition_length
  base = np.asarray(apply(variables, inputs, model=model, method="logits"))[0]
  for token in range(19):  # the last is never read
    changed = inputs.copy()
    changed[0, begin + token] += (
      1 if (inputs[0, begin + token] - VOCABULARY.first_id(COARSE)) % 12 < 11 else -1
    )
    moved = np.abs(np.asarray(apply(variables, changed, model=model, method="logits"))[0] - base)
    moved = moved.max(axis=-1) > 1e-7
    frame, level = divmod(token, 2)
    frames, levels = np.indices((10, 2))
    if model.stage.pattern == "flat":
      later = frames * 2 + levels > token
    else:
      later = frames + levels > frame + level  # a step later
    np.testing.assert_array_equal(moved, later)


def test_the_delayed_pattern_adds_the_condition_of_the_same_time(variables):
  """A frame of 25 Hz reaches the target's frames of its time and after, and none before."""
  model, inputs = MODELS[1], random_batch(rows=1)["decoder_input_tokens"]
  base = np.asarray(apply(variables, inputs, model=model, method="logits"))[0]
  for frame in range(5):
    changed = inputs.copy()
    place = 1 + 3 + frame
    changed[0, place] = VOCABULARY.null(SEMANTIC)
    moved = np.abs(np.asarray(apply(variables, changed, model=model, method="logits"))[0] - base)
    first = np.argwhere(moved.max(axis=-1) > 1e-7).min(axis=0)
    assert first[0] == max(2 * frame - 1, 0)  # level 1 of a frame comes a step after level 0


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


@pytest.mark.slow
def test_one_stream_is_dropped_alone(variables):
  """Of the first condition nothing matters, the second one does."""
  one, other = random_batch(seed=1), random_batch(seed=2)["decoder_input_tokens"]
  first, second = (stream.length(STAGE.crop_seconds) for stream in STAGE.conditions)
  conditions = (dataclasses.replace(MULAN, dropout=1.0), SEMANTIC)
  stage = dataclasses.replace(STAGE, conditions=conditions)
  model = MODEL.clone(stage=stage, condition_dropout=0.0)
  losses = []
  for span in (slice(0), slice(1, 1 + first), slice(1 + first, 1 + first + second)):
    batch = one | {"decoder_input_tokens": one["decoder_input_tokens"].copy()}
    batch["decoder_input_tokens"][:, span] = other[:, span]
    rngs = {"dropout": jax.random.key(0)}
    losses.append(float(apply(variables, batch, model=model, train=True, rngs=rngs)[0]))
  assert losses[0] == losses[1] and abs(losses[0] - losses[2]) > 1e-6


def draw(variables, batch, model=MODEL, **changes):
  """Ids [batch, 14] after three known frames."""
  settings = Sampling("coarse", 1.0, 0.0, 0.5)
  rows = len(batch["decoder_target_tokens"])
  keys = jax.vmap(jax.random.key)(jnp.arange(rows) + 7)
  return np.asarray(
    apply(
      variables,
      jnp.asarray(batch["decoder_target_tokens"][:, :8]),
      jnp.asarray(batch["decoder_target_tokens"][:, 8:14]),
      keys,
      model=model,
      method="generate",
      frames=10,
      settings=dataclasses.replace(settings, **changes),
    )
  )


@pytest.mark.slow
@each_pattern
def test_samples_depend_on_their_own_key_alone(variables, model):
  batch = random_batch()
  four = draw(variables, batch, model)
  np.testing.assert_array_equal(four, draw(variables, batch, model))
  one = draw(variables, {name: value[:1] for name, value in batch.items()}, model)
  np.testing.assert_array_equal(four[:1], one)


@pytest.mark.slow
@each_pattern
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_greedy_sampling_is_the_argmax_of_the_whole_pass(variables, model, guidance):
  """With guidance, of (1 + w) conditioned - w unconditional."""
  batch = random_batch()
  tokens = draw(variables, batch, model, temperature=0.0, guidance=guidance)
  whole = np.concatenate([batch["decoder_target_tokens"][:, :14], tokens], axis=1)
  inputs = np.pad(whole, ((0, 0), (1, 0)))[:, :-1]
  scores = apply(variables, inputs, model=model, method="logits")
  if guidance:
    nulls = [VOCABULARY.null(MULAN)] * 3 + [VOCABULARY.null(SEMANTIC)] * 5
    inputs[:, 1:9] = nulls
    unconditional = apply(variables, inputs, model=model, method="logits")
    assert (scores.argmax(-1) != unconditional.argmax(-1)).any()
    scores = (1 + guidance) * scores - guidance * unconditional
  best = flatten(np.asarray(scores.argmax(-1)), VOCABULARY.offsets(COARSE))
  np.testing.assert_array_equal(best[:, 6:], tokens)


@pytest.mark.slow
@each_pattern
def test_draws_follow_the_scores(variables, model):
  """The first codes after three known frames have the frequencies of their softmax."""
  batch = {name: np.repeat(value, 400, axis=0) for name, value in random_batch(rows=1).items()}
  drawn = draw(variables, batch, model, temperature=0.3)[:, 0] - VOCABULARY.first_id(COARSE)
  inputs = batch["decoder_input_tokens"][:1]
  scores = apply(variables, inputs, model=model, method="logits")[0, 3, 0]
  wanted = jax.nn.softmax(scores / 0.3)
  assert np.abs(np.bincount(drawn, minlength=12) / 400 - wanted).sum() < 0.2
  for other in (np.full(12, 1 / 12), jax.nn.softmax(scores)):  # of other temperatures
    assert np.abs(other - wanted).sum() > 0.4


def test_settings_that_make_no_sense_are_refused():
  for name, value in (
    ("temperature", -1.0),
    ("temperature", float("nan")),
    ("guidance", -3.0),
    ("guidance", float("inf")),
    ("stride_fraction", 0.0),
    ("stride_fraction", 1.1),
    ("top_k", -1),
    ("top_p", 0.0),
  ):
    with pytest.raises(ValueError, match=f"stage coarse: {name}: wanted .*, found {value}"):
      dataclasses.replace(Sampling("coarse", 1.0, 0.0, 0.5), **{name: value})


def test_the_likeliest_codes_alone_are_drawn_from(rng):
  scores = rng.normal(0, 2, (20, 3, 11)).astype(np.float32)
  order = np.argsort(-scores, axis=-1)
  shares = np.take_along_axis(np.asarray(jax.nn.softmax(scores, axis=-1)), order, axis=-1)
  for top_k in (1, 4, 11, 50):
    kept = np.isfinite(np.asarray(likeliest(jnp.asarray(scores), top_k, 1.0)))
    ranked = np.take_along_axis(kept, order, axis=-1)
    assert (ranked == (np.arange(11) < top_k)).all()
  for top_p in (0.01, 0.5, 0.9):
    kept = np.isfinite(np.asarray(likeliest(jnp.asarray(scores), 0, top_p)))
    ranked = np.take_along_axis(kept, order, axis=-1)
    mass, least = (ranked * shares).sum(-1), np.where(ranked, shares, 2.0).min(-1)
    assert (mass >= top_p - 1e-6).all() and (mass - least < top_p).all()  # one less would not do
    assert (ranked[..., :-1] >= ranked[..., 1:]).all()
  np.testing.assert_array_equal(likeliest(jnp.asarray(scores), 0, 1.0), scores)


@pytest.mark.slow
@each_pattern
def test_overfits_one_batch_and_moves_every_parameter(variables, model):
  batch, optimizer = random_batch(rows=2), optax.adam(1e-2)
  model = model.clone(condition_dropout=0.0)

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


@pytest.mark.slow
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
