"""A toy training: a linear regression on batches that are a function of the step."""

import dataclasses
import itertools
import json
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax import part_files
from musiclm_jax.partitioning import MeshShape
from musiclm_jax.training import optimizers, trainer
from musiclm_jax.training.checkpoints import CheckpointPolicy
from musiclm_jax.training.health import Limits
from musiclm_jax.training.step import TrainConfig


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


@dataclasses.dataclass
class Data:
  """Batches of 16 rows. Before step `stop_before` (counted from 1) the run is interrupted, before
  the steps of `signals` {step: signal} it gets a signal, and the inputs of the steps `not_finite`
  are not numbers.
  """

  stop_before: int | None = None
  signals: dict[int, signal.Signals] = dataclasses.field(default_factory=dict)
  not_finite: frozenset[int] = frozenset()

  fingerprint, num_batches = "", 2
  provenance = {"sources": {}, "parts": {}}
  shapes = {
    "x": jax.ShapeDtypeStruct((16, 16), jnp.float32),
    "y": jax.ShapeDtypeStruct((16, 32), jnp.float32),
    "weight": jax.ShapeDtypeStruct((16,), jnp.float32),
  }

  def records_of(self, step):
    return [step]

  def batches(self, first_step, rows=None):
    for step in itertools.count(first_step + 1):
      if step == self.stop_before:
        raise KeyboardInterrupt
      if step in self.signals:
        signal.raise_signal(self.signals[step])
      rng = np.random.default_rng(step - 1)
      x = rng.standard_normal((16, 16)).astype(np.float32)
      kernel = np.random.default_rng(99).standard_normal((16, 32)).astype(np.float32)
      weight = rng.uniform(0.5, 2.0, 16).astype(np.float32)
      yield {"x": x * (np.nan if step in self.not_finite else 1), "y": x @ kernel, "weight": weight}


def train(model_dir, *, steps=30, mesh=(1, 1, 8), data=None, microbatches=1, **options):
  """Trains the regression; the options are those of trainer.train and its settings."""
  optimizer = optimizers.adamw(
    learning_rate=optimizers.warmup_cosine(peak=0.05, warmup_steps=5, total_steps=60, final=0.0),
    b1=0.9,
    b2=0.99,
    weight_decay=0.0,
    clip=100.0,
  )
  return trainer.train(
    config=TrainConfig(
      Regression(noise=options.pop("noise", 0.1)),
      optimizers.averaged(optimizer=optimizer, decay=options.pop("decay", 0.0)),
      MeshShape(1, *mesh),
      microbatches,
      options.pop("seed", 0),
    ),
    train_data=data or Data(),
    eval_data=Data(),
    model_dir=str(model_dir),
    steps=trainer.Steps(total=steps, evaluate=options.pop("eval_period", 20)),
    policy=CheckpointPolicy(
      period=options.pop("checkpoint_period", 10), keep=2, keep_period=0, best=""
    ),
    logging=trainer.Logging(
      period=options.pop("log_period", 10), wandb_project=options.pop("wandb_project", "")
    ),
    **{"initial": {}, "compile_cache": "", "hooks": (Limits(5, {}, 10),)} | options,
  )


def metrics(model_dir, split):
  """The lines of metrics.jsonl of "train" or "eval"."""
  rows = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
  return [row for row in rows if row["split"] == split]


def weights(model_dir):
  return part_files.read_weights(str(model_dir))


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def allclose(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)
