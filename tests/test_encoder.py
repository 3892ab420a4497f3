"""The encoder's contracts: both ways, masks, scan, recomputation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax.encoder import Encoder
from musiclm_jax.layers import Dropout

SIZES = {
  "num_layers": 2,
  "num_heads": 2,
  "head_dim": 5,
  "embed_dim": 8,
  "mlp_dim": 12,
  "dropout_rate": 0.0,
  "norm_first": False,
  "remat": "none",
  "unroll": False,
  "dtype": "float32",
}
LENGTH = 9


@pytest.fixture
def x(rng):
  return rng.normal(size=(2, LENGTH, 8)).astype(np.float32)


def variables(x, **changes):
  model = Encoder(**SIZES | changes)
  shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), x))
  rng = np.random.default_rng(1)
  return model, jax.tree.map(lambda p: rng.normal(0.3, 0.4, p.shape).astype(p.dtype), shapes)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(model, v, x, **options):
  return model.apply(v, x, **options)


def test_every_position_sees_every_other(x):
  model, v = variables(x)
  change = apply(model, v, np.where((np.arange(LENGTH) == 6)[None, :, None], x[:, ::-1], x))
  moved = np.abs(change - apply(model, v, x)).max(axis=-1)
  assert (moved > 1e-4).all()


@pytest.mark.parametrize("padding", [1e4, np.nan])
@pytest.mark.parametrize("norm_first", [True, False])
def test_what_is_masked_changes_nothing(x, padding, norm_first):
  model, v = variables(x, norm_first=norm_first)
  mask = jnp.arange(LENGTH)[None, :] < jnp.array([[6], [LENGTH]])
  before = apply(model, v, x, mask=mask)
  x[0, 6:] = padding
  after = apply(model, v, x, mask=mask)
  np.testing.assert_allclose(after[0, :6], before[0, :6], atol=1e-6)
  np.testing.assert_allclose(after[1], before[1], atol=1e-6)
  shorter = apply(model, v, x[:1, :6])
  np.testing.assert_allclose(after[0, :6], shorter[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"unroll": True}, {"remat": "full"}, {"remat": "minimal"}])
def test_unrolling_and_recomputing_change_no_value_and_no_gradient(x, change):
  def results(**changes):
    model, v = variables(x, **changes)
    grad = jax.value_and_grad(lambda v: (model.apply(v, x, train=True) ** 3).sum())
    return jax.tree.leaves(jax.jit(grad)(v))

  for wanted, found in zip(results(), results(**change)):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_stays_near(x):
  model, v = variables(x)
  half = apply(Encoder(**SIZES | {"dtype": "bfloat16"}), v, x)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(np.float32), apply(model, v, x), atol=0.15)


def test_dropout_is_for_training_alone(x):
  model, v = variables(x, dropout_rate=0.5)
  rngs = {"dropout": jax.random.key(0)}
  still = apply(model, v, x)
  np.testing.assert_array_equal(still, apply(model, v, x, rngs=rngs))
  assert np.abs(apply(model, v, x, train=True, rngs=rngs) - still).max() > 0.1


@pytest.mark.parametrize("along", [(), (1,), (-2, 0)])
def test_dropout_drops_as_flax_does(x, along):
  def dropped(module):
    layer = module(0.3, deterministic=False, broadcast_dims=along)
    return jax.jit(lambda x, key: layer.apply({}, x, rngs={"dropout": key}))(x, jax.random.key(0))

  ours = dropped(Dropout)
  np.testing.assert_array_equal(ours, dropped(nn.Dropout))
  assert 0 < (ours == 0).mean() < 1
