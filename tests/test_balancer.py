"""The balancer: shares of norms, their averages, the codec trained with it on any mesh."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from musiclm_jax.tokenizers.balancer import Balancer, WeightedSum
from musiclm_jax.training.step import init_state, train_step
from tests import test_contracts, trainings
from tests.test_soundstream import codec, music

WEIGHTS = {"near": 3.0, "far": 1.0}
OUTPUT = np.array([[1.0, 2.0], [-1.0, 0.5]], "f")
NAME = "soundstream model/balanced"


def losses(output, scale=1.0):
  """Gradients to a row: (3, 4) / 2 and (0, scale) / 2, of norms 5 / 2 and scale / 2."""
  slopes = jnp.array([[3.0, 4.0]])
  return {"near": (slopes * output).sum(axis=1).mean(), "far": scale * output[:, 1].mean()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def balanced(decay, scale, averages, output):
  """(gradient, loss, values, next averages) at `output`, after a first call where {}."""
  module, function = Balancer(decay), functools.partial(losses, scale=scale)

  def loss(output):
    variables = (
      {"balancer": averages} if averages else module.init({}, function, output, WEIGHTS, 0)
    )
    out, new = module.apply(variables, function, output, WEIGHTS, True, mutable=["balancer"])
    return out[0], (out[1], new["balancer"])

  (loss, (values, averages)), gradient = jax.value_and_grad(loss, has_aux=True)(output)
  return gradient, loss, values, averages


def test_each_gradient_has_the_share_of_its_weight():
  gradient, loss, values, _ = balanced(0.9, 1.0, {}, OUTPUT)
  # directions (3, 4) / 5 and (0, 1), shares 3 / 4 and 1 / 4, of a mean over two rows
  wanted = (0.75 * np.array([0.6, 0.8]) + 0.25 * np.array([0.0, 1.0])) / 2
  np.testing.assert_allclose(gradient, [wanted, wanted], rtol=1e-6)
  assert values == {"near": pytest.approx((11 - 1) / 2), "far": pytest.approx(1.25)}
  assert loss == pytest.approx(3 * 5 + 1.25)  # the weighted sum, whatever its gradient


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_size_of_a_loss_changes_nothing(scale):
  wanted = balanced(0.9, 1.0, {}, OUTPUT)[0]
  np.testing.assert_allclose(balanced(0.9, scale, {}, OUTPUT)[0], wanted, rtol=1e-5)


def test_the_size_of_the_batch_changes_nothing():
  one = balanced(0.9, 1.0, {}, OUTPUT[:1])[0]
  four = balanced(0.9, 1.0, {}, np.repeat(OUTPUT[:1], 4, axis=0))[0]
  np.testing.assert_allclose(four.sum(axis=0), one[0], rtol=1e-6)


def test_norms_are_averaged_over_batches():
  averages = {}
  for scale in (1.0, 4.0, 8.0):
    gradient, _, _, averages = balanced(0.5, scale, averages, OUTPUT)
  far = (0.25 * 1 + 0.5 * 4 + 8) / (0.25 + 0.5 + 1)
  assert averages["far"] == pytest.approx(far)
  assert averages["near"] == pytest.approx(5.0) and averages["seen"] == pytest.approx(1.75)
  # a loss that is larger than it was on average pulls harder
  np.testing.assert_allclose(gradient[:, 1], (0.75 * 0.8 + 0.25 * 8 / far) / 2, rtol=1e-6)


def test_a_loss_without_a_gradient_leaves_the_others():
  gradient = balanced(0.9, 0.0, {}, OUTPUT)[0]
  np.testing.assert_allclose(gradient, np.full((2, 2), 0.375) * [0.6, 0.8], rtol=1e-6)


def test_evaluation_is_the_weighted_sum_and_keeps_the_averages():
  module = Balancer(0.9)
  variables = module.init({}, losses, OUTPUT, WEIGHTS, False)
  assert set(variables["balancer"]) == {"near", "far", "seen"}
  assert all(value == 0 for value in variables["balancer"].values())
  apply = functools.partial(module.apply, variables, losses, weights=WEIGHTS, train=False)
  loss, values = apply(OUTPUT)
  plain, plain_values = WeightedSum().apply({}, losses, OUTPUT, WEIGHTS, False)
  assert loss == plain and values == plain_values
  gradient = jax.grad(lambda output: apply(output)[0])(OUTPUT)
  np.testing.assert_allclose(gradient, [[4.5, 6.5]] * 2, rtol=1e-6)


def test_the_gin_file_balances_the_codec_and_adds_averages_alone():
  balanced, plain = (trainings.load(f"tiny/{name}") for name in (NAME, "soundstream"))
  assert balanced.model.combine == Balancer(0.999) and plain.model.combine == WeightedSum()
  state, wanted = balanced.abstract_state, plain.abstract_state
  averages = {"reconstruction", "waveform", "adversarial", "features", "seen"}
  assert set(state.collections.pop("balancer")["combine"]) == averages
  assert jax.tree.structure(state) == jax.tree.structure(wanted)


@pytest.mark.slow
def test_the_mesh_changes_nothing():
  after = functools.partial(test_contracts.after, NAME, **test_contracts.CHANGES["soundstream"])
  found = after((2, 2, 2))
  test_contracts.assert_same(found, after())
  assert all(value > 0 for value in found[0].collections["balancer"]["combine"].values())


@pytest.mark.slow
def test_bfloat16_is_near_float32():
  after = functools.partial(test_contracts.after, NAME, **test_contracts.CHANGES["soundstream"])
  found, wanted = (
    result[0].collections["balancer"]["combine"] for result in (after(DTYPE="bfloat16"), after())
  )
  assert found == {name: pytest.approx(value, rel=0.1) for name, value in wanted.items()}


@pytest.mark.slow
def test_overfits_one_batch(rng):
  weights = {"reconstruction_weight": 2.0, "waveform_weight": 0.1, "adversarial_weight": 4.0}
  module = codec(**weights, feature_weight=4.0, combine=Balancer(0.99))
  batch = {"waveform": music() + rng.normal(size=(2, 4800)).astype("f") * 0.03}
  optimizer = optax.adam(3e-3)
  state = jax.jit(lambda: nn.unbox(init_state(module, optimizer, batch, 0)))()
  step = jax.jit(functools.partial(train_step, module, optimizer, 1, 0))
  losses = []
  for _ in range(100):
    state, metrics = step(state, batch)
    losses.append(float(metrics["reconstruction"][0] / metrics["reconstruction"][1]))
  assert losses[-1] < 0.5 * losses[0]
