"""One run at a time in a model directory."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import sys

import jax

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # by some network file systems


@contextlib.contextmanager
def exclusive(model_dir: str):
  """While another process uses MODEL_DIR in this way, raises ValueError that names it.

  Of a job, process 0 holds the lock. The operating system releases it when that process ends,
  however it ends; the file MODEL_DIR/lock stays, and its existence means nothing.
  """
  if jax.process_index():
    yield
    return
  path = pathlib.Path(model_dir, "lock")
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      holder = file.read().strip() or "another process"
      wanted = "wait for its end, or choose another MODEL_DIR"
      raise ValueError(f"{model_dir}: {holder} trains in this directory; {wanted}") from None
    except OSError as error:
      if error.errno not in _UNSUPPORTED:
        raise
      print(f"{path}: no locks here: start no second run in this directory", file=sys.stderr)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    yield
