"""The peak figures of accelerators, by their makers' data sheets, which runs are compared with.

TPUs: cloud.google.com/tpu/docs (system architecture pages); GPUs: NVIDIA's data sheets, dense.
"""

import dataclasses
import os
from pathlib import Path

_NO_TPU = {  # what libtpu would otherwise ask a metadata server for, or take a lock for
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """bfloat16 operations per second, bytes of memory, and bytes per second between chips, one way,
  over all links of a chip.
  """

  flops: float
  memory: float
  network: float


_CHIPS = {  # by a prefix of JAX's device_kind; the longest one counts
  "TPU v4": Chip(275e12, 32e9, 150e9),
  "TPU v5 lite": Chip(197e12, 16e9, 100e9),
  "TPU v5": Chip(459e12, 95e9, 300e9),
  "TPU v6 lite": Chip(918e12, 32e9, 224e9),
  "NVIDIA A100": Chip(312e12, 80e9, 300e9),
  "NVIDIA H100": Chip(989e12, 80e9, 450e9),
  "NVIDIA H200": Chip(989e12, 141e9, 450e9),
}


def chip(device_kind: str) -> Chip | None:
  """The chip of a JAX device, None if it is not in the table."""
  known = [name for name in _CHIPS if device_kind.startswith(name)]
  return _CHIPS[max(known, key=len)] if known else None


def has_tpu() -> bool:
  """Whether this machine has a TPU."""
  devices = Path("/dev")
  return any(devices.glob("accel*")) or any(devices.glob("vfio/[0-9]*"))


def disable_tpu_probe() -> None:
  """Stops libtpu, which compiles for TPUs, from searching for a TPU on a machine without one."""
  if not has_tpu():
    for name, value in _NO_TPU.items():
      os.environ.setdefault(name, value)
