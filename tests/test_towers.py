"""The towers: patches and positions of spectrograms, padding of texts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax.encoder import Encoder
from musiclm_jax.tokenizers.towers import (
  ResNet,
  SpectrogramTransformer,
  StatisticsTower,
  TextTower,
  bispectrum,
  harmonics,
  modulations,
  pitch_classes,
)


def encoder(norm_first):
  return Encoder(1, 2, 8, 16, 32, 0.0, norm_first, "none", False, "float32")


def filled(tower, x):
  rng = np.random.default_rng(1)
  shapes = nn.unbox(jax.eval_shape(tower.init, jax.random.key(0), x))
  return jax.tree.map(lambda p: rng.normal(0, 0.4, p.shape).astype(p.dtype), shapes)


@functools.partial(jax.jit, static_argnums=0)
def apply(tower, variables, x):
  return tower.apply(variables, x)


def spectrogram_tower(num_class_tokens=0, stride=(8, 8)):
  return SpectrogramTransformer(45, (8, 8), stride, num_class_tokens, encoder(norm_first=True))


def test_padding_changes_no_text_and_the_empty_text_has_an_embedding():
  tower = TextTower(30, 12, encoder(norm_first=False))
  short = np.array([[3, 4, 7], [3, 0, 0], [0, 0, 0]], np.int32)
  v = filled(tower, short)
  wanted = apply(tower, v, short)
  long = np.pad(short, ((0, 0), (0, 5)))
  np.testing.assert_allclose(apply(tower, v, long), wanted, atol=1e-5)
  v["params"]["table"][0] = np.nan  # the vector of padding cannot matter, of a first token it does
  np.testing.assert_allclose(apply(tower, v, long)[:2], wanted[:2], atol=1e-5)
  assert np.isfinite(wanted).all() and wanted.shape == (3, 16)


def test_a_text_of_too_many_tokens_is_refused():
  tower = TextTower(30, 12, encoder(norm_first=False))
  v = filled(tower, np.zeros((1, 12), np.int32))
  with pytest.raises(ValueError, match="wanted at most 12 tokens of text, found 13"):
    apply(tower, v, np.zeros((1, 13), np.int32))


def test_the_order_of_the_words_matters():
  tower = TextTower(30, 12, encoder(norm_first=False))
  texts = np.array([[3, 4, 7], [3, 7, 4]], np.int32)
  one, other = apply(tower, filled(tower, texts), texts)
  assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(("stride", "count"), [((8, 8), 5 * 2), ((4, 5), 10 * 2)])
@pytest.mark.parametrize("num_class_tokens", [0, 1, 2])
def test_every_patch_has_a_place(rng, stride, count, num_class_tokens):
  tower = spectrogram_tower(num_class_tokens, stride)
  x = rng.normal(size=(2, 45, 16)).astype(np.float32)
  v = filled(tower, x)
  assert v["params"]["position_embedding"].shape == (count + num_class_tokens, 16)
  assert apply(tower, v, x).shape == (2, 16)


def test_a_patch_is_what_lies_under_it(rng):
  tower = spectrogram_tower(stride=(4, 5))
  x = rng.normal(size=(1, 45, 16)).astype(np.float32)
  patches = np.asarray(tower._patches(jnp.asarray(x))).reshape(1, 10, 2, 8, 8)
  for column in range(10):
    for row in range(2):
      wanted = x[0, column * 4 : column * 4 + 8, row * 5 : row * 5 + 8]
      np.testing.assert_array_equal(patches[0, column, row], wanted)


def test_a_short_spectrogram_is_followed_by_zeros_and_a_long_one_refused(rng):
  tower = spectrogram_tower(1)
  x = rng.normal(size=(2, 30, 16)).astype(np.float32)
  v = filled(tower, x)
  padded = np.pad(x, ((0, 0), (0, 15), (0, 0)))
  np.testing.assert_allclose(apply(tower, v, x), apply(tower, v, padded), atol=1e-6)
  with pytest.raises(ValueError, match="at most 45 frames of 8 mels or more, found 46 frames"):
    apply(tower, v, np.zeros((1, 46, 16), np.float32))
  with pytest.raises(ValueError, match="found 45 frames of 7"):
    apply(tower, v, np.zeros((1, 45, 7), np.float32))


def test_the_residual_network_reads_any_length():
  tower = ResNet(stage_sizes=(1, 1), width=4, expansion=2, dtype="float32")
  shape = jax.ShapeDtypeStruct((2, 33, 16), jnp.float32)
  v = jax.eval_shape(lambda x: tower.init(jax.random.key(0), x), shape)
  assert jax.eval_shape(tower.apply, v, shape).shape == (2, 4 * 2 * 2)


def pulses(period, start, frames=200, bins=12):
  """A log spectrogram [1, frames, bins] with a note every `period` frames."""
  time = (np.arange(frames)[None, :, None] - start) % period
  return jnp.asarray(np.repeat(-0.2 * time, bins, axis=2), jnp.float32)


@pytest.mark.parametrize("period", [10, 20, 25])
def test_a_beat_is_a_peak_of_the_modulations_wherever_the_clip_begins(period):
  one, other = (modulations(pulses(period, start), 3, 200) for start in (0, 7))
  assert one.shape == (1, 3, 101)
  np.testing.assert_array_equal(one[0, :, 3 : 100 // 2].argmax(axis=1) + 3, [200 // period] * 3)
  np.testing.assert_allclose(one[..., 200 // period], other[..., 200 // period], atol=0.1)


def test_modulations_refuse_what_does_not_fit():
  for shape in ((1, 201, 12), (1, 200, 13)):
    with pytest.raises(
      ValueError, match="wanted at most 200 frames of a multiple of 3 bins, found"
    ):
      modulations(jnp.zeros(shape), 3, 200)


def test_pitch_classes_are_the_same_in_every_octave():
  x = np.full((2, 6, 40), -9.0, np.float32)
  x[0, :, 5], x[1, :, 5 + 24] = 0.0, 0.0
  found = np.asarray(pitch_classes(jnp.asarray(x), 12))
  assert found.shape == (2, 12)
  np.testing.assert_allclose(found.sum(axis=1), [1, 1], rtol=1e-5)
  np.testing.assert_allclose(found[0], found[1], atol=1e-5)
  assert found[0].argmax() == 5


@pytest.mark.parametrize("bins", [12, 24])
def test_the_bispectrum_tells_major_from_minor_in_every_key(rng, bins):
  step = bins // 12
  notes = rng.uniform(0.5, 1.0, 3)  # of root, third and fifth
  major, minor = np.full((2, bins), 0.02)
  major[[0, 4 * step, 7 * step]] = notes
  minor[[7 * step, 3 * step, 0]] = notes  # the mirror image
  keys = np.stack([np.roll(chord, step * k) for chord in (major, minor) for k in range(12)])
  found = np.asarray(bispectrum(jnp.asarray(keys, jnp.float32))).reshape(2, 12, 48)
  np.testing.assert_allclose(found, found[:, :1].repeat(12, axis=1), atol=1e-3)
  np.testing.assert_allclose(found[0, 0, :27], found[1, 0, :27], atol=1e-3)
  np.testing.assert_allclose(found[0, 0, 27:], -found[1, 0, 27:], atol=1e-3)
  assert np.abs(found[0, 0, 27:]).max() > 0.1


def test_harmonics_are_the_same_for_every_note():
  x = np.full((2, 5, 40), -6.0, np.float32)
  for clip, low in ((0, 8), (1, 20)):
    x[clip, :, low], x[clip, :, low + 12] = 0.0, -1.0
  found = np.asarray(harmonics(jnp.asarray(x), 4, 16))
  wanted = np.full(20, -6.0)
  wanted[4], wanted[16] = 0.0, -1.0
  np.testing.assert_allclose(found, [wanted, wanted], atol=1e-6)
  assert (np.asarray(harmonics(jnp.asarray(x), 30, 1))[0, :10] == 0).all()  # there are no such bins


def test_statistics_of_a_spectrogram_do_not_depend_on_where_it_begins(rng):
  tower = StatisticsTower(200, 12, 4, 12, 3, 2, 60, 1, 16, 32, 0.0, 0.95, 2.0, "float32")
  x = np.concatenate([np.asarray(pulses(20, start, bins=24)) for start in (0, 20, 40)])
  v = tower.init(jax.random.key(0), x)
  v = v | tower.apply(v, x, train=True, mutable=["batch_stats"])[1]
  found = apply(tower, v, x)
  assert found.shape == (3, 16) and np.isfinite(found).all()
  np.testing.assert_allclose(found[0], found[2], atol=1e-4)
  np.testing.assert_allclose(apply(tower, v, x[:1]), found[:1], atol=1e-4)  # whatever is beside it
  shorter = apply(tower, v, x[:, :150])
  assert shorter.shape == (3, 16) and np.abs(shorter - found).max() > 1e-3
