"""w2v-BERT: frames, masks, its contrastive loss against NumPy and learning."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from musiclm_jax.tokenizers.conformer import Conformer
from musiclm_jax.tokenizers.quantizer import ResidualQuantizer
from musiclm_jax.tokenizers.w2v_bert import FrontEnd, W2vBert, contrastive_loss, span_mask

CONFORMER = {
  "num_layers": 2,
  "num_heads": 2,
  "head_dim": 8,
  "mlp_dim": 32,
  "kernel_size": 3,
  "dropout_rate": 0.0,
  "num_buckets": 8,
  "max_distance": 16,
  "remat": False,
  "unroll": False,
  "dtype": "float32",
}
FRONT_END = {
  "sample_rate": 24000,
  "window": 600,
  "hop": 240,
  "num_mels": 80,
  "channels": 4,
  "embed_dim": 16,
  "dtype": "float32",
}


def clusters(size):
  return ResidualQuantizer(1, size, 320, 1.0, 0.0, 5, False)


def encoder(**changes) -> W2vBert:
  fields = {
    "front_end": FrontEnd(**FRONT_END),
    "contrastive": Conformer(**CONFORMER),
    "masked": Conformer(**CONFORMER),
    "quantizer": clusters(12),
    "code_dim": 8,
    "start_rate": 0.065,
    "span": 10,
    "num_distractors": 100,
    "temperature": 0.1,
  }
  return W2vBert(**fields | changes)


def abstract(model, samples):
  batch = {"waveform": jax.ShapeDtypeStruct((2, samples), jnp.float32)}
  return jax.eval_shape(lambda key, b: model.init(key, b, train=False), jax.random.key(0), batch)


def filled(model, samples):
  """Variables without compiling the initialization, which would take longer than all the rest."""
  rng = np.random.default_rng(1)
  shapes = nn.unbox(abstract(model, samples))
  params = jax.tree.map(lambda p: rng.normal(0, 0.4, p.shape).astype(p.dtype), shapes["params"])
  codebooks = dict(shapes["codebooks"]["quantizer"])
  vectors = rng.normal(0, 0.4, codebooks["vectors"].shape).astype(np.float32)
  codebooks = {
    "vectors": vectors,
    "sums": vectors,
    "counts": np.ones(codebooks["counts"].shape, np.float32),
    "initialised": np.zeros((), codebooks["initialised"].dtype),  # k-means on the first batch
  }
  return {"params": params, "codebooks": {"quantizer": codebooks}}


@functools.cache
def tiny():
  """A model, its parameters, and one compiled step to ((loss, metrics), gradients)."""
  model = encoder()

  @jax.jit
  def step(variables, waveform, key):
    def loss(params):
      (loss, metrics), _ = model.apply(
        {**variables, "params": params},
        {"waveform": waveform},
        train=True,
        rngs={"dropout": key},
        mutable=["codebooks"],
      )
      return loss, metrics

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])

  return model, filled(model, 960), step


@pytest.fixture
def waveform(rng):
  return rng.normal(size=(8, 30 * 960)).astype(np.float32)


def test_one_conformer_in_both_places_is_refused():
  one = encoder().masked
  with pytest.raises(ValueError, match="share their weights"):
    abstract(encoder(contrastive=one, masked=one), 960)


@pytest.mark.parametrize("samples", [960, 7 * 960 + 959])
def test_frames_are_samples_over_960(samples):
  model = encoder()
  waveform = jax.ShapeDtypeStruct((3, samples), jnp.float32)
  for layer in range(3):
    out = jax.eval_shape(
      lambda v, w, layer=layer: model.apply(v, w, layer, method="embed"),
      nn.unbox(abstract(model, samples)),
      waveform,
    )
    assert out.shape == (3, samples // 960, 16) and out.dtype == jnp.float32


@pytest.mark.slow
def test_the_front_end_hears_each_frame_in_its_place(rng):
  model = FrontEnd(**FRONT_END)
  waveform = 0.1 * rng.normal(size=(1, 20 * 960)).astype(np.float32)
  changed = waveform.copy()
  changed[:, 10 * 960 : 11 * 960] += 0.5
  heard, other = (model.apply({}, w, method="spectrogram") for w in (waveform, changed))
  v = nn.unbox(model.init(jax.random.key(0), heard))
  moved = np.abs(model.apply(v, heard) - model.apply(v, other)).max(axis=(0, 2)) > 1e-4
  assert moved[10] and set(np.flatnonzero(moved)) <= {9, 10, 11}


@pytest.mark.slow
def test_what_gives_no_frame_or_is_no_layer_raises(rng):
  model = encoder()
  v = filled(model, 960)
  with pytest.raises(ValueError, match="wanted a waveform of 960 samples or more, found 959"):
    model.apply(v, np.zeros((1, 959), np.float32), 1, method="embed")
  with pytest.raises(ValueError, match="wanted a layer of 0..2, found 3"):
    model.apply(v, np.zeros((1, 960), np.float32), 3, method="embed")


def test_masks_are_spans_of_the_rate_of_the_paper():
  mask = np.asarray(span_mask(jax.random.key(0), (400, 250), start_rate=0.065, span=10))
  # a frame behind the first nine is left out by ten starts that did not happen
  assert abs(mask[:, 9:].mean() - (1 - (1 - 0.065) ** 10)) < 0.01
  for row in mask[:50]:
    edges = np.flatnonzero(np.diff(np.r_[0, row, 0]))
    lengths, ends = edges[1::2] - edges[::2], edges[1::2]
    assert ((lengths >= 10) | (ends == 250)).all()


def test_contrastive_loss_is_that_of_its_definition(rng):
  scores, codes = rng.normal(size=(3, 8, 8)), rng.integers(0, 3, (3, 8))
  masked = rng.random((3, 8)) < 0.7
  codes[2] = 1  # a clip of one code has no distractor
  loss, counted = contrastive_loss(
    jnp.asarray(scores), jnp.asarray(codes), jnp.asarray(masked), num_distractors=5
  )
  for b in range(3):
    for t in range(8):
      others = [s for s in range(8) if masked[b, s] and codes[b, s] != codes[b, t]]
      assert counted[b, t] == (masked[b, t] and len(others) > 0)
      if counted[b, t]:
        own = np.exp(scores[b, t, t])
        mean = np.mean([np.exp(scores[b, t, s]) for s in others])
        np.testing.assert_allclose(loss[b, t], -np.log(own / (own + 5 * mean)), rtol=1e-4)


def test_equal_scores_give_the_contrastive_chance():
  codes, masked = jnp.arange(6).reshape(1, 6), jnp.ones((1, 6), bool)
  loss, counted = contrastive_loss(jnp.zeros((1, 6, 6)), codes, masked, num_distractors=100)
  np.testing.assert_allclose(loss, np.full((1, 6), np.log(101)), rtol=1e-5)
  assert counted.all()


@pytest.mark.slow
def test_a_masked_frame_gives_no_information_and_all_others_do(rng):
  model = encoder()
  spectrogram = rng.normal(size=(2, 40, 320)).astype(np.float32)
  variables = filled(model, 960)
  features = FrontEnd.__call__

  def named(moved):
    # what the front end gives, moved: the mask is drawn behind it
    def shifted(self, x):
      return features(self, x) + moved

    FrontEnd.__call__ = shifted
    try:
      (_, metrics), state = model.apply(
        variables,
        {"waveform": np.zeros((2, 40 * 960), np.float32)},
        train=False,
        capture_intermediates=lambda m, _: m.name == "head",
      )
    finally:
      FrontEnd.__call__ = features
    logits = state["intermediates"]["head"]["__call__"][0]
    return (logits**3).sum(), metrics["masked_loss"][1]

  gradient, weight = jax.grad(named, has_aux=True)(spectrogram[:, :, :16])
  silent = (np.asarray(gradient) == 0).all(axis=-1)
  assert 0 < silent.sum() == weight < 80


@pytest.mark.slow
def test_metrics_are_consistent_and_name_chance(waveform):
  _, variables, step = tiny()
  (loss, metrics), _ = step(variables, waveform, jax.random.key(0))
  mean = {name: float(total / weight) for name, (total, weight) in metrics.items()}
  wanted = mean["contrastive_loss"] + mean["masked_loss"]
  np.testing.assert_allclose([loss, mean["loss"]], wanted, rtol=1e-5)
  np.testing.assert_allclose(mean["chance"], np.log(12) + np.log(101), rtol=1e-5)
  assert 1 <= mean["code_perplexity"] <= 12 and 1 / 12 <= mean["most_frequent_share"] <= 1
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((loss, metrics)))


@pytest.mark.slow
def test_every_parameter_has_a_gradient(waveform):
  _, variables, step = tiny()
  for path, leaf in jax.tree_util.tree_leaves_with_path(
    step(variables, waveform, jax.random.key(0))[1]
  ):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


@pytest.mark.slow
def test_training_draws_new_masks_and_validation_repeats_its_own(waveform):
  model, variables, step = tiny()
  losses = [float(step(variables, waveform, jax.random.key(key))[0][0]) for key in (1, 2)]
  assert losses[0] != losses[1]
  validate = jax.jit(lambda v: model.apply(v, {"waveform": waveform}, train=False)[0])
  assert validate(variables) == validate(variables)


@pytest.mark.slow
def test_it_overfits_one_batch(rng):
  seconds = np.arange(3 * 24000) / 24000
  pitches = 220 * 2 ** (rng.permutation(24)[:8].reshape(4, 2) / 6)  # two in each clip
  waveform = 0.3 * np.sin(2 * np.pi * np.repeat(pitches, 36000, axis=1) * seconds)
  batch = {"waveform": waveform.astype(np.float32)}
  model, optimizer = encoder(), optax.adam(1e-2)
  variables = dict(
    nn.unbox(jax.jit(lambda key: model.init(key, batch, train=False))(jax.random.key(0)))
  )
  params = variables.pop("params")
  state = optimizer.init(params)

  @jax.jit
  def step(params, collections, state, key):
    def loss(params):
      (loss, metrics), collections_ = model.apply(
        {"params": params, **collections},
        batch,
        train=True,
        rngs={"dropout": key},
        mutable=["codebooks"],
      )
      return loss, (metrics, collections_)

    (_, (metrics, news)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), news, state, metrics

  losses = []
  for index in range(150):
    params, variables, state, metrics = step(params, variables, state, jax.random.key(index))
    losses.append({name: float(total / weight) for name, (total, weight) in metrics.items()})
  first, last = losses[0], losses[-1]
  assert last["loss"] < 0.7 * first["chance"]
  assert last["masked_accuracy"] > 2 * last["most_frequent_share"]
  assert last["code_perplexity"] > 4
