"""The device mesh and the one table that maps logical axis names to mesh axes.

Models name the logical axes of parameters and of a few activations; only this file names mesh axes.
"""

import contextlib
import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import spmd
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from musiclm_jax.ranges import PositiveInt

_AXES = ("slices", "data", "fsdp", "tensor")
_BATCH = _AXES[:3]
# Parameters are sharded over fsdp and tensor, activations over all but tensor (batch) and tensor.
RULES = (
  ("batch", _BATCH),
  ("length", None),
  ("embed_act", None),
  ("mlp_act", "tensor"),
  ("embed", "fsdp"),
  ("mlp", "tensor"),
  ("heads", "tensor"),
  ("head_dim", None),
  ("vocab", "tensor"),
  ("layers", None),
  ("codebook", None),
  ("code", None),
  ("kernel", None),
  # Not split: a convolution with the batch split by data and fsdp and the kernel by fsdp and tensor
  # gives wrong results (jaxlib 0.10.2 exchanges rows). No model has over 30M parameters in kernels.
  ("channels_in", None),
  ("channels_out", None),
  ("position", None),
)
_NARROWEST_SHARD = 8  # narrower shards made XLA turn all-gathers into all-reduces


@dataclasses.dataclass(frozen=True)
class MeshShape:
  """The number of devices along each mesh axis; one may be -1, for all remaining devices.

  `slices` are groups of devices with a slower network between them: slices of TPUs, hosts of GPUs.
  """

  slices: PositiveInt
  data: int
  fsdp: int
  tensor: int


def make_mesh(shape: MeshShape, devices=None) -> Mesh:
  """A mesh with the axes slices, data, fsdp and tensor over all devices.

  Where the devices are in several slices and shape.slices is 1, the outermost axes are split over
  the slices, as many as needed. Raises ValueError where the shape does not use all devices, or
  they are in another number of slices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = dataclasses.astuple(shape)
  if sizes.count(-1) == 1:
    rest = len(devices) // -math.prod(sizes)
    sizes = tuple(rest if size == -1 else size for size in sizes)
  if min(sizes) < 1 or math.prod(sizes) != len(devices):
    raise ValueError(f"{shape} wants {' x '.join(map(str, sizes))} devices, found {len(devices)}")
  axis_types = (jax.sharding.AxisType.Auto,) * len(_AXES)
  groups = {getattr(device, "slice_index", None) for device in devices}
  hosts = {device.process_index for device in devices}
  if len(groups) == 1 and sizes[0] > 1:
    groups = hosts
  if len(groups) == 1:
    return jax.make_mesh(sizes, _AXES, axis_types, devices=devices)
  if sizes[0] not in (1, len(groups)):
    raise ValueError(f"{shape} wants {sizes[0]} slices, the devices are in {len(groups)}")
  rest, between = len(groups), []
  for size in sizes:
    between.append(math.gcd(size, rest))
    rest //= between[-1]
  if rest > 1:
    raise ValueError(f"{shape}: the devices' {len(groups)} slices differ in size")
  within = [size // parts for size, parts in zip(sizes, between)]
  grid = mesh_utils.create_hybrid_device_mesh(
    within, between, devices, process_is_granule=groups is hosts, allow_split_physical_axes=True
  )
  return Mesh(grid, _AXES, axis_types)


@functools.cache
def local_mesh() -> Mesh:
  """A mesh of all devices of this process along `data`, for what is computed row by row."""
  return make_mesh(MeshShape(1, -1, 1, 1), jax.local_devices())


def use(mesh: Mesh | None):
  """A context in which `constrain` uses this mesh; with None it uses none, even inside another."""
  if mesh is None:
    return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))
  return contextlib.nullcontext() if _alone(mesh) else jax.set_mesh(mesh)


def _alone(mesh: Mesh) -> bool:
  """Whether a mesh is a single device of this process, not one that is only compiled for."""
  return mesh.size == 1 and mesh.devices.item() in jax.local_devices()


def _sharding(mesh: Mesh, *axes) -> NamedSharding | None:
  """NamedSharding of these mesh axes; None, JAX's default, on a single device of this process.

  Steps with convolutions were ten times slower with arrays committed to the only CPU device
  (SoundStream: 2.9 s instead of 0.18 s).
  """
  return None if _alone(mesh) else NamedSharding(mesh, PartitionSpec(*axes))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """x with the sharding of its logical axes in the current mesh. An unknown axis raises."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  with nn.logical_axis_rules(RULES):
    return nn.with_logical_constraint(x, axes, fallback=spmd.RulesFallback.RAISE_ERROR)


