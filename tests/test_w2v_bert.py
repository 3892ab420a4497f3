"""w2v-BERT: frames, masks, its contrastive loss against NumPy and learning."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from musiclm_jax.tokenizers.conformer import Conformer
from musiclm_jax.tokenizers.front_ends import LogMel, Views
from musiclm_jax.tokenizers.quantizer import ResidualQuantizer
from musiclm_jax.tokenizers.targets import Clusters, Learned
from musiclm_jax.tokenizers.views import Envelope, MelBands, Spectrum
from musiclm_jax.tokenizers.w2v_bert import W2vBert, contrastive_loss, span_mask

CONFORMER = {
  "num_layers": 2,
  "num_heads": 2,
  "head_dim": 8,
  "mlp_dim": 32,
  "kernel_size": 3,
  "dropout_rate": 0.0,
  "num_buckets": 8,
  "max_distance": 16,
  "remat": "none",
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


TARGETS = {
  "clusters": Clusters(
    "log_mel", ResidualQuantizer(1, 12, 320, 1.0, 0.0, None, 5, False), 8, "float32"
  ),
  "learned": Learned(12, 8, 2.0, 0.5, 0.999995, 0.9),
}
both_kinds = pytest.mark.parametrize("kind", TARGETS)


def encoder(kind="clusters", **changes) -> W2vBert:
  fields = {
    "front_end": LogMel(**FRONT_END),
    "contrastive": Conformer(**CONFORMER),
    "masked": Conformer(**CONFORMER),
    "targets": (TARGETS[kind],),
    "start_rate": 0.065,
    "span": 10,
    "num_distractors": 100,
    "temperature": 0.1,
    "contrastive_weight": 1.0,
    "diversity_weight": 0.1,
    "masked_weight": 1.0,
    "unmasked_weight": 0.0,
  }
  return W2vBert(**fields | changes)


def abstract(model, samples):
  batch = {"waveform": jax.ShapeDtypeStruct((2, samples), jnp.float32)}
  return jax.eval_shape(lambda key, b: model.init(key, b, train=False), jax.random.key(0), batch)


def filled(model, samples):
  """Variables without compiling the initialization, which would take longer than all the rest."""
  draw = np.random.default_rng(1).normal
  shapes = dict(nn.unbox(abstract(model, samples)))

  def floats(x, value):
    return value.astype(x.dtype) if x.dtype == jnp.float32 else np.zeros(x.shape, x.dtype)

  params = jax.tree.map(lambda x: floats(x, draw(0, 0.4, x.shape)), shapes.pop("params"))
  # variances are positive; codebooks wait for k-means on the first batch
  return {"params": params} | jax.tree.map(lambda x: floats(x, abs(draw(size=x.shape))), shapes)


@functools.cache
def tiny(kind="clusters"):
  """A model, its parameters, and one compiled step to ((loss, metrics), gradients)."""
  model = encoder(kind)
  return model, filled(model, 960), jax.jit(functools.partial(one_step, model))


def one_step(model, variables, waveform, key):
  """((loss, metrics), gradients)."""

  def loss(params):
    (loss, metrics), _ = model.apply(
      {**variables, "params": params},
      {"waveform": waveform},
      train=True,
      rngs={"dropout": key},
      mutable=nn.DenyList("params"),
    )
    return loss, metrics

  return jax.value_and_grad(loss, has_aux=True)(variables["params"])


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
  model = LogMel(**FRONT_END)
  waveform = 0.1 * rng.normal(size=(1, 20 * 960)).astype(np.float32)
  changed = waveform.copy()
  changed[:, 10 * 960 : 11 * 960] += 0.5
  hear = jax.jit(functools.partial(model.apply, {}, method="views"))
  heard, other = hear(waveform), hear(changed)
  v = nn.unbox(jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), heard))
  apply = jax.jit(functools.partial(model.apply, train=False))
  moved = np.abs(apply(v, heard) - apply(v, other)).max(axis=(0, 2)) > 1e-4
  assert moved[10] and set(np.flatnonzero(moved)) <= {9, 10, 11}


@pytest.mark.parametrize(
  "samples, layer, message",
  [
    (959, 1, "wanted a waveform of 960 samples or more, found 959"),
    (960, 3, "wanted a layer of 0..2, found 3"),
  ],
)
def test_what_gives_no_frame_or_is_no_layer_raises(samples, layer, message):
  model = encoder()
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      lambda v, w: model.apply(v, w, layer, method="embed"),
      nn.unbox(abstract(model, 960)),
      jax.ShapeDtypeStruct((1, samples), jnp.float32),
    )


def test_masks_are_spans_of_the_rate_of_the_paper():
  mask = np.asarray(span_mask(jax.random.key(0), (400, 250), start_rate=0.065, span=10))
  # a frame after the first nine is not masked where none of ten spans started
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

  def named(moved):
    # the front end's output, moved: the mask is drawn after it
    def shift(call, args, kwargs, context):
      out = call(*args, **kwargs)
      front_end = isinstance(context.module, LogMel) and context.method_name == "__call__"
      return out + moved if front_end else out

    with nn.intercept_methods(shift):
      (_, metrics), state = model.apply(
        variables,
        {"waveform": np.zeros((2, 40 * 960), np.float32)},
        train=False,
        capture_intermediates=lambda m, _: m.name == "heads_0",
      )
    logits = state["intermediates"]["heads_0"]["__call__"][0]
    return (logits**3).sum(), metrics["masked_loss_0"][1]

  gradient, weight = jax.jit(jax.grad(named, has_aux=True))(spectrogram[:, :, :16])
  silent = (np.asarray(gradient) == 0).all(axis=-1)
  assert 0 < silent.sum() == weight < 80


@pytest.mark.slow
@both_kinds
def test_metrics_are_consistent_and_name_chance(kind, waveform):
  _, variables, step = tiny(kind)
  (loss, metrics), _ = step(variables, waveform, jax.random.key(0))
  mean = {name: float(total / weight) for name, (total, weight) in metrics.items()}
  diversity = mean.get("diversity_loss_0", 0.0)
  wanted = mean["contrastive_loss_0"] + 0.1 * diversity + mean["masked_loss_0"]
  np.testing.assert_allclose([loss, mean["loss"]], wanted, rtol=1e-5)
  np.testing.assert_allclose(mean["chance"], np.log(12) + np.log(101), rtol=1e-5)
  assert 1 <= mean["code_perplexity_0"] <= 12 and 1 / 12 <= mean["most_frequent_share_0"] <= 1
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((loss, metrics)))


@pytest.mark.slow
@both_kinds
def test_every_parameter_has_a_gradient(kind, waveform):
  _, variables, step = tiny(kind)
  for path, leaf in jax.tree_util.tree_leaves_with_path(
    step(variables, waveform, jax.random.key(0))[1]
  ):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


@pytest.mark.slow
def test_losses_of_several_targets_add_up_and_each_teaches(waveform):
  bands = MelBands(20, 0.0, 12000.0)
  kinds = (
    Spectrum("notes", bands, 1024, 480, 0.3, 0.1, 1.0),
    Envelope("timbre", bands, 1024, 480, 6, 0.2, 0.001, 1.0),
  )
  clusters = [
    Clusters(kind.name, ResidualQuantizer(1, size, dim, 1.0, 0.0, None, 5, False), 8, "float32")
    for kind, size, dim in zip(kinds, (12, 7), (40, 6))
  ]
  front_end = Views(kinds, ("notes",), 24000, 960, 0.9, 16, 16, "float32")
  model = encoder(front_end=front_end, targets=tuple(clusters))
  variables = filled(model, 960)
  (loss, metrics), gradients = jax.jit(functools.partial(one_step, model))(
    variables, waveform, jax.random.key(0)
  )
  mean = {name: float(total / weight) for name, (total, weight) in metrics.items()}
  parts = [mean[f"{name}_loss_{index}"] for name in ("contrastive", "masked") for index in (0, 1)]
  np.testing.assert_allclose(loss, sum(parts), rtol=1e-5)
  np.testing.assert_allclose(mean["chance"], np.log(12 * 7) + 2 * np.log(101), rtol=1e-5)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_a_target_of_no_view_is_refused():
  target = Clusters("pitch", ResidualQuantizer(1, 12, 320, 1.0, 0.0, None, 5, False), 8, "float32")
  with pytest.raises(ValueError, match="view: wanted one of log_mel, found 'pitch'"):
    abstract(encoder(targets=(target,)), 960)


@pytest.mark.slow
def test_naming_the_codes_teaches_nothing_to_their_quantizer(waveform):
  model = encoder("learned", contrastive_weight=0.0)
  variables = filled(model, 960)

  def loss(params):
    inputs, rngs = {"waveform": waveform[:2]}, {"dropout": jax.random.key(0)}
    apply = functools.partial(model.apply, train=True, rngs=rngs, mutable=nn.DenyList("params"))
    return apply({**variables, "params": params}, inputs)[0][0]

  gradient = jax.jit(jax.grad(loss))(variables["params"])
  assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient["targets_0"]))
  assert np.abs(gradient["heads_0"]["kernel"]).max() > 0


@pytest.mark.slow
@both_kinds
def test_training_draws_new_masks_and_validation_repeats_its_own(kind, waveform):
  model, variables, step = tiny(kind)
  losses = [float(step(variables, waveform, jax.random.key(key))[0][0]) for key in (1, 2)]
  assert losses[0] != losses[1]
  validate = jax.jit(lambda v: model.apply(v, {"waveform": waveform}, train=False)[0])
  assert validate(variables) == validate(variables)


def overfit(model, rng, *, learning_rate: float, steps: int):
  """Mean metrics of the last 20 steps on four clips of two tones: masks are drawn anew in each."""
  seconds = np.arange(3 * 24000) / 24000
  pitches = 220 * 2 ** (rng.permutation(24)[:8].reshape(4, 2) / 6)
  waveform = 0.3 * np.sin(2 * np.pi * np.repeat(pitches, 36000, axis=1) * seconds)
  batch = {"waveform": waveform.astype(np.float32)}
  optimizer = optax.adam(learning_rate)
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
        mutable=nn.DenyList("params"),
      )
      return loss, (metrics, collections_)

    (_, (metrics, news)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), news, state, metrics

  means = []
  for index in range(steps):
    params, variables, state, metrics = step(params, variables, state, jax.random.key(index))
    means.append({name: float(total / weight) for name, (total, weight) in metrics.items()})
  return {name: np.mean([mean[name] for mean in means[-20:]]) for name in means[0]}


@pytest.mark.slow
def test_it_overfits_one_batch(rng):
  last = overfit(encoder(), rng, learning_rate=3e-3, steps=200)
  assert last["loss"] < 0.7 * last["chance"]
  assert last["masked_accuracy_0"] > 2 * last["most_frequent_share_0"]
  assert last["code_perplexity_0"] > 4


@pytest.mark.slow
def test_learned_codes_are_named_and_do_not_collapse(rng):
  """A wider model: logits of few features are too near to each other for codes to stay."""
  conformer = CONFORMER | {"num_layers": 1, "head_dim": 32, "mlp_dim": 128}
  model = encoder(
    "learned",
    front_end=LogMel(**FRONT_END | {"embed_dim": 64}),
    contrastive=Conformer(**conformer),
    masked=Conformer(**conformer),
  )
  last = overfit(model, rng, learning_rate=1e-3, steps=400)
  assert last["loss"] < 0.65 * last["chance"]
  assert last["masked_accuracy_0"] > 1.5 * last["most_frequent_share_0"]
  assert last["code_perplexity_0"] > 3
