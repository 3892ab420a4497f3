"""Attention: T5's buckets, rotary positions, and the fused kernels against the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax import attention, partitioning
from musiclm_jax.attention import (
  RelativeBias,
  Rotary,
  apply_rotary,
  causal_attention,
  relative_buckets,
)
from musiclm_jax.layers import MASKED


@pytest.mark.parametrize("queries, keys, start", [(1, 1, 0), (7, 7, 0), (3, 50, 30), (5, 3, 9)])
def test_relative_bias_is_the_tables_entry_of_each_distance(queries, keys, start):
  bias = RelativeBias(num_buckets=8, max_distance=16, causal=False)
  ahead = np.arange(keys)[None, :] - np.arange(start, start + queries)[:, None]
  positions = jnp.arange(start, start + queries), jnp.arange(keys)
  v = {"params": {"table": np.random.default_rng(1).standard_normal((8, 2)).astype(np.float32)}}
  buckets = relative_buckets(jnp.asarray(ahead), num_buckets=8, max_distance=16, causal=False)

  def ours(v):
    return bias.apply(v, *positions, 2)[0]

  def entries(v):
    return jnp.moveaxis(v["params"]["table"][buckets], -1, 0)

  np.testing.assert_array_equal(jax.jit(ours)(v), entries(v))
  weights = np.random.default_rng(0).standard_normal((2, queries, keys)).astype(np.float32)
  gradients = [jax.jit(jax.grad(lambda v, f=f: (f(v) * weights).sum()))(v) for f in (ours, entries)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *gradients)


def test_relative_buckets_match_the_t5_table():
  # T5's unidirectional buckets, 8 of them up to a distance of 16, worked out by hand
  distances = -np.arange(20)
  expected = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7]
  found = relative_buckets(jnp.array(distances), num_buckets=8, max_distance=16, causal=True)
  np.testing.assert_array_equal(found, expected)
  both = relative_buckets(jnp.array([-3, 3, 0]), num_buckets=8, max_distance=16, causal=False)
  assert both[0] != both[1] and both[2] == 0 and int(both.max()) < 8


def draw(length, batch=2, heads=2, dim=8, dtype=np.float32):
  """(query, key, value) [batch, heads, length, dim]."""
  return np.random.default_rng(0).standard_normal((3, batch, heads, length, dim)).astype(dtype)


def masked(length, bias=None):
  """A causal bias [1, heads or 1, length, length]."""
  later = np.triu(np.ones((length, length)), 1) * MASKED
  return jnp.asarray(later[None, None] + (0 if bias is None else bias), jnp.float32)


def test_rotary_scores_depend_on_the_distance_alone():
  query, key, _ = draw(1, batch=1, heads=1)
  rotary = Rotary(base=100.0)

  def score(t, s):
    at = [apply_rotary(x, rotary.angles(jnp.array([p]), 8)) for x, p in ((query, t), (key, s))]
    return float((at[0] * at[1]).sum())

  assert score(5, 2) == pytest.approx(score(105, 102), abs=1e-4)
  assert abs(score(5, 2) - score(5, 3)) > 1e-2
  assert score(4, 4) == pytest.approx(float((query * key).sum()), abs=1e-5)


def test_rotary_turns_as_complex_numbers_do():
  query, _, _ = draw(3)
  angles = Rotary(base=50.0).angles(jnp.arange(3), 8)
  turned = (query[..., :4] + 1j * query[..., 4:]) * np.exp(1j * np.asarray(angles))
  wanted = np.concatenate([turned.real, turned.imag], axis=-1)
  np.testing.assert_allclose(apply_rotary(query, angles), wanted, atol=1e-5)


@pytest.mark.parametrize("length", [128, 200])
def test_the_tpu_kernel_equals_the_blocks(length, monkeypatch):
  """As Pallas interprets it: forward and backward."""
  monkeypatch.setattr(attention, "_TILE", 128)
  splash = functools.partial(attention._by_splash, block=64, interpret=True)
  bias = masked(length)

  def loss(kernel, args):
    return jnp.square(kernel(*args, bias)).sum()

  blocks = functools.partial(causal_attention, "blocks", block=64)
  args = draw(length, dim=128)
  args = (args[0] / 11, *args[1:])
  wanted, wanted_grads = jax.jit(jax.value_and_grad(functools.partial(loss, blocks)))(args)
  found, found_grads = jax.jit(jax.value_and_grad(functools.partial(loss, splash)))(args)
  assert float(found) == pytest.approx(float(wanted), rel=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), found_grads, wanted_grads)


def test_the_gpu_kernel_is_asked_for_the_same(monkeypatch):
  """What cuDNN would compute, by the same function of JAX on this machine."""
  plain = jax.nn.dot_product_attention

  def on_this_machine(*args, implementation, **options):
    assert implementation == "cudnn"
    return plain(*args, implementation="xla", **options)

  monkeypatch.setattr(jax.nn, "dot_product_attention", on_this_machine)
  args = [jnp.asarray(x, jnp.bfloat16) for x in draw(64, dim=16)]
  bias = masked(64, np.random.default_rng(1).standard_normal((1, 2, 64, 64)))
  attend = jax.jit(causal_attention, static_argnums=0, static_argnames="block")
  found = attend("cudnn", *args, bias, block=16)
  wanted = attend("blocks", *(x.astype(jnp.float32) for x in args), bias, block=16)
  np.testing.assert_allclose(found.astype(jnp.float32), wanted, atol=0.03)


def test_fused_kernels_are_split_over_the_mesh(monkeypatch):
  """Each device has its rows and its heads alone, and its own copy of the bias."""
  seen = []

  def kernel(query, key, value, bias, block):
    seen.append((query.shape, bias.shape))
    return attention._by_blocks(query, key, value, bias, block)

  monkeypatch.setitem(attention._KINDS, "cudnn", kernel)
  args, table = draw(32, batch=8, heads=2), np.random.default_rng(1).standard_normal((2, 32, 32))

  def loss(args, table, kind):
    bias = partitioning.for_each_shard(masked(32)[0] + table, "heads", None, None)
    return jnp.square(causal_attention(kind, *args, bias, block=16)).sum()

  gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
  wanted = gradient(args, table, "blocks")
  mesh = partitioning.make_mesh(partitioning.MeshShape(1, 2, 2, 2))
  with partitioning.use(mesh):
    found = gradient(args, table, "cudnn")
  assert set(seen) == {((2, 1, 32, 8), (1, 1, 32, 32))}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, wanted)


@pytest.mark.parametrize(
  "kind, dtype, heads, message",
  [
    ("flash", np.float32, 1, "wanted one of blocks, cudnn, splash, got 'flash'"),
    ("cudnn", np.float32, 2, "cudnn needs bfloat16 and an even length, got float32 and 16"),
    ("splash", np.float32, 2, "splash takes no relative bias"),
  ],
)
def test_what_a_kernel_cannot_do_is_refused(kind, dtype, heads, message):
  bias = jnp.zeros((1, heads, 16, 16))
  with pytest.raises(ValueError, match=message):
    causal_attention(kind, *draw(16, dtype=dtype), bias, block=16)


def test_a_relative_bias_is_no_angle():
  assert RelativeBias(8, 16, causal=True).angles(jnp.arange(3), 8) is None
  x = np.ones((1, 1, 3, 8))
  assert apply_rotary(x, None) is x
