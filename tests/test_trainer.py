"""The trainer's contracts on a toy model: resuming, microbatches, meshes, learning, refusals."""

import contextlib
import json
import math
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax import checkpointing
from musiclm_jax.partitioning import MeshShape
from musiclm_jax.training import optimizers, progress, trainer


class Regression(nn.Module):
  """A linear model with dropout noise and a running mean, state besides its parameters."""

  noise: float

  @nn.compact
  def __call__(self, batch, train: bool):
    x, y = batch["x"], batch["y"]
    init = nn.with_logical_partitioning(nn.initializers.normal(0.1), ("embed", "mlp"))
    kernel = self.param("kernel", init, (16, 32))
    seen = self.variable("statistics", "seen", lambda: jnp.zeros(()))
    if train:
      seen.value = seen.value + x.sum()
      x = x + self.noise * jax.random.normal(self.make_rng("dropout"), x.shape)
    errors = ((x @ kernel - y) ** 2).mean(axis=1)
    weight = batch["weight"]
    total = weight.sum()
    loss = (errors * weight).sum() / total
    chance = ((y**2).mean(axis=1) * weight).sum()
    return loss, {"loss": (loss * total, total), "chance": (chance, total)}


class Data:
  """Batches that are a function of the step."""

  batch_size = 16
  num_batches = 2

  def __init__(self, stop_at=None):
    self.provenance = {"sources": {}, "parts": {}}
    self._stop_at = stop_at

  def batches(self, first_step):
    step = first_step
    while step != self._stop_at:
      rng = np.random.default_rng(step)
      x = rng.standard_normal((16, 16)).astype(np.float32)
      kernel = np.random.default_rng(99).standard_normal((16, 32)).astype(np.float32)
      weight = rng.uniform(0.5, 2.0, 16).astype(np.float32)
      yield {"x": x, "y": x @ kernel, "weight": weight}
      step += 1
    raise KeyboardInterrupt  # what stops a run from outside


def train(model_dir, *, steps=30, stop_at=None, mesh=(1, 1, 8), microbatches=1, **options):
  optimizer = optimizers.adamw(
    learning_rate=optimizers.warmup_cosine(peak=0.05, warmup_steps=5, total_steps=60, final=0.0),
    b1=0.9,
    b2=0.99,
    weight_decay=0.0,
    clip=100.0,
  )
  return trainer.train(
    model=Regression(noise=options.pop("noise", 0.1)),
    train_data=Data(stop_at),
    eval_data=Data(),
    optimizer=optimizer,
    mesh_shape=MeshShape(*mesh),
    model_dir=str(model_dir),
    steps=trainer.Steps(total=steps, log=10, evaluate=20, checkpoint=10, floors={}),
    num_microbatches=microbatches,
    **{"seed": 0, "initial": {}} | options,
  )


def weights(model_dir):
  return checkpointing.read_weights(str(model_dir))


def allclose(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_it_learns_and_leaves_a_part(tmp_path):
  final = train(tmp_path, noise=0.0, steps=60)
  assert final["loss"] < 0.2 * final["chance"]
  assert set(weights(tmp_path)) == {"params", "statistics"}
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [r["step"] for r in rows if r["split"] == "eval"] == [20, 40, 60]
  losses = [r["loss"] for r in rows if r["split"] == "train"]
  assert len(losses) == 6 and losses[-1] < losses[0]
  assert all(math.isfinite(v) for r in rows for v in r.values() if isinstance(v, float))


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
  train(tmp_path / "whole")
  for stop in (13, 24):  # off the checkpoints, which are at 10 and 20
    with contextlib.suppress(KeyboardInterrupt):
      train(tmp_path / "parts", stop_at=stop)
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
  train(tmp_path / "parts")
  jax.tree.map(
    np.testing.assert_array_equal, weights(tmp_path / "whole"), weights(tmp_path / "parts")
  )


def test_a_finished_run_is_left_as_it_is(tmp_path):
  train(tmp_path)
  before = (tmp_path / "weights.safetensors").read_bytes()
  train(tmp_path, stop_at=30)
  assert (tmp_path / "weights.safetensors").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2), (2, 4, 1)])
