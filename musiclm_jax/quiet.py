"""Silence while libraries are imported."""

import contextlib
import os


@contextlib.contextmanager
def quiet():
  """Drops what is written to file descriptor 2, as TensorFlow does before its log level is read."""
  kept = os.dup(2)
  with open(os.devnull, "w") as nowhere:
    os.dup2(nowhere.fileno(), 2)
  try:
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
