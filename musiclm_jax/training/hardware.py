"""What accelerators can do, by their makers' data sheets: the ceiling that runs are held against.

TPUs: cloud.google.com/tpu/docs (system architecture pages); GPUs: NVIDIA's data sheets, dense.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """bfloat16 operations a second, bytes of memory, and bytes a second between chips, one way, over
  all links of a chip.
  """

  flops: float
  memory: float
  network: float


_CHIPS = {  # by what the device's kind begins with; the longest that fits
  "TPU v4": Chip(275e12, 32e9, 150e9),
  "TPU v5 lite": Chip(197e12, 16e9, 100e9),
  "TPU v5": Chip(459e12, 95e9, 300e9),
  "TPU v6 lite": Chip(918e12, 32e9, 224e9),
  "NVIDIA A100": Chip(312e12, 80e9, 300e9),
  "NVIDIA H100": Chip(989e12, 80e9, 450e9),
  "NVIDIA H200": Chip(989e12, 141e9, 450e9),
}


def chip(device_kind: str) -> Chip | None:
  """The chip that a JAX device is, None where it is not in the table."""
  known = [name for name in _CHIPS if device_kind.startswith(name)]
  return _CHIPS[max(known, key=len)] if known else None
