"""The discriminators' shapes and sizes, and the three losses on logits and features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax.tokenizers import discriminators as d

PAPER_STFT = d.StftDiscriminator(1024, 256, 32, (1, 2, 4, 4, 8, 8), "float32")
PAPER_WAVE = d.WaveDiscriminator(16, 1024, 4, (4, 4, 4, 4), "float32")


def shapes(module, samples):
  waveform = jax.ShapeDtypeStruct((2, samples), jnp.float32)
  return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x), waveform)


def test_stft_discriminator_shrinks_time_by_8_and_frequency_by_64():
  (logits, features), _ = shapes(PAPER_STFT, 1024 + 63 * 256)
  assert logits.shape == (2, 64 // 8)
  sizes = [(64, 512, 32), (64, 256, 32), (32, 128, 64), (32, 64, 128)]
  sizes += [(16, 32, 128), (16, 16, 256), (8, 8, 256)]
  assert [f.shape[1:] for f in features] == sizes


def test_wave_discriminator_shrinks_time_by_256_and_widens_by_4():
  (logits, features), variables = shapes(PAPER_WAVE, 4096)
  assert logits.shape == (2, 16)
  sizes = [(4096, 16), (1024, 64), (256, 256), (64, 1024), (16, 1024), (16, 1024)]
  assert [f.shape[1:] for f in features] == sizes
  # groups of 4 channels
  assert variables["params"]["conv_3"]["kernel"].value.shape == (41, 4, 1024)


def test_all_see_the_waveform_at_their_scale():
  stft = d.StftDiscriminator(128, 32, 2, (1, 2), "float32")
  wave = d.WaveDiscriminator(2, 8, 2, (4,), "float32")
  outputs, variables = shapes(d.Discriminators(stft, wave, (1, 2, 4)), 1001)
  assert [logits.shape[1] for logits, _ in outputs[1:]] == [251, 125, 63]
  assert sorted(variables["params"]) == ["stft", "waves_0", "waves_1", "waves_2"]


def outputs(logits, feature):
  return [(jnp.asarray(x, jnp.float32), [jnp.full((1, 2, 3), feature)]) for x in logits]


def test_hinge_losses():
  real, fake = outputs([[[2.0, 0.0]], [[1.0]]], 1.0), outputs([[[-3.0, 0.0]], [[1.0]]], 3.0)
  # real: (0 + 1) / 2 and 0; fake: (0 + 1) / 2 and 2
  assert d.discriminator_loss(real, fake) == pytest.approx(((0.5 + 0.5) + (0 + 2)) / 2)
  # generator: (4 + 1) / 2 and 0
  assert d.adversarial_loss(fake) == pytest.approx((2.5 + 0) / 2)
  assert d.feature_loss(real, fake) == pytest.approx(2)
  assert d.feature_loss(real, real) == 0


def test_feature_loss_does_not_move_the_real_features():
  def loss(real, fake):
    return d.feature_loss([(None, [real])], [(None, [fake])])

  real, fake = jax.grad(loss, (0, 1))(jnp.ones((1, 2)), jnp.zeros((1, 2)))
  np.testing.assert_array_equal(real, np.zeros((1, 2)))
  np.testing.assert_allclose(fake, np.full((1, 2), -0.5))
