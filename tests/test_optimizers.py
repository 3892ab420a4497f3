"""Schedules and optimizers against the formulas of the papers, in numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from musiclm_jax.training import optimizers
from musiclm_jax.training.step import parameter_axes
from tests import trainings

PARAMS = {
  "encoder": {"kernel": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)},
  "bias": np.array([0.5, -2.0], np.float32),
  "discriminators": {"discriminators": np.ones(3, np.float32), "scale": np.array([2], np.float32)},
}


def gradients(scale=1.0):
  return jax.tree.map(lambda x: (scale * (1 + np.cos(7 * x))).astype(np.float32), PARAMS)


def updates(optimizer, gradients, params=PARAMS):
  """What the optimizer gives for one gradient after another, the parameters held."""
  state, found = optimizer.init(params), []
  for each in gradients:
    update, state = optimizer.update(each, state, params)
    found.append(update)
  return found


def allclose(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize(
  ("step", "value"),
  [
    (0, 0.001),
    (1, 0.001),
    (5, 0.005),
    (10, 0.01),
    (40, 0.005),
    (1000, 0.001),
    (10**6, 1e-2 * 1e-5**0.5),
  ],
)
def test_warmup_rsqrt(step, value):
  schedule = optimizers.warmup_rsqrt(peak=0.01, warmup_steps=10)
  assert float(schedule(jnp.asarray(step))) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
  ("step", "value"),
  [
    (0, 0.0),
    (5, 0.5),
    (10, 1.0),
    (60, 0.6),
    (85, 0.2 + 0.4 * (1 - 0.5**0.5)),
    (110, 0.2),
    (500, 0.2),
  ],
)
def test_warmup_cosine(step, value):
  schedule = optimizers.warmup_cosine(peak=1.0, warmup_steps=10, total_steps=110, final=0.2)
  assert float(schedule(step)) == pytest.approx(value, abs=1e-6)


def test_each_branch_gets_its_own_parameters():
  """Only the name at the top counts."""
  optimizer = optimizers.branches(main=optax.sgd(1.0), discriminators=optax.sgd(0.1))
  given = gradients()
  (found,) = updates(optimizer, [given])
  wanted = {name: jax.tree.map(lambda g: -g, given[name]) for name in ("encoder", "bias")}
  wanted["discriminators"] = jax.tree.map(lambda g: -0.1 * g, given["discriminators"])
  allclose(found, wanted, rtol=1e-6)


def test_a_branch_is_clipped_by_its_own_norm():
  def clipped(norm):
    return optax.chain(optax.clip_by_global_norm(norm), optax.sgd(1.0))

  given = gradients(100.0)
  optimizer = optimizers.branches(main=clipped(3.0), discriminators=clipped(2.0))
  (found,) = updates(optimizer, [given])
  inner = found.pop("discriminators")
  assert float(optax.global_norm(found)) == pytest.approx(3.0, rel=1e-5)
  assert float(optax.global_norm(inner)) == pytest.approx(2.0, rel=1e-5)


def test_adamw_is_adam_of_clipped_gradients_and_decays_apart():
  """Adam (Kingma and Ba 2015, algorithm 1) with decoupled decay (Loshchilov and Hutter 2019)."""
  settings = dict(b1=0.9, b2=0.98, weight_decay=0.1, clip=1.0)
  rate = optimizers.warmup_rsqrt(peak=0.01, warmup_steps=2)
  given = [gradients(scale) for scale in (50.0, 1e-3, 2.0)]
  found = updates(optimizers.adamw(learning_rate=rate, **settings), given)
  first = second = jax.tree.map(np.zeros_like, PARAMS)
  for count, each in enumerate(given):
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(each)))
    each = jax.tree.map(lambda g, norm=norm: g / max(norm, 1.0), each)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, each)
    second = jax.tree.map(lambda v, g: 0.98 * v + 0.02 * g**2, second, each)

    def step(m, v, p, count=count):
      m, v = m / (1 - 0.9 ** (count + 1)), v / (1 - 0.98 ** (count + 1))
      return -float(rate(count)) * (m / (np.sqrt(v) + 1e-8) + 0.1 * p)

    allclose(found[count], jax.tree.map(step, first, second, PARAMS), rtol=1e-4, atol=1e-7)


def test_adafactor_is_its_formula_where_nothing_is_factored():
  """Shazeer and Stern 2018, algorithms 4 and 5 for vectors; relative steps, no momentum."""
  optimizer = optimizers.adafactor(learning_rate=0.01, decay_rate=0.8, clip=1e9)
  given = [gradients(scale) for scale in (1.0, 30.0, 0.1)]
  found = updates(optimizer, given)
  second = jax.tree.map(np.zeros_like, PARAMS)
  for count, each in enumerate(given):
    decay = 1 - (count + 1) ** -0.8
    second = jax.tree.map(lambda v, g, d=decay: d * v + (1 - d) * (g**2 + 1e-30), second, each)

    def step(g, v, p):
      update = g / np.sqrt(v)
      update = update / max(1.0, np.sqrt(np.mean(update**2)))
      return -0.01 * max(1e-3, np.sqrt(np.mean(p**2))) * update

    allclose(found[count], jax.tree.map(step, each, second, PARAMS), rtol=1e-4, atol=1e-7)


def test_adafactor_is_that_of_optax_with_its_defaults():
  """Factored moments, whose memory is a row and a column, and clipping before them."""
  params = {"kernel": np.random.default_rng(0).normal(size=(128, 160)).astype(np.float32)}
  given = [jax.tree.map(lambda p, s=s: s * np.sin(5 * p), params) for s in (1e-3, 1e-4, 1e-3)]
  ours = optimizers.adafactor(learning_rate=0.01, decay_rate=0.8, clip=1.0)
  theirs = optax.adafactor(0.01, decay_rate=0.8)
  allclose(updates(ours, given, params), updates(theirs, given, params), rtol=1e-6)
  sizes = [leaf.size for leaf in jax.tree.leaves(ours.init(params))]
  assert max(sizes) == 160
  first, loud = (jax.tree.map(lambda p, f=f: f(5 * p), params) for f in (np.cos, np.sin))
  first, quiet = (each["kernel"] / np.linalg.norm(each["kernel"]) for each in (first, loud))
  given = [{"kernel": first}, loud], [{"kernel": first}, {"kernel": quiet}]
  allclose(updates(ours, given[0], params), updates(theirs, given[1], params), rtol=1e-4)


def test_none_changes_nothing():
  (found,) = updates(optimizers.none(), [gradients(10.0)])
  allclose(found, jax.tree.map(np.zeros_like, PARAMS), rtol=0)


def test_warmup_stable_decay():
  schedule = optimizers.warmup_stable_decay(
    peak=1.0, warmup_steps=10, decay_steps=20, total_steps=110, final=0.2
  )
  found = [float(schedule(step)) for step in (0, 5, 10, 89, 100, 110, 500)]
  np.testing.assert_allclose(found, [0, 0.5, 1, 1, 0.6, 0.2, 0.2], atol=1e-6)
  with pytest.raises(ValueError, match="less than the 10 steps of the run, found 12"):
    optimizers.warmup_stable_decay(
      peak=1.0, warmup_steps=6, decay_steps=6, total_steps=9, final=0.0
    )


def test_a_warmup_longer_than_the_run_is_refused():
  with pytest.raises(ValueError, match="wanted warmup_steps of less than the 5 steps.*found 10"):
    optimizers.warmup_cosine(peak=1.0, warmup_steps=10, total_steps=5, final=0.0)


def test_lion_is_its_formula():
  """Chen et al. 2023, algorithm 2."""
  optimizer = optimizers.lion(learning_rate=0.01, b1=0.9, b2=0.99, weight_decay=0.1, clip=1e9)
  given = [gradients(scale) for scale in (1.0, -30.0)]
  found = updates(optimizer, given)
  moment = jax.tree.map(np.zeros_like, PARAMS)
  for count, each in enumerate(given):
    wanted = jax.tree.map(
      lambda m, g, p: -0.01 * (np.sign(0.9 * m + 0.1 * g) + 0.1 * p), moment, each, PARAMS
    )
    allclose(found[count], wanted, rtol=1e-5, atol=1e-7)
    moment = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g, moment, each)


QKV, OUT = ("layers", "embed", None, "heads", "head_dim"), ("layers", "heads", "head_dim", "embed")


@pytest.mark.parametrize(
  ("axes", "shape", "matrix"),
  [
    (QKV, (2, 6, 3, 2, 4), lambda x: x[1, :, 2].reshape(6, 8)),
    (OUT, (2, 2, 4, 6), lambda x: x[1].reshape(8, 6)),
    (("layers", "embed", None, "mlp"), (2, 6, 2, 8), lambda x: x[1, :, 1]),
    (("layers", "mlp", "embed"), (2, 8, 6), lambda x: x[1]),
  ],
)
def test_muon_makes_each_matrix_orthogonal(axes, shape, matrix):
  params = {"matrix": np.ones(shape, np.float32), "table": np.ones((5, 6), np.float32)}
  rng = np.random.default_rng(0)
  given = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
  axes = {"matrix": axes, "table": ("vocab", "embed")}
  settings = dict(learning_rate=0.01, beta=0.9, weight_decay=0.0, clip=1e9)
  (found,) = updates(optimizers.muon(axes=axes, **settings), [given], params)
  singular = np.linalg.svd(matrix(np.asarray(found["matrix"])), compute_uv=False)
  assert singular.min() > 0.5 * singular.max()  # five steps of Newton and Schulz come so near
  assert np.sum(matrix(np.asarray(found["matrix"])) * matrix(given["matrix"])) < 0
  # Adam's first step, with Nesterov's look-ahead: signs.
  ahead = 0.9 * 0.1 / (1 - 0.9**2) + 0.1 / (1 - 0.9)
  np.testing.assert_allclose(found["table"], -0.01 * ahead * np.sign(given["table"]), rtol=1e-3)


@pytest.mark.parametrize(
  "axes",
  [
    ("vocab", "embed"),  # a table
    ("embed", "code"),  # a head, not of stacked layers
    ("layers", "embed"),  # a norm's scale
    ("layers", None, "heads", "head_dim"),  # a bias
    ("layers", "kernel", "mlp"),  # a depthwise convolution
    ("kernel", "kernel", "channels_in", "channels_out"),
    (),
  ],
)
def test_muon_leaves_what_is_no_matrix_of_layers_to_adam(axes):
  assert optimizers.matrix_axes(axes) is None


def test_the_matrices_of_a_stage_are_its_attention_and_feed_forward():
  training = trainings.load("tiny/semantic")
  axes = parameter_axes(model=training.model, examples=training)
  named = jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda x: isinstance(x, tuple))
  matrices = {path[-1].key for path, names in named if optimizers.matrix_axes(names)}
  assert matrices == {"qkv", "out", "wi", "wo"}


def test_the_learning_rate_of_a_step_is_in_the_state():
  rate = optimizers.warmup_rsqrt(peak=0.01, warmup_steps=4)
  for name, settings in {
    "adamw": dict(b1=0.9, b2=0.9, weight_decay=0.0),
    "lion": dict(b1=0.9, b2=0.9, weight_decay=0.0),
    "muon": dict(beta=0.9, weight_decay=0.0, axes=jax.tree.map(lambda x: (None,) * x.ndim, PARAMS)),
    "adafactor": dict(decay_rate=0.8),
  }.items():
    optimizer = getattr(optimizers, name)(learning_rate=rate, clip=1.0, **settings)
    state = optimizer.init(PARAMS)
    for step in range(3):
      _, state = optimizer.update(gradients(), state, PARAMS)
      ((_, found),) = optax.tree.get_all_with_path(state, "learning_rate")
      assert float(found) == pytest.approx(float(rate(step)))


def test_the_average_follows_the_parameters():
  optimizer = optimizers.averaged(optimizer=optax.sgd(1.0), decay=0.75)
  params, state = PARAMS, optimizer.init(PARAMS)
  wanted = PARAMS
  for step in range(40):
    changes, state = optimizer.update(gradients(), state, params)
    params = optax.apply_updates(params, changes)
    decay = min(0.75, (1 + step) / (10 + step))
    wanted = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, wanted, params)
  allclose(optax.tree.get(state, "parameter_average"), wanted, rtol=1e-6)
  plain = optax.sgd(1.0)
  assert optimizers.averaged(optimizer=plain, decay=0.0) is plain
  for decay in (1.0, -0.1):
    with pytest.raises(ValueError, match="EMA_DECAY: wanted 0 or more and less than 1"):
      optimizers.averaged(optimizer=plain, decay=decay)


def rates(training, steps):
  """The learning rate of each step, and the largest change of a matrix."""
  params = jax.tree.map(
    lambda x: np.ones(x.shape, np.float32), nn.unbox(training.abstract_state.params)
  )
  update = jax.jit(training.optimizer.update)
  state, rates, moved = training.optimizer.init(params), [], []
  for _ in range(steps):
    changes, state = update(jax.tree.map(np.ones_like, params), state, params)
    rates.append(float(optax.tree.get(state, "learning_rate")))
    moved.append(float(jnp.abs(changes["decoder"]["layers"]["wi"]).max()))
  return rates, moved


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_a_file_replaces_the_optimizer_and_schedule_of_a_stage(name):
  steps = dict(TOTAL_STEPS=8, WARMUP_STEPS=2, DECAY_STEPS=4)
  files = f"tiny/semantic optimizer/{name} optimizer/stable_decay"
  found, moved = rates(trainings.load(files, PEAK=0.5, **steps), 8)
  np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.5, 0.5, 0.375, 0.25, 0.125], rtol=1e-6)
  assert moved[0] == 0 and min(moved[1:]) > 0.01


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_a_file_falls_to_a_tenth_of_its_own_peak(name):
  training = trainings.load(f"tiny/semantic optimizer/{name}", WARMUP_STEPS=2, TOTAL_STEPS=6)
  found, _ = rates(training, 7)
  assert found[-1] == pytest.approx(max(found) / 10)
