"""MuLan: its loss against NumPy, padding, temperature and learning."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from musiclm_jax.encoder import Encoder
from musiclm_jax.tokenizers.mulan import LogMel, MuLan, SpecAugment, decoupled_loss
from musiclm_jax.tokenizers.towers import ResNet, SpectrogramTransformer, TextTower

ENCODER = {
  "num_layers": 1,
  "num_heads": 2,
  "head_dim": 8,
  "embed_dim": 16,
  "mlp_dim": 32,
  "dropout_rate": 0.0,
  "remat": "none",
  "unroll": False,
  "dtype": "float32",
}
SAMPLES = 600 + 31 * 240  # 32 frames


def mulan(**changes) -> MuLan:
  fields = {
    "log_mel": LogMel(24000, 600, 240, 16, 0.0, 12000.0),
    "augment": SpecAugment(time_masks=1, time_width=4, mel_masks=1, mel_width=2),
    "audio_tower": SpectrogramTransformer(
      45, (8, 8), (8, 8), 0, Encoder(**ENCODER, norm_first=True)
    ),
    "text_tower": TextTower(30, 12, Encoder(**ENCODER, norm_first=False)),
    "embed_dim": 12,
    "initial_temperature": 0.1,
    "min_temperature": 0.01,
  }
  return MuLan(**fields | changes)


def abstract(model):
  batch = {
    "waveform": jax.ShapeDtypeStruct((2, SAMPLES), jnp.float32),
    "text": jax.ShapeDtypeStruct((2, 6), jnp.int32),
  }
  return jax.eval_shape(lambda key, b: model.init(key, b, train=False), jax.random.key(0), batch)


def filled(model):
  """Parameters without compiling the initialization, which would take longer than all the rest."""
  rng = np.random.default_rng(1)
  shapes = nn.unbox(abstract(model))
  return jax.tree.map(lambda p: rng.normal(0, 0.4, p.shape).astype(p.dtype), shapes)


@functools.cache
def tiny():
  """A model, its parameters, and one compiled step to ((loss, metrics), gradients)."""
  model = mulan()

  @jax.jit
  def step(variables, batch, key):
    def loss(v):
      return model.apply(v, batch, train=True, rngs={"dropout": key})

    return jax.value_and_grad(loss, has_aux=True)(variables)

  return model, filled(model), step


@pytest.fixture
def batch(rng):
  text = rng.integers(1, 30, (8, 6)).astype(np.int32)
  text[3, 2:] = 0
  text[5] = text[2]
  return {"waveform": rng.normal(size=(8, SAMPLES)).astype(np.float32), "text": text}


def test_decoupled_loss_is_that_of_the_paper(rng):
  similarity, caption = rng.uniform(-1, 1, (6, 6)), np.array([0, 1, 2, 1, 3, 4])
  same = caption[:, None] == caption[None, :]
  loss, counted = decoupled_loss(jnp.asarray(similarity), jnp.asarray(same), jnp.float32(0.3))
  h = np.exp(similarity / 0.3)
  for i in range(6):
    others = [j for j in range(6) if caption[j] != caption[i]]
    denominator = sum(h[i, j] + h[j, i] for j in others)
    np.testing.assert_allclose(loss[i], -np.log(h[i, i] / denominator), rtol=1e-4)
  assert counted.all()


@pytest.mark.slow
def test_a_batch_of_one_text_has_no_loss_and_no_nan(batch):
  _, variables, step = tiny()
  same = batch | {"text": np.repeat(batch["text"][:1], 8, axis=0)}
  (loss, metrics), gradient = step(variables, same, jax.random.key(0))
  assert loss == 0 and metrics["loss"][1] == 0
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_equal_texts_count_as_found_and_not_as_negatives(batch):
  _, variables, step = tiny()
  (loss, metrics), _ = step(variables, batch, jax.random.key(0))
  mean = {name: float(total / weight) for name, (total, weight) in metrics.items()}
  np.testing.assert_allclose(mean["loss"], loss, rtol=1e-6)
  wanted = (6 * np.log(2 * 7) + 2 * np.log(2 * 6)) / 8
  np.testing.assert_allclose(mean["chance"], wanted, rtol=1e-5)


def test_embeddings_have_length_one_whatever_the_input_is_long(rng):
  model, variables, _ = tiny()
  embed = jax.jit(lambda w: model.apply(variables, w, method="embed_audio"))
  for frames in (8, 45):
    waveform = rng.normal(size=(3, 600 + (frames - 1) * 240)).astype(np.float32)
    found = embed(waveform)
    assert found.shape == (3, 12) and found.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.ones(3), rtol=1e-5)


def test_inputs_that_fill_no_window_raise():
  model, variables, _ = tiny()
  with pytest.raises(ValueError, match="wanted 600 samples or more, found 599"):
    model.apply(variables, np.zeros((1, 599), np.float32), method="embed_audio")


@pytest.mark.parametrize("logit", [-1e4, -5.0, 0.0, 5.0, 1e4])
def test_the_temperature_stays_in_its_range(logit):
  model, variables, _ = tiny()
  params = variables["params"] | {"temperature_logit": jnp.float32(logit)}
  assert 0.01 <= model.apply({"params": params}, method="temperature") <= 1


def test_the_temperature_starts_where_it_was_asked_to():
  model = mulan(initial_temperature=0.07)
  start = model.clone().bind({}, rngs={"params": jax.random.key(0)}, mutable=["params"])
  np.testing.assert_allclose(start.temperature(), 0.07, rtol=1e-4)


@pytest.mark.slow
def test_every_parameter_has_a_gradient(batch):
  _, variables, step = tiny()
  for path, leaf in jax.tree_util.tree_leaves_with_path(
    step(variables, batch, jax.random.key(0))[1]
  ):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_masks_blank_whole_bands_of_the_widths_asked_for(rng):
  x = jnp.asarray(rng.normal(size=(64, 30, 20)))
  mask = SpecAugment(time_masks=1, time_width=6, mel_masks=1, mel_width=4)
  blank = np.asarray(mask(jax.random.key(0), x) == x.mean(axis=(1, 2), keepdims=True))
  frames, mels = blank.all(axis=2), blank.all(axis=1)
  assert (blank == (frames[:, :, None] | mels[:, None, :])).all()
  assert set(frames.sum(axis=1)) == set(range(7)) and set(mels.sum(axis=1)) == set(range(5))


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["transformer", "resnet"])
def test_it_overfits_one_batch(rng, tower):
  towers = {
    "transformer": SpectrogramTransformer(
      45, (8, 8), (8, 8), 0, Encoder(**ENCODER, norm_first=True)
    ),
    "resnet": ResNet(stage_sizes=(1, 1), width=8, expansion=1, dtype="float32"),
  }
  # without SpecAugment, which can blank the one band in which a tone lies
  model = mulan(audio_tower=towers[tower], augment=SpecAugment(0, 0, 0, 0))
  optimizer = optax.adam(1e-3)
  seconds = np.arange(SAMPLES) / 24000
  tones = 0.3 * np.sin(2 * np.pi * 110 * 2 ** (np.arange(8)[:, None] / 3) * seconds)
  batch = {"waveform": tones.astype(np.float32), "text": rng.integers(1, 30, (8, 6))}
  batch["text"] = batch["text"].astype(np.int32)
  variables = nn.unbox(jax.jit(lambda key: model.init(key, batch, train=False))(jax.random.key(0)))
  state = optimizer.init(variables)

  @jax.jit
  def step(variables, state, key):
    def loss(v):
      return model.apply(v, batch, train=True, rngs={"dropout": key})

    (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(variables)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(variables, updates), state, metrics

  for index in range(400):
    variables, state, _ = step(variables, state, jax.random.key(index))
  metrics = jax.jit(lambda v: model.apply(v, batch, train=False)[1])(variables)
  mean = {name: float(total / weight) for name, (total, weight) in metrics.items()}
  assert mean["loss"] < 0 and mean["audio_to_text_recall"] > 0.9
