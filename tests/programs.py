"""The programs of the gin files' trainings."""

import jax

from musiclm_jax import partitioning
from musiclm_jax.training.step import Program
from tests import trainings


def program(name: str, rows: int, *, mesh=(1, 1, 1), **macros) -> Program:
  """That of gin/NAME with batches of so many rows on a mesh (data, fsdp, tensor)."""
  training = trainings.load(name, **macros)
  devices = jax.devices()[: mesh[0] * mesh[1] * mesh[2]]
  mesh = partitioning.make_mesh(partitioning.MeshShape(1, *mesh), devices)
  shapes = partitioning.batched(training.shapes, rows)
  return Program(training.model, training.optimizer, mesh, shapes, 1, seed=0)
