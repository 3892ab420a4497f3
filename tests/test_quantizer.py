"""The residual quantizer against numpy and scikit-learn: averages, restarts and masks."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from musiclm_jax.tokenizers import quantizer as q

STATE = ["codebooks", "statistics"]


def residual(**changes):
  fields = {"num_quantizers": 3, "codebook_size": 8, "dim": 4, "decay": 0.9}
  fields |= {"restart_threshold": 0.0, "restart_updates": None}
  fields |= {"iterations": 5, "level_dropout": False}
  return q.ResidualQuantizer(**fields | changes)


@functools.partial(jax.jit, static_argnums=0)
def init(module, x):
  return module.init(jax.random.key(0), x, False)


@functools.partial(jax.jit, static_argnums=0)
def step(module, variables, key, x, *args):
  return module.apply(variables, x, True, *args, rngs={"dropout": key}, mutable=STATE)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(module, variables, x):
  return module.apply(variables, x, False)


def train(module, x, *args, steps=1, variables=None, seed=0):
  """The last outputs and the codebooks after `steps` updates on one batch."""
  variables = init(module, x) if variables is None else variables
  for i in range(steps):
    outputs, variables = step(module, variables, jax.random.key(seed + i), x, *args)
  return outputs, variables["codebooks"]


def blobs(rng, count, *, num=1024, dim=4, noise=0.1):
  centres = rng.normal(size=(count, dim)) * 3
  x = centres[rng.integers(0, count, num)] + rng.normal(size=(num, dim)) * noise
  return x.astype(np.float32)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 9), st.integers(1, 5))
def test_quantize_is_greedy_nearest_level_by_level(seed, levels, size, dim):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(2, 3, dim)).astype(np.float32)
  books = rng.normal(size=(levels, size, dim)).astype(np.float32)
  codes, quantized = q.quantize(x, books)
  assert codes.dtype == np.int32 and codes.shape == (2, 3, levels)
  rest = x.astype(np.float64)
  for level in range(levels):
    distances = np.square(rest[..., None, :] - books[level]).sum(-1)
    taken = np.take_along_axis(distances, codes[..., level, None], -1)[..., 0]
    np.testing.assert_allclose(taken, distances.min(-1), atol=1e-4)
    rest = rest - books[level][codes[..., level]]
  np.testing.assert_allclose(quantized, x - rest, atol=1e-5)
  np.testing.assert_allclose(q.dequantize(codes, books), quantized, atol=1e-5)


def test_numpy_and_jax_agree_and_stay_what_they_are(rng):
  x, books = rng.normal(size=(5, 6)).astype("f"), rng.normal(size=(3, 16, 6)).astype("f")
  codes, quantized = q.quantize(x, books)
  jax_codes, jax_quantized = jax.jit(q.quantize)(x, books)
  assert isinstance(codes, np.ndarray) and isinstance(jax_codes, jax.Array)
  np.testing.assert_array_equal(codes, jax_codes)
  np.testing.assert_allclose(quantized, jax_quantized, atol=1e-6)
  assert isinstance(q.dequantize(codes, books), np.ndarray)
  np.testing.assert_array_equal(q.quantize(jnp.asarray(x), books)[0], codes)


@pytest.mark.slow
def test_numpy_does_not_start_a_jax_backend():
  program = (
    "import numpy as np, jax; from musiclm_jax.tokenizers.quantizer import quantize, dequantize\n"
    "b = np.ones((2, 4, 3), 'f'); dequantize(quantize(np.ones((5, 3), 'f'), b)[0], b)\n"
    "from jax._src import xla_bridge; assert not xla_bridge._backends"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


def test_wrong_shapes_name_what_was_wanted():
  with pytest.raises(ValueError, match="4 dimensions, found 3"):
    q.quantize(np.ones((2, 3), "f"), np.ones((1, 8, 4), "f"))
  with pytest.raises(ValueError, match="at most 1 levels of codes, found 2"):
    q.dequantize(np.zeros((2, 2), "i"), np.ones((1, 8, 4), "f"))


def test_perplexity_counts_codes_in_use():
  counts = np.array([[4.0, 4, 4, 4], [9, 0, 0, 0], [0, 0, 0, 0]])
  np.testing.assert_allclose(q.perplexity(counts), [4, 1, 1], atol=1e-6)
  np.testing.assert_allclose(q.perplexity(jnp.asarray(counts)), [4, 1, 1], atol=1e-5)


def test_error_falls_with_every_level(rng):
  x = rng.normal(size=(4, 64, 4)).astype("f")
  _, books = train(residual(), x, steps=5)
  codes, _ = q.quantize(x, np.asarray(books["vectors"]))
  errors = [
    np.square(x - q.dequantize(codes[..., :n], np.asarray(books["vectors"]))).mean()
    for n in (1, 2, 3)
  ]
  assert x.var() > errors[0] > errors[1] > errors[2]


@pytest.mark.slow
def test_gradient_is_straight_through_on_the_sum(rng):
  x = jnp.asarray(rng.normal(size=(2, 16, 4)), jnp.float32)
  module = residual()
  _, books = train(module, x)
  direction = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

  def through(x):
    return (module.apply({"codebooks": books}, x, False)[0] * direction).sum()

  np.testing.assert_array_equal(jax.jit(jax.grad(through))(x), direction)
  quantized, codes, _ = evaluate(module, {"codebooks": books}, x)
  np.testing.assert_allclose(quantized, q.dequantize(codes, books["vectors"]), atol=1e-5)

  def commitment(x):
    error, weight = module.apply({"codebooks": books}, x, False)[2]["commitment"]
    return error / weight

  np.testing.assert_allclose(
    jax.jit(jax.grad(commitment))(x), 2 * (x - quantized) / x.size, atol=1e-6
  )


def test_update_is_the_moving_average(rng):
  x = rng.normal(size=(2, 50, 4)).astype("f")
  _, old = train(residual(), x)
  fresh = rng.normal(size=x.shape).astype("f")
  _, new = train(residual(), fresh, variables={"codebooks": old}, seed=7)
  rest = fresh.reshape(-1, 4)
  for level in range(3):
    vectors = np.asarray(old["vectors"][level])
    codes = q.quantize(rest, vectors[None])[0][:, 0]
    onehot = np.eye(8, dtype="f")[codes]
    counts = 0.9 * old["counts"][level] + 0.1 * onehot.sum(0)
    before = vectors * np.asarray(old["counts"][level])[:, None]
    sums = 0.9 * before + 0.1 * onehot.T @ rest
    np.testing.assert_allclose(new["counts"][level], counts, rtol=1e-5)
    np.testing.assert_allclose(new["vectors"][level], sums / counts[:, None], atol=1e-5)
    rest = rest - vectors[codes]


def test_dead_codes_restart_at_vectors_of_the_batch(rng):
  x = blobs(rng, 8, num=256).reshape(2, 128, 4)
  module = residual(num_quantizers=1, restart_threshold=0.1)
  _, books = train(module, x)
  far = books | {
    "vectors": books["vectors"].at[:, :4].set(1e3),
    "counts": books["counts"].at[:, :4].set(0),
  }
  (_, _, metrics), new = train(module, x, variables={"codebooks": far})
  assert metrics["dead"][0] == metrics["restarted"][0] >= 0.5
  restarted = np.asarray(new["vectors"])[0, :4]
  assert np.abs(restarted[:, None] - x.reshape(1, -1, 4)).sum(-1).min(-1).max() == 0
  _, new = train(module, x, variables={"codebooks": far}, steps=30)
  assert np.abs(np.asarray(new["vectors"])).max() < 50


def test_which_codes_are_dead_does_not_depend_on_the_rows_of_a_batch(rng):
  x = np.concatenate([np.zeros((90, 4)), np.ones((9, 4)), np.full((1, 4), 2.0)]).astype("f")[None]
  module = residual(num_quantizers=1, codebook_size=3, restart_threshold=0.1, decay=0.0)
  for copies in (1, 8):  # mean uses of 33 and 267 rows; the third code has 1/33 of it
    batch = np.repeat(x, copies, axis=0)
    for restart_updates, restarted in ((None, 1 / 3), (0, 0.0)):
      learner = module.clone(restart_updates=restart_updates)
      (_, _, metrics), _ = train(learner, batch, steps=1)
      np.testing.assert_allclose(metrics["dead"][0], 1 / 3, rtol=1e-6)
      np.testing.assert_allclose(metrics["restarted"][0], restarted, rtol=1e-6)


def residual_codebooks(x, restart_threshold, restart_updates):
  """(share restarted at the last of 45 steps, share of codes that x uses, mean squared error) of 6
  levels of 64 codes trained on batches of 128 of the rows x: 2 rows a code, as in a short training.
  """
  fields = dict(
    num_quantizers=6, codebook_size=64, dim=x.shape[1], restart_threshold=restart_threshold
  )
  module, draw = residual(restart_updates=restart_updates, **fields), np.random.default_rng(3)
  variables = init(module, x[None, :128])
  for i in range(45):
    batch = x[None, draw.permutation(len(x))[:128]]
    (_, _, metrics), variables = step(module, variables, jax.random.key(i), batch)
  codes, quantized = q.quantize(x, np.asarray(variables["codebooks"]["vectors"]))
  used = np.mean([len(np.unique(level)) / 64 for level in codes.T])
  return float(metrics["restarted"][0]), used, np.square(x - quantized).mean()


def test_restarts_end_and_the_codes_then_settle():
  x = blobs(np.random.default_rng(0), 40, num=1024, dim=32, noise=1.0)
  endless = residual_codebooks(x, 0.5, None)  # under 1 row of a batch
  restarted, used, error = residual_codebooks(x, 0.2, 30)
  assert endless[0] > 0.15 and restarted == 0  # single residuals of the last batch, or none
  assert used >= endless[1] and error < endless[2]


@pytest.mark.slow
def test_codebooks_wait_for_the_warm_up(rng):
  early, late = blobs(rng, 8).reshape(2, 512, 4), blobs(rng, 8).reshape(2, 512, 4)
  module = residual(num_quantizers=1, warmup_updates=3)
  variables = init(module, early)
  for i in range(3):
    (quantized, _, metrics), variables = step(module, variables, jax.random.key(i), early)
    np.testing.assert_array_equal(quantized, early)
    assert not metrics["commitment"][0] and not variables["codebooks"]["initialised"]
  (quantized, _, _), variables = step(module, variables, jax.random.key(3), late)
  # They then are k-means of the batch, as without a warm-up.
  (wanted, _, _), fresh = step(
    residual(num_quantizers=1), init(module, late), jax.random.key(3), late
  )
  np.testing.assert_allclose(quantized, wanted, atol=1e-5)
  for name in ("vectors", "counts"):
    found, expected = variables["codebooks"][name], fresh["codebooks"][name]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_level_dropout_keeps_a_prefix_of_levels_per_example(rng):
  x = rng.normal(size=(64, 4, 4)).astype("f")
  module = residual(level_dropout=True)
  _, books = train(module, x)
  (quantized, codes, _), _ = train(module, x, variables={"codebooks": books}, seed=3)
  codes, vectors = np.asarray(codes), np.asarray(books["vectors"])
  prefixes = np.stack([q.dequantize(codes[..., :n], vectors) for n in (1, 2, 3)])
  errors = np.abs(prefixes - quantized[None]).max((2, 3))
  np.testing.assert_allclose(errors.min(0), 0, atol=1e-5)
  assert set(errors.argmin(0)) == {0, 1, 2}
  quantized, codes, _ = evaluate(module, {"codebooks": books}, x)
  np.testing.assert_allclose(quantized, q.dequantize(codes, books["vectors"]), atol=1e-5)


def test_masked_vectors_touch_nothing(rng):
  x = rng.normal(size=(2, 40, 4)).astype("f")
  weights = (rng.random((2, 40)) < 0.6).astype("f")
  other = np.where(weights[..., None] > 0, x, np.nan).astype("f")
  module = residual(restart_threshold=0.1)
  (_, _, metrics), books = train(module, x, weights, steps=3)
  (_, _, masked_metrics), masked = train(module, other, weights, steps=3)
  jax.tree.map(np.testing.assert_array_equal, (metrics, books), (masked_metrics, masked))
  _, same = train(module, x, 0 * weights, variables={"codebooks": books})
  np.testing.assert_allclose(same["vectors"], books["vectors"], rtol=1e-5)
  _, never = train(module, x, 0 * weights)
  assert not never["initialised"]


def test_kmeans_matches_sklearn(rng):
  for x in (blobs(rng, 16), rng.normal(size=(1024, 4)).astype("f")):
    reference = KMeans(16, n_init=5, random_state=0).fit(x).inertia_
    module = residual(num_quantizers=1, codebook_size=16, restart_threshold=0.05, iterations=20)
    _, books = train(module, x.reshape(4, 256, 4), steps=60)
    inertia = np.square(x - q.quantize(x, np.asarray(books["vectors"]))[1]).sum()
    assert inertia < 1.05 * reference


@pytest.fixture(scope="module")
def embeddings():
  rng = np.random.default_rng(0)
  x = blobs(rng, 32, num=2048, dim=6) * np.array([1, 10, 0.1, 1, 1, 3], "f") + 5
  return x.astype("f").reshape(8, 256, 6)


def fit(module, batches):
  init = jax.jit(lambda key, batch: module.init(key, batch, train=False))
  variables = init(jax.random.key(0), batches[0])
  step = jax.jit(lambda v, b, k: module.apply(v, b, train=True, rngs={"dropout": k}, mutable=STATE))
  for i, batch in enumerate(batches):
    (loss, metrics), variables = step(variables, batch, jax.random.key(i))
  return loss, metrics, variables


@pytest.mark.slow
@pytest.mark.parametrize("standardise", [True, False])
def test_embedding_quantizer_learns_in_the_space_of_its_input(embeddings, standardise):
  levels = residual(num_quantizers=2, codebook_size=64, dim=6, restart_threshold=0.05)
  module = q.EmbeddingQuantizer(levels, standardise)
  loss, metrics, variables = fit(module, [{"embeddings": embeddings}] * 20)
  assert loss < 0.1 and loss.dtype == np.float32
  np.testing.assert_allclose(metrics["chance"][0] / metrics["chance"][1], 1)
  encode, decode = (
    jax.jit(functools.partial(module.apply, method=name)) for name in ("encode", "decode")
  )
  codes = encode(variables, embeddings)
  back = decode(variables, codes)
  assert back.shape == embeddings.shape
  assert np.square(back - embeddings).mean() < 0.1 * embeddings.reshape(-1, 6).var(0).mean()
  # more than nine tenths of the codes are in use
  assert len(np.unique(codes[..., 0])) > 0.9 * 64


@pytest.mark.slow
def test_statistics_are_those_of_all_that_was_seen(embeddings):
  weights = np.ones(embeddings.shape[:2], "f")
  weights[:, 200:] = 0
  masked = np.where(weights[..., None] > 0, embeddings, np.nan)
  batches = [
    {"embeddings": masked[:4], "weights": weights[:4]},
    {"embeddings": masked[4:], "weights": weights[4:]},
  ]
  levels = residual(num_quantizers=1, dim=6)
  statistics = fit(q.EmbeddingQuantizer(levels, True), batches)[2]["statistics"]
  seen = embeddings[:, :200].reshape(-1, 6)
  np.testing.assert_allclose(statistics["mean"], seen.mean(0), rtol=1e-4)
  np.testing.assert_allclose(statistics["variance"], seen.var(0), rtol=1e-3)
  assert statistics["seen"] == 1600
