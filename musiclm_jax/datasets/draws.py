"""Random generators that depend on names alone: no work of a corpus depends on another."""

import hashlib

import numpy as np


def generator(*parts) -> np.random.Generator:
  """A random generator seeded by `parts` alone: the same in every process, order and platform."""
  digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
  return np.random.default_rng(int.from_bytes(digest[:16], "big"))
