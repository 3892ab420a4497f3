"""Devices that this machine lacks, for XLA to compile for: TPUs by libtpu, GPUs by JAX's plugin.

The figures of GPUs are those of NVIDIA's data sheets and the CUDA C++ Programming Guide, Section
16.2 (technical specifications per compute capability).
"""

import dataclasses
import re

from musiclm_jax.training import hardware

_EVERY_GPU = """
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 shared_memory_per_block: 49152
"""


@dataclasses.dataclass(frozen=True)
class _Gpu:
  """The figures of a GPU that XLA needs: cores are streaming multiprocessors; bytes, and GHz."""

  name: str
  compute_capability: int  # the major version
  cores: int
  lanes: int  # float32 units of a core
  shared_memory: int  # of a core; a block may have 1 KiB less
  l2_cache: int
  bandwidth: int  # of the memory, per second
  clock: float

  def target(self) -> str:
    """XLA's GpuTargetConfigProto as text."""
    return f"""gpu_device_info {{ {_EVERY_GPU}
      cuda_compute_capability {{ major: {self.compute_capability} }}
      core_count: {self.cores} fpus_per_core: {self.lanes} clock_rate_ghz: {self.clock}
      shared_memory_per_core: {self.shared_memory}
      shared_memory_per_block_optin: {self.shared_memory - 1024}
      l2_cache_size: {self.l2_cache}
      device_memory_size: {int(hardware.chip(self.name).memory)} memory_bandwidth: {self.bandwidth}
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}
    device_description_str: "{self.name}" """


_GPUS = {
  "a100": _Gpu("NVIDIA A100", 8, 108, 64, 164 << 10, 40 << 20, 2_039 * 10**9, 1.41),
  "h100": _Gpu("NVIDIA H100", 9, 132, 128, 228 << 10, 50 << 20, 3_350 * 10**9, 1.98),
  "h200": _Gpu("NVIDIA H200", 9, 132, 128, 228 << 10, 50 << 20, 4_800 * 10**9, 1.98),
}


# XLA's options by platform, for missing devices: it would time tiles of Triton's products on a GPU.
OPTIONS = {"gpu": {"xla_gpu_enable_triton_gemm": False}}


def devices(topology: str, slices: int = 1) -> list:
  """The devices of so many TPU slices, v5e:16x16, or of GPUs by hosts and GPUs per host, h200:4x8.

  Raises ValueError for an unknown topology, and where the compiler for it is not installed.
  """
  from jax.experimental import topologies

  kind, _, shape = topology.partition(":")
  try:
    if kind not in _GPUS:
      hardware.disable_tpu_probe()
      more = {"num_slices": slices} if slices > 1 else {}
      if shape == "1x1":  # libtpu takes hosts to have 2x2 chips
        more["chips_per_host_bounds"] = (1, 1, 1)
      return topologies.get_topology_desc(topology, platform="tpu", **more).devices
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", shape):
      raise RuntimeError("wanted hosts and GPUs per host")
    target = _GPUS[kind].target()
    return topologies.get_topology_desc(
      platform="cuda", target_config=target, topology=f"1x{shape}"
    ).devices
  except (RuntimeError, NotImplementedError) as error:
    line = str(error).split("\n")[0]
    known = f"one as v5e:16x16 (the extra [compile]) or {'/'.join(_GPUS)}:4x8 (the extra [gpu])"
    raise ValueError(f"topology: no {topology!r} here: {line}; wanted {known}") from None