def for_each_shard(x: jax.Array, *axes: str | None) -> jax.Array:
  """Copies [shards, ...] of x with these logical axes, one for each device that has its own rows.

  The gradients of the copies are summed once. Without them XLA sums the gradient of a value that
  every layer uses in every layer, for an attention bias more than all gradients of parameters.
  """
  mesh = jax.sharding.get_abstract_mesh()
  shards = 1 if mesh.empty else num_batch_shards(mesh)
  return constrain(jnp.broadcast_to(x, (shards, *x.shape)), "batch", *axes)


def per_shard(function, *inputs: tuple[str | None, ...], output: tuple[str | None, ...]):
  """`function` of arrays with these logical axes; each device computes its part of the output.

  For what XLA's partitioner cannot split: fused kernels, and grouped convolutions, for which it
  (jaxlib 0.10.2) gathers the batch on every device and multiplies the kernel's gradient by the size
  of `tensor`.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return function
  *inputs, output = (nn.logical_to_mesh_axes(axes, RULES) for axes in (*inputs, output))
  return jax.shard_map(function, in_specs=tuple(inputs), out_specs=output, check_vma=False)


def shardings(abstract_variables, mesh: Mesh):
  """Shardings of a tree of boxed abstract variables (`nn.Partitioned`), unboxed.

  A dimension that does not divide, or whose shards would be smaller than 8 (1 for heads), is not
  split. Raises ValueError for a logical axis that is not in RULES.
  """
  table = dict(RULES)

  def one(leaf):
    value, names = (leaf.value, leaf.names) if isinstance(leaf, nn.Partitioned) else (leaf, ())
    spec = []
    for size, name in zip(value.shape, names):
      if name is not None and name not in table:
        raise ValueError(
          f"logical axis {name!r} is not in partitioning.RULES; it has {sorted(table)}"
        )
      axis = table.get(name)
      parts = mesh.shape[axis] if isinstance(axis, str) else 1
      narrowest = 1 if name == "heads" else _NARROWEST_SHARD  # a head has many values of its own
      spec.append(axis if parts > 1 and size % parts == 0 and size // parts >= narrowest else None)
    return _sharding(mesh, *spec)

  return jax.tree.map(one, abstract_variables, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def batched(shapes: dict, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a batch of `rows` examples."""
  return {name: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype) for name, x in shapes.items()}


def num_batch_shards(mesh: Mesh) -> int:
  """The number of parts into which the rows of a batch are split."""
  return math.prod(mesh.shape[axis] for axis in _BATCH)


def batch_sharding(mesh: Mesh) -> NamedSharding | None:
  """The sharding of a batch: its first dimension is split by slices, data and fsdp."""
  return _sharding(mesh, _BATCH)


def placed(abstract, mesh: Mesh, axes: tuple[str | None, ...]):
  """Abstract arrays with the sharding of these logical axes; those of other rank replicated."""
  spec = nn.logical_to_mesh_axes(axes, RULES)

  def one(x):
    return x.update(sharding=_sharding(mesh, *spec[: x.ndim] if x.ndim == len(axes) else ()))

  return jax.tree.map(one, abstract)


def replicated(mesh: Mesh) -> NamedSharding | None:
  """The sharding of a value that every device holds in full."""
  return _sharding(mesh)


def own_rows(rows: int, mesh: Mesh) -> np.ndarray:
  """Indices of the rows of a global batch on devices of this process, int64, ascending.

  All rows where the processes differ in `tensor` alone.
  """
  sharding, every = batch_sharding(mesh), np.arange(rows)
  if sharding is None:
    return every
  parts = sharding.addressable_devices_indices_map((rows,)).values()
  return np.unique(np.concatenate([every[part] for part in parts]))


def global_batch(batch: dict[str, np.ndarray], rows: int, mesh: Mesh) -> dict[str, jax.Array]:
  """A batch {name: [own rows, ...]} of `own_rows` as global arrays [rows, ...]."""
  sharding = batch_sharding(mesh)
  if sharding is None:
    return batch
  own, every = own_rows(rows, mesh), np.arange(rows)

  def one(values):
    def part(index):
      return values[np.searchsorted(own, every[index[0]])]

    return jax.make_array_from_callback((rows, *values.shape[1:]), sharding, part)

  return {name: one(values) for name, values in batch.items()}


def to_host(tree):
  """A tree of global arrays as whole numpy arrays, on every process: all of them must call it."""

  def whole(x):
    return x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)

  return jax.device_get(jax.tree.map(whole, tree))
