"""Meshes and the table of axis rules: what is sharded, what stays whole, what is refused."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax import partitioning
from musiclm_jax.partitioning import MeshShape, make_mesh


def boxed(shape, names):
  return nn.Partitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names=names)


@pytest.mark.parametrize(
  "shape, sizes", [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((4, 1, 2), (4, 1, 2))]
)
def test_one_axis_may_take_the_rest(shape, sizes):
  mesh = make_mesh(MeshShape(1, *shape))
  assert dict(mesh.shape) == dict(zip(("slices", "data", "fsdp", "tensor"), (1, *sizes)))


@dataclasses.dataclass(frozen=True)
class Device:
  """A device of some host and slice, as far as a mesh looks at it."""

  id: int
  process_index: int
  slice_index: int
  platform = device_kind = "gpu"


@pytest.mark.parametrize("hosts", [2, 4])
def test_slices_are_the_outermost_axis(hosts):
  devices = [Device(i, i * hosts // 8, i * 2 // 8) for i in range(8)]
  mesh = make_mesh(MeshShape(2, 2, 2, 1), devices)
  assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {1}]
  with pytest.raises(ValueError, match="wants 4 slices, the devices are in 2"):
    make_mesh(MeshShape(4, 1, 2, 1), devices)


@pytest.mark.parametrize("shape, axis", [((-1, 2, 1), 1), ((1, -1, 1), 2), ((1, 2, -1), 2)])
def test_without_an_axis_of_their_own_slices_are_the_outermost_that_can_be(shape, axis):
  devices = [Device(i, i // 4, i // 4) for i in reversed(range(8))]
  grid = np.moveaxis(make_mesh(MeshShape(1, *shape), devices).devices, axis, 0)
  halves = [{d.slice_index for d in half.flat} for half in np.split(grid, 2)]
  assert halves == [{0}, {1}]
  with pytest.raises(ValueError, match="the devices' 3 slices differ in size"):
    make_mesh(MeshShape(1, 2, 2, 2), [Device(i, i % 3, i % 3) for i in range(8)])


def test_slices_may_take_several_axes():
  devices = [Device(i, i // 2, i // 2) for i in range(8)]
  mesh = make_mesh(MeshShape(1, 2, 2, 2), devices)
  pairs = mesh.devices.reshape(4, 2)  # tensor stays inside
  assert [{d.slice_index for d in pair} for pair in pairs] == [{0}, {1}, {2}, {3}]


def test_hosts_without_slices_are_the_outermost_axis():
  devices = [Device(i, i % 4, 0) for i in range(8)]
  mesh = make_mesh(MeshShape(4, 1, 2, 1), devices)
  assert [{d.process_index for d in part.flat} for part in mesh.devices] == [{0}, {1}, {2}, {3}]
  with pytest.raises(ValueError, match="wants 2 slices, the devices are in 4"):
    make_mesh(MeshShape(2, 1, 4, 1), devices)


@pytest.mark.parametrize("shape", [(2, 2, 1), (3, -1, 1), (16, 1, 1), (-1, -1, 1), (0, 1, 8)])
def test_a_mesh_that_does_not_use_all_devices_is_refused(shape):
  with pytest.raises(ValueError, match="devices, found 8"):
    make_mesh(MeshShape(1, *shape))


def test_parameters_are_sharded_by_the_table():
  mesh = make_mesh(MeshShape(1, 2, 2, 2))
  tree = {
    "wi": boxed((16, 2, 32), ("embed", None, "mlp")),
    "narrow": boxed((8, 32), ("embed", "mlp")),  # 4-wide shards of embed would be too narrow
    "odd": boxed((17, 32), ("embed", "mlp")),
    "few": boxed((16, 2, 64), ("embed", "heads", "head_dim")),  # a head is wide enough
    "plain": jax.ShapeDtypeStruct((4,), jnp.float32),
  }
  found = {name: tuple(s.spec) for name, s in partitioning.shardings(tree, mesh).items()}
  assert found == {
    "wi": ("fsdp", None, "tensor"),
    "narrow": (None, "tensor"),
    "odd": (None, "tensor"),
    "few": ("fsdp", "tensor", None),
    "plain": (),
  }


def test_an_unknown_axis_raises():
  mesh = make_mesh(MeshShape(1, 2, 2, 2))
  with pytest.raises(ValueError, match="logical axis 'embedd' is not in"):
    partitioning.shardings({"x": boxed((16,), ("embedd",))}, mesh)
  with jax.set_mesh(mesh), pytest.raises(ValueError, match="embedd"):
    jax.jit(lambda x: partitioning.constrain(x, "batch", "embedd"))(jnp.zeros((8, 8)))


def test_grouped_convolutions_per_shard_have_their_gradients():
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(8, 24, 16)).astype("f"), rng.normal(size=(5, 4, 32)).astype("f")

  def square(kernel, x):
    convolve = functools.partial(
      jax.lax.conv_general_dilated,
      window_strides=(2,),
      padding="SAME",
      dimension_numbers=("NWC", "WIO", "NWC"),
      feature_group_count=4,
    )
    convolved = partitioning.per_shard(convolve, ("batch",), (), output=("batch",))
    return jnp.square(convolved(x, kernel)).mean()

  wanted = jax.jit(jax.grad(square))(kernel, x)
  mesh = make_mesh(MeshShape(1, 2, 2, 2))
  with partitioning.use(mesh):
    rows = jax.device_put(x, partitioning.batch_sharding(mesh))
    found = jax.jit(jax.grad(square), out_shardings=partitioning.replicated(mesh))(kernel, rows)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 2, 2, 2), (2, 2, 1, 2), (2, 1, 2, 2)])
def test_batches_are_split_over_all_axes_but_tensor(shape):
  mesh = make_mesh(MeshShape(*shape))
  batch = partitioning.global_batch({"x": np.arange(16).reshape(8, 2)}, 8, mesh)
  assert {s.data.shape for s in batch["x"].addressable_shards} == {(2, 2)}
  np.testing.assert_array_equal(batch["x"], np.arange(16).reshape(8, 2))


def test_one_device_leaves_everything_to_jax():
  mesh = make_mesh(MeshShape(1, 1, 1, 1), jax.devices()[:1])
  batch = {"x": np.zeros((4, 2))}
  assert partitioning.global_batch(batch, 4, mesh) is batch
  assert partitioning.shardings({"x": boxed((16,), ("embed",))}, mesh) == {"x": None}
