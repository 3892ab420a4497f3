"""The Conformer against NumPy, and that its depth, scan and recomputation change nothing."""

import functools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax.tokenizers.conformer import Conformer, depthwise_convolution

SIZES = {
  "num_layers": 3,
  "num_heads": 2,
  "head_dim": 5,
  "mlp_dim": 12,
  "kernel_size": 3,
  "dropout_rate": 0.0,
  "num_buckets": 8,
  "max_distance": 16,
  "remat": "none",
  "unroll": False,
  "dtype": "float32",
}


@pytest.fixture
def x(rng):
  return rng.normal(size=(2, 7, 10)).astype(np.float32)


def variables(x, **changes):
  model = Conformer(**SIZES | changes)
  init = functools.partial(model.init, depth=model.num_layers)
  shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0), x))
  rng = np.random.default_rng(1)  # compiling the initialization takes longer than all the rest
  return model, jax.tree.map(lambda p: rng.normal(0.5, 0.3, p.shape).astype(p.dtype), shapes)


def output(model, v, x, depth):
  return jax.jit(functools.partial(model.apply, depth=depth))(v, x)


@pytest.mark.parametrize("width", [1, 3, 4, 5])
def test_depthwise_convolution_is_a_correlation_of_each_channel(rng, width):
  x, kernel = rng.normal(size=(2, 9, 3)), rng.normal(size=(width, 3))
  found = depthwise_convolution(jnp.asarray(x), jnp.asarray(kernel))
  for b in range(2):
    for c in range(3):
      padded = np.pad(x[b, :, c], (width // 2, width - 1 - width // 2))
      wanted = np.correlate(padded, kernel[:, c], "valid")
      np.testing.assert_allclose(found[b, :, c], wanted, atol=1e-5)


def numpy_norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def numpy_affine(x, p):
  return np.tensordot(x, p["kernel"], p["kernel"].ndim - p["bias"].ndim) + p["bias"]


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def numpy_layer(x, p, bias):
  """Gulati et al., Section 2, with the layer norm and the bias of this project."""

  def half(x, name):
    y = numpy_affine(numpy_norm(x, p[f"{name}_norm"]), p[f"{name}_wi"])
    return x + 0.5 * numpy_affine(y * sigmoid(y), p[f"{name}_wo"])

  x = half(x, "first")
  y = numpy_affine(numpy_norm(x, p["attention_norm"]), p["attention"]["qkv"])
  query, key, value = y.transpose(2, 0, 3, 1, 4)
  scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]) + bias
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  y = (weights @ value).swapaxes(1, 2)
  out = p["attention"]["out"]
  x = x + np.einsum("btnh,nhd->btd", y, out["kernel"]) + out["bias"]
  y = numpy_norm(x, p["convolution_norm"])
  y = (y @ p["gated"][:, 0]) * sigmoid(y @ p["gated"][:, 1])
  padded = np.pad(y, ((0, 0), (1, 1), (0, 0)))
  y = sum(padded[:, i : i + x.shape[1]] * p["depthwise"][i] for i in range(3))
  y = numpy_norm(y, p["depthwise_norm"])
  x = x + (y * sigmoid(y)) @ p["pointwise"]
  return numpy_norm(half(x, "second"), p["final_norm"])


def test_one_layer_is_what_the_paper_writes(x):
  model, v = variables(x, num_layers=1)
  p = jax.tree.map(lambda leaf: np.asarray(leaf)[0], v["params"]["layers"])
  table = np.asarray(v["params"]["relative_bias"]["table"])
  # 8 buckets both ways: 0 and 1 back are exact, 2 to 16 back share two, and 4 more ahead
  bucket = {0: 0, -1: 1, 1: 5, -2: 2, 2: 6}
  x = x[:, :3]
  bias = np.array([[table[bucket[s - t]] for s in range(3)] for t in range(3)])
  wanted = numpy_layer(x, p, bias.transpose(2, 0, 1)[None])
  np.testing.assert_allclose(output(model, v, x, 1), wanted, atol=1e-5)


@pytest.mark.slow
def test_a_lower_depth_is_the_stack_that_ends_there(x):
  model, v = variables(x)
  for depth in (1, 3):
    layers = jax.tree.map(operator.itemgetter(slice(depth)), v["params"]["layers"])
    wanted = output(
      Conformer(**SIZES | {"num_layers": depth}),
      {"params": v["params"] | {"layers": layers}},
      x,
      depth,
    )
    np.testing.assert_allclose(output(model, v, x, depth), wanted, atol=1e-6)
  np.testing.assert_array_equal(model.apply(v, x, depth=0), x)


def test_layers_behind_the_depth_are_not_computed(x):
  model, v = variables(x, unroll=True)

  def flops(depth):
    lowered = jax.jit(lambda v: model.apply(v, x, depth=depth)).lower(v)
    return lowered.compile().cost_analysis()["flops"]

  assert flops(1) < 0.4 * flops(3)


@pytest.mark.parametrize("depth", [-1, 4])
def test_a_depth_that_is_not_there_raises(x, depth):
  model, v = variables(x)
  with pytest.raises(ValueError, match=f"wanted a layer of 0..3, found {depth}"):
    model.apply(v, x, depth=depth)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"unroll": True}, {"remat": "full"}])
def test_unrolling_and_recomputing_change_no_value_and_no_gradient(x, change):
  model, v = variables(x)

  def loss(model):
    return jax.jit(jax.value_and_grad(lambda v: (model.apply(v, x, depth=3)[..., 0] ** 3).sum()))(v)

  for wanted, found in zip(
    jax.tree.leaves(loss(model)), jax.tree.leaves(loss(Conformer(**SIZES | change)))
  ):
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
def test_every_parameter_has_a_gradient(x):
  model, v = variables(x)
  gradient = jax.jit(jax.grad(lambda v: (model.apply(v, x, depth=3)[..., 0] ** 3).sum()))(v)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    flat = np.abs(leaf).reshape(len(leaf), -1).max(axis=1)
    if "table" not in jax.tree_util.keystr(path):  # 7 frames reach only the nearest buckets
      assert (flat > 0).all(), path


def test_bfloat16_computes_in_bfloat16_and_stays_near(x):
  model, v = variables(x)
  half = output(Conformer(**SIZES | {"dtype": "bfloat16"}), v, x, 3)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(np.float32), output(model, v, x, 3), atol=0.15)
