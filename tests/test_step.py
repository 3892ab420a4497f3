"""The step and its program: microbatches, shardings, batches that do not divide."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax.partitioning import MeshShape, make_mesh
from musiclm_jax.training import optimizers
from musiclm_jax.training.step import TrainConfig, init_state, microbatches, state_shardings
from tests.programs import program
from tests.regression import Data, Regression


def adamw():
  return optimizers.adamw(learning_rate=0.1, b1=0.9, b2=0.9, weight_decay=0.0, clip=1.0)


def config(mesh, microbatches=1):
  return TrainConfig(Regression(noise=0.0), adamw(), MeshShape(1, *mesh), microbatches, seed=0)


@pytest.mark.slow
def test_rows_that_belong_together_are_in_one_microbatch():
  rows = jnp.arange(12)
  assert microbatches(3, 1, rows).tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
  assert microbatches(3, 2, rows).tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
  made = program("tiny/melody", 8)
  with pytest.raises(ValueError, match="into 4 microbatches, each a multiple of 2, on 2 devices"):
    dataclasses.replace(program("tiny/melody", 8, mesh=(2, 1, 1)), num_microbatches=4)
  rng = np.random.default_rng(0)
  waveform = rng.uniform(-0.5, 0.5, made.shapes["waveform"].shape).astype(np.float32)
  batch = {"waveform": waveform, "melody": np.repeat(np.arange(4, dtype=np.int32), 2)}
  made = dataclasses.replace(made, num_microbatches=2)
  _, metrics = made.step(made.init(), batch)
  assert float(metrics["loss"][1]) == 8  # every row has met its partner


def test_moments_are_sharded_like_their_parameters():
  optimizer = optimizers.branches(
    main=adamw(),
    discriminators=optimizers.adafactor(learning_rate=0.1, decay_rate=0.8, clip=1.0),
  )
  batch = next(Data().batches(0))
  boxed = jax.eval_shape(lambda b: init_state(Regression(noise=0.0), optimizer, b, 0), batch)
  found = state_shardings(boxed, make_mesh(MeshShape(1, 2, 2, 2)))
  kernel = found.params["kernel"].spec
  assert tuple(kernel) == ("fsdp", "tensor")
  moments = [s for s in jax.tree.leaves(found.opt_state) if tuple(s.spec) == tuple(kernel)]
  assert len(moments) == 2  # Adam's two; the discriminators' branch has no parameters here


@pytest.mark.parametrize("fsdp, said", [(2, ""), (8, "mesh: fsdp=8 splits no array")])
def test_a_mesh_that_splits_nothing_is_reported(fsdp, said, capsys):
  assert config((-1, fsdp, 1)).program(Data.shapes).shardings
  err = capsys.readouterr().err
  assert err.startswith(said) and bool(err) == bool(said)


def test_rows_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="batch_size: 16 rows do not divide into 3 microbatches"):
    config((1, 1, 8), microbatches=3).program(Data.shapes)
  with pytest.raises(ValueError, match="into 4 microbatches on 8 devices of slices, data and fsdp"):
    config((8, 1, 1), microbatches=4).program(Data.shapes)