def test_the_mesh_changes_nothing(tmp_path, mesh):
  train(tmp_path / "one", mesh=(1, 1, 8))
  train(tmp_path / "other", mesh=mesh)
  allclose(weights(tmp_path / "one"), weights(tmp_path / "other"), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_microbatches_equal_one_batch(tmp_path):
  # without noise: rows then see no random number that depends on their part
  train(tmp_path / "one", noise=0.0)
  train(tmp_path / "four", noise=0.0, microbatches=4)
  allclose(weights(tmp_path / "one"), weights(tmp_path / "four"), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_another_seed_gives_other_weights(tmp_path):
  train(tmp_path / "a", steps=5)
  train(tmp_path / "b", steps=5, seed=1)
  kernels = [weights(tmp_path / name)["params"]["kernel"] for name in "ab"]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_another_configuration_in_the_same_directory_is_refused(tmp_path):
  train(tmp_path, steps=5)
  with pytest.raises(ValueError, match='another configuration.*"noise"'):
    train(tmp_path, steps=5, noise=0.5)


@pytest.mark.parametrize("mesh", [(1, 1, 8), (8, 1, 1)])
def test_a_run_starts_from_the_weights_of_another(tmp_path, capsys, monkeypatch, mesh):
  monkeypatch.setattr(checkpointing, "_PACKAGE", "tests")  # where this model comes from
  train(tmp_path / "first")
  train(tmp_path / "second", steps=0, seed=5, initial={"": str(tmp_path / "first")}, mesh=mesh)
  first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
  jax.tree.map(np.testing.assert_array_equal, first, second)
  assert "the model starts from" in capsys.readouterr().err
  origin = json.loads((tmp_path / "second" / "model.json").read_text())["provenance"]["initial"]
  assert origin == {"": {"part": checkpointing.fingerprint(tmp_path / "first")}}


def test_a_part_of_another_shape_is_no_start(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpointing, "_PACKAGE", "tests")
  train(tmp_path / "first", steps=1)
  path = tmp_path / "first"
  checkpointing.write_weights(path, {"params": {"other": np.zeros((3,), np.float32)}})
  with pytest.raises(ValueError, match="part lacks params/kernel.*part has params/other"):
    train(tmp_path / "second", initial={"": str(path)})
  with pytest.raises(ValueError, match="nowhere: model.json is missing"):
    train(tmp_path / "third", initial={"": str(tmp_path / "nowhere")})


def test_moments_are_sharded_like_their_parameters():
  from musiclm_jax.partitioning import make_mesh

  optimizer = optimizers.branches(
    main=optimizers.adamw(learning_rate=0.1, b1=0.9, b2=0.9, weight_decay=0.0, clip=1.0),
    discriminators=optimizers.adafactor(learning_rate=0.1, decay_rate=0.8, clip=1.0),
  )
  batch = next(Data().batches(0))
  boxed = jax.eval_shape(
    lambda b: trainer.init_state(Regression(noise=0.0), optimizer, b, 0), batch
  )
  mesh = make_mesh(MeshShape(2, 2, 2))
  found = trainer.state_shardings(boxed, mesh)
  kernel = found.params["kernel"].spec
  assert tuple(kernel) == ("fsdp", "tensor")
  moments = [s for s in jax.tree.leaves(found.opt_state) if tuple(s.spec) == tuple(kernel)]
  assert len(moments) == 2  # Adam's two; the discriminators' branch has no parameters here


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
  clean = Data.batches

  def poisoned(self, first_step):
    for batch in clean(self, first_step):
      yield {**batch, "x": batch["x"] * np.nan}

  monkeypatch.setattr(Data, "batches", poisoned)
  with pytest.raises(ValueError, match="step 10: the loss is nan"):
    train(tmp_path)
  assert not pathlib.Path(tmp_path, "weights.safetensors").exists()


def test_a_metric_under_its_floor_stops_the_run():
  means = {"loss": 1.0, "perplexity_0": 1.2}
  trainer.check_health(7, means, {"perplexity_0": (1.1, "the codebook has collapsed")})
  with pytest.raises(ValueError, match="^step 7: the codebook has collapsed: perplexity_0 is 1.2"):
    trainer.check_health(7, means, {"perplexity_0": (2.0, "the codebook has collapsed")})
  with pytest.raises(ValueError, match="'perplexity', which is no metric; there are .*_0"):
    trainer.check_health(7, means, {"perplexity": (2.0, "")})


def test_progress_says_when_a_run_does_not_learn(tmp_path, capsys):
  with progress.Progress(str(tmp_path), 10) as log:
    log.evaluation(10, {"loss": 6.23, "chance": 6.24})
    log.evaluation(10, {"loss": 3.0, "chance": 6.24})
  lines = capsys.readouterr().err.splitlines()
  assert "NOT LEARNING" in lines[0] and "NOT LEARNING" not in lines[1]


def test_durations():
  assert [progress.duration(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
