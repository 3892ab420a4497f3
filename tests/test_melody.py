"""The melody encoder: pitch bands, transposition, mining against NumPy and learning."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from musiclm_jax.encoder import Encoder
from musiclm_jax.tokenizers.melody import LogPitch, MelodyEncoder, semi_hard_loss, transpose
from musiclm_jax.tokenizers.towers import SpectrogramTransformer

ENCODER = {
  "num_layers": 1,
  "num_heads": 2,
  "head_dim": 8,
  "embed_dim": 16,
  "mlp_dim": 32,
  "dropout_rate": 0.0,
  "norm_first": True,
  "remat": "none",
  "unroll": False,
  "dtype": "float32",
}
SAMPLES = 2048 + 15 * 512  # 16 frames


def encoder(**changes) -> MelodyEncoder:
  fields = {
    "log_pitch": LogPitch(24000, 2048, 512, 48, 12, 220.0),
    "tower": SpectrogramTransformer(20, (4, 48), (4, 48), 1, Encoder(**ENCODER)),
    "embed_dim": 12,
    "margin": 0.3,
    "max_shift": 5,
  }
  return MelodyEncoder(**fields | changes)


def abstract(model):
  batch = {
    "waveform": jax.ShapeDtypeStruct((2, SAMPLES), jnp.float32),
    "melody": jax.ShapeDtypeStruct((2,), jnp.int32),
  }
  return jax.eval_shape(lambda key, b: model.init(key, b, train=False), jax.random.key(0), batch)


@functools.cache
def tiny():
  """A model, its parameters, and one compiled step to ((loss, metrics), gradients)."""
  model, rng = encoder(), np.random.default_rng(1)

  @jax.jit
  def step(variables, batch, key):
    def loss(v):
      return model.apply(v, batch, train=True, rngs={"dropout": key})

    return jax.value_and_grad(loss, has_aux=True)(variables)

  shapes = nn.unbox(abstract(model))
  filled = jax.tree.map(lambda p: rng.normal(0, 0.4, p.shape).astype(p.dtype), shapes)
  return model, filled, step


@pytest.fixture
def batch(rng):
  labels = np.repeat(rng.permutation(4), 2).astype(np.int32)
  return {"waveform": rng.normal(size=(8, SAMPLES)).astype(np.float32), "melody": labels}


def tone(pitch, samples=SAMPLES):
  return (0.3 * np.sin(2 * np.pi * pitch * np.arange(samples) / 24000)).astype(np.float32)


@pytest.mark.parametrize("semitone", [3, 17, 40])
def test_a_tone_is_loudest_in_the_band_of_its_pitch(semitone):
  x = encoder().log_pitch(jnp.asarray(tone(220 * 2 ** (semitone / 12))[None]))
  assert x.shape == (1, 16, 48) and x.dtype == jnp.float32
  assert (np.asarray(x).argmax(axis=-1) == semitone).all()


def test_loudness_changes_no_spectrogram():
  waveform = jnp.asarray(tone(440.0)[None]) + 0.01 * jax.random.normal(
    jax.random.key(0), (1, SAMPLES)
  )
  front_end = encoder().log_pitch
  np.testing.assert_allclose(front_end(0.3 * waveform), front_end(waveform), atol=1e-3)


def test_each_band_sums_to_one_and_is_centred_on_its_pitch():
  front_end = LogPitch(24000, 4096, 480, 72, 12, 110.0)
  filters = front_end.filters()
  np.testing.assert_allclose(filters.sum(axis=0), np.ones(72), rtol=1e-5)
  means = np.fft.rfftfreq(4096, 1 / 24000) @ filters
  np.testing.assert_allclose(means, 110 * 2 ** (np.arange(72) / 12), rtol=0.02)


def test_bands_beyond_half_the_rate_and_too_short_input_raise():
  with pytest.raises(ValueError, match="wanted bands below 12000.0 Hz"):
    LogPitch(24000, 2048, 512, 80, 12, 220.0).filters()
  with pytest.raises(ValueError, match="wanted 2048 samples or more, found 2047"):
    encoder().log_pitch(jnp.zeros((1, 2047)))


def test_transposing_is_a_shift_of_bins_within_the_range(rng):
  x = rng.normal(size=(200, 3, 20)).astype(np.float32)
  found = np.asarray(transpose(jax.random.key(0), jnp.asarray(x), 2))
  shifts = set()
  for before, after in zip(x, found):
    matches = [s for s in range(-2, 3) if (after[:, 2:-2] == before[:, 2 + s : 18 + s]).all()]
    shifts.add(matches[0])
    index = np.clip(np.arange(20) + matches[0], 0, 19)
    np.testing.assert_array_equal(after, before[:, index])
  assert shifts == {-2, -1, 0, 1, 2}


def numpy_semi_hard(x, labels, margin):
  """FaceNet's Section 3.2, one triplet for each anchor."""
  out = []
  for a in range(len(x)):
    p = a ^ 1
    near = ((x[a] - x[p]) ** 2).sum()
    negatives = [((x[a] - x[n]) ** 2).sum() for n in range(len(x)) if labels[n] != labels[a]]
    farther = [d for d in negatives if d > near]
    if labels[a] != labels[p] or not negatives:
      out.append(None)
    else:
      out.append(max(near - (min(farther) if farther else max(negatives)) + margin, 0))
  return out


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2, 0, 0], [0, 0, 1, 2, 3, 3, 1, 1], [5] * 8])
def test_mining_finds_the_semi_hard_triplets(rng, labels):
  for _ in range(5):
    x = rng.normal(size=(8, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    loss, counted = semi_hard_loss(jnp.asarray(x), jnp.asarray(labels), 0.4)
    wanted = numpy_semi_hard(x, labels, 0.4)
    assert [value is not None for value in wanted] == counted.tolist()
    for value, found in zip(wanted, loss):
      if value is not None:
        np.testing.assert_allclose(found, value, atol=1e-5)


def test_equal_embeddings_lose_the_margin_and_an_odd_batch_raises():
  loss, _ = semi_hard_loss(jnp.ones((4, 1)), jnp.asarray([0, 0, 1, 1]), 0.2)
  np.testing.assert_allclose(loss, np.full(4, 0.2), rtol=1e-6)
  with pytest.raises(ValueError, match="wanted pairs of rows, found a batch of 3"):
    semi_hard_loss(jnp.ones((3, 1)), jnp.asarray([0, 0, 1]), 0.2)


@pytest.mark.slow
def test_metrics_are_consistent_and_gradients_complete(batch):
  _, variables, step = tiny()
  (loss, metrics), gradient = step(variables, batch, jax.random.key(0))
  mean = {name: float(total / weight) for name, (total, weight) in metrics.items()}
  np.testing.assert_allclose([mean["loss"], mean["chance"]], [loss, 0.3], rtol=1e-6)
  assert 0 <= mean["retrieval_accuracy"] <= 1 and 0 < mean["active_triplets"] <= 1
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


@pytest.mark.slow
def test_one_melody_alone_has_no_loss_and_no_nan(batch):
  _, variables, step = tiny()
  (loss, _), gradient = step(
    variables, batch | {"melody": np.zeros(8, np.int32)}, jax.random.key(0)
  )
  assert loss == 0 and all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_embeddings_have_length_one(rng):
  model, variables, _ = tiny()
  waveform = rng.normal(size=(3, SAMPLES + 1000)).astype(np.float32)
  found = jax.jit(lambda w: model.apply(variables, w, method="embed"))(waveform)
  assert found.shape == (3, 12) and found.dtype == jnp.float32
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.ones(3), rtol=1e-5)


@pytest.mark.slow
def test_it_overfits_one_batch(rng):
  melodies = 330 * 2 ** (rng.integers(0, 12, (4, 8)) / 12)
  waveform = [
    0.3 * np.sign(np.sin(phase)) if rendition else 0.3 * np.sin(2 ** (5 / 12) * phase)
    for melody in melodies
    for rendition in (0, 1)
    for phase in [2 * np.pi * np.repeat(melody, SAMPLES // 8) * np.arange(SAMPLES) / 24000]
  ]
  batch = {
    "waveform": np.stack(waveform).astype(np.float32),
    "melody": np.repeat(np.arange(4, dtype=np.int32), 2),
  }
  model, optimizer = encoder(), optax.adam(3e-3)
  variables = nn.unbox(jax.jit(lambda key: model.init(key, batch, train=False))(jax.random.key(0)))
  state = optimizer.init(variables)

  @jax.jit
  def step(variables, state, key):
    def loss(v):
      return model.apply(v, batch, train=True, rngs={"dropout": key})

    (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(variables)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(variables, updates), state, metrics

  for index in range(150):
    variables, state, metrics = step(variables, state, jax.random.key(index))
  mean = {name: float(total / weight) for name, (total, weight) in metrics.items()}
  assert mean["loss"] < 0.3 * mean["chance"] and mean["retrieval_accuracy"] == 1
