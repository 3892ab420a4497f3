"""The learned codes of w2v-BERT: draws, gradients, temperature, diversity."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax.layers import unit
from musiclm_jax.tokenizers.targets import Learned, diversity_loss

SIZE = 5
MODEL = Learned(SIZE, 3, 2.0, 0.5, 0.999995, 0.9)


@pytest.fixture
def features(rng):
  return rng.normal(size=(4, 50, 6)).astype(np.float32)


def start(features):
  return nn.unbox(MODEL.init(jax.random.key(1), None, features, False))


def train(variables, features, key=0):
  """((codes, vectors, diversity, metrics), collections) of one step of training."""
  rngs = {"dropout": jax.random.key(key)}
  return MODEL.apply(variables, None, features, True, rngs=rngs, mutable=nn.DenyList("params"))


def test_evaluation_takes_the_likeliest_code_and_needs_no_key(features):
  variables = start(features)
  codes, vectors, _, _ = MODEL.apply(variables, None, features, False)
  params = variables["params"]
  likeliest = (features / np.sqrt(1 + 1e-5) @ params["logits"]["kernel"]).argmax(axis=-1)
  np.testing.assert_array_equal(codes, likeliest)
  np.testing.assert_allclose(vectors, unit(params["codebook"])[codes], 1e-5, 1e-6)
  assert codes.dtype == jnp.int32 and vectors.dtype == jnp.float32


def test_training_draws_codes_by_their_probabilities(features):
  variables = start(features)
  wanted = np.array([0.4, 0.3, 0.2, 0.07, 0.03], np.float32)
  logits = {"kernel": np.zeros((6, SIZE), np.float32), "bias": np.log(wanted)}
  variables = variables | {"params": variables["params"] | {"logits": logits}}
  draws = [train(variables, features, key)[0][0] for key in range(40)]
  found = np.bincount(np.ravel(draws), minlength=SIZE) / np.size(draws)
  np.testing.assert_allclose(found, wanted, atol=0.02)
  assert (draws[0] != draws[1]).any()


def test_one_code_goes_forward_and_the_softmax_backward(features):
  """Without the noise of training first, then with it."""
  variables = start(features)
  params = variables["params"]
  direction = np.array([1.0, -2.0, 3.0], np.float32).reshape(1, 1, 3)

  def along(params):
    vectors = MODEL.apply(variables | {"params": params}, None, features, False)[1]
    return (vectors * direction).sum()

  def mixed(params):
    logits = features / np.sqrt(1 + 1e-5) @ params["logits"]["kernel"]
    codes = logits.argmax(axis=-1)
    mixture = jax.nn.softmax(logits / 2.0, axis=-1) @ params["codebook"]
    taken = params["codebook"][codes]
    # the mixture's gradient, at the vector that was taken
    return (unit(taken + mixture - jax.lax.stop_gradient(mixture)) * direction).sum()

  found, wanted = (jax.grad(f)(params)["logits"]["kernel"] for f in (along, mixed))
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
  assert np.abs(found).max() > 0.1

  def drawn(params):
    return (train(variables | {"params": params}, features)[0][1] * direction).sum()

  codes, vectors = train(variables, features)[0][:2]
  np.testing.assert_allclose(vectors, unit(params["codebook"])[codes], 1e-5, 1e-6)
  assert np.abs(jax.grad(drawn)(params)["logits"]["kernel"]).max() > 0.1


def test_temperature_is_annealed_by_update_down_to_its_least(features):
  variables = start(features)
  for updates, wanted in ((0, 2.0), (100_000, 2 * 0.999995**100_000), (400_000, 0.5)):
    variables["counters"] = {"updates": jnp.int32(updates)}
    (*_, metrics), news = train(variables, features)
    np.testing.assert_allclose(metrics["gumbel_temperature"][0], wanted, rtol=1e-5)
    assert news["counters"]["updates"] == updates + 1
  assert start(features)["counters"]["updates"] == 0


def test_what_all_frames_have_in_common_changes_no_code(features):
  variables = start(features)
  codes = [train(variables, features + offset)[0][0] for offset in (0.0, 100.0)]
  assert (codes[0] == codes[1]).mean() > 0.98


def test_evaluation_standardises_by_what_training_saw(features):
  variables = start(features)
  seen = 3 * features + 10
  for key in range(150):
    variables |= train(variables, seen, key)[1]
  axes = (0, 1)
  standardised = (seen - seen.mean(axes, keepdims=True)) / seen.std(axes, keepdims=True)
  found = MODEL.apply(variables, None, seen, False)[0]
  assert (found == MODEL.apply(start(features), None, standardised, False)[0]).mean() > 0.98


@pytest.mark.parametrize("used", [1, 2, SIZE])
def test_diversity_is_the_share_of_codes_that_are_not_used(used):
  codes = np.arange(4 * used * 3).reshape(4, -1) % used
  loss = diversity_loss(jax.nn.one_hot(codes, SIZE))
  np.testing.assert_allclose(loss, (SIZE - used) / SIZE, atol=1e-5)


def test_diversity_of_nearly_equal_use_is_exact(rng):
  """Not the rounding error of 1 minus a number near 1."""
  share = 1 + 0.01 * rng.standard_normal((1, 256))
  share = (share / share.sum()).astype(np.float32)
  exact = share.astype(np.float64)
  exact /= exact.sum()
  wanted = 1 - np.exp(-(exact * np.log(exact)).sum()) / exact.size
  np.testing.assert_allclose(diversity_loss(share), wanted, rtol=1e-3)


def test_diversity_spreads_the_codes(features):
  """Descent on the diversity loss alone makes their use more equal."""
  variables = start(features)
  variables["params"]["logits"]["bias"] = jnp.array([4.0, 0, 0, 0, 0])

  def loss(params):
    return train(variables | {"params": params}, features)[0][2]

  value, gradient = jax.value_and_grad(loss)(variables["params"])
  better = jax.tree.map(lambda p, g: p - g, variables["params"], gradient)
  assert 0 < loss(better) < value - 0.01 < 1
