"""The Transformer's contracts: cached steps equal the whole pass, causality, remat."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from musiclm_jax.attention import RelativeBias, Rotary
from musiclm_jax.transformer import Transformer

LENGTH = 37
POSITIONS = [RelativeBias(num_buckets=8, max_distance=16, causal=True), Rotary(base=100.0)]


@functools.cache
def make(**changes):
  fields = dict(
    num_layers=3,
    num_heads=2,
    head_dim=8,
    embed_dim=16,
    mlp_dim=32,
    dropout_rate=0.0,
    positions=POSITIONS[0],
    attention="blocks",
    query_block=16,
    remat="none",
    unroll=False,
    dtype="float32",
  )
  model = Transformer(**fields | changes)
  x = jax.random.normal(jax.random.key(0), (2, LENGTH, 16))
  return model, nn.unbox(jax.jit(model.init)(jax.random.key(1), x)), x


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(model, variables, x, **options):
  return model.apply(variables, x, **options)


@pytest.mark.parametrize("unroll", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize(
  "pieces", [pytest.param([1] * 20 + [17], marks=pytest.mark.slow), [20, 1, 1, 15], [37]]
)
@pytest.mark.parametrize("positions", POSITIONS, ids=lambda each: type(each).__name__)
def test_cached_steps_equal_the_whole_pass(unroll, pieces, positions):
  model, variables, x = make(unroll=unroll, positions=positions)
  whole, none = apply(model, variables, x)
  assert none is None
  cache = model.init_cache(2, 40)
  outs, start = [], 0
  for piece in pieces:
    out, cache = apply(model, variables, x[:, start : start + piece], cache=cache)
    outs.append(out)
    start += piece
  assert int(cache.index) == LENGTH
  np.testing.assert_allclose(np.concatenate(outs, axis=1), whole, atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS, ids=lambda each: type(each).__name__)
def test_causal(positions):
  model, variables, x = make(positions=positions)
  before, _ = apply(model, variables, x)
  after, _ = apply(model, variables, x.at[:, 20:].set(7.0))
  np.testing.assert_allclose(after[:, :20], before[:, :20], atol=1e-6)
  assert np.abs(after[:, 20:] - before[:, 20:]).max() > 0.1


@pytest.mark.slow
def test_query_blocks_do_not_change_the_result():
  model, variables, x = make()
  np.testing.assert_allclose(
    apply(model, variables, x)[0],
    apply(model.clone(query_block=1000), variables, x)[0],
    atol=1e-5,
  )


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["minimal", "full"])
def test_remat_gives_the_same_gradients(remat):
  model, variables, x = make(dropout_rate=0.1)

  def loss(variables, model):
    out, _ = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(3)})
    return (out**2).sum() * 1e-2

  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  plain = gradient(variables, model)
  saved = gradient(variables, model.clone(remat=remat))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, saved)


@pytest.mark.slow
@pytest.mark.parametrize("unroll", [True, False])
def test_remat_computes_again_with_and_without_a_loop(unroll):
  model, variables, x = make(unroll=unroll)

  def products(remat):
    def loss(variables):
      return model.clone(remat=remat).apply(variables, x, train=True)[0].sum()

    return jax.jit(jax.grad(loss)).lower(variables).compile().as_text().count(" dot(")

  assert products("none") < products("minimal") < products("full")


def test_dropout_drops_a_feature_at_all_positions_of_a_sequence():
  model, variables, _ = make(dropout_rate=0.5, num_layers=1)
  ones = jnp.ones((4, LENGTH, 16))
  # With the layer's own parameters at 0, what comes out is the normed input.
  still = jax.tree.map(lambda v: v, variables)
  still["params"]["layers"] = jax.tree.map(jnp.zeros_like, variables["params"]["layers"])
  out, _ = apply(model, still, ones, train=True, rngs={"dropout": jax.random.key(2)})
  dropped = np.asarray(out == 0)
  np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))
  assert 0.3 < dropped[:, 0].mean() < 0.7
  assert len({row.tobytes() for row in dropped[:, 0]}) == 4


@pytest.mark.slow
def test_bfloat16_computes_near_float32():
  model, variables, x = make()
  exact, _ = apply(model, variables, x)
  rough, _ = apply(model.clone(dtype="bfloat16"), variables, x)
  assert rough.dtype == jnp.bfloat16
  assert np.abs(np.asarray(rough, np.float32) - exact).mean() < 0.05
