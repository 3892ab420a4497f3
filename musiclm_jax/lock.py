"""One run at a time in a directory."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import sys

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # by some network file systems


@contextlib.contextmanager
def exclusive(directory: str):
  """Raises ValueError, naming the other process, while another process is in here for `directory`.

  The operating system releases the lock when its process ends, however it ends; the file
  DIRECTORY/lock stays, and its existence means nothing. Raises OSError, naming the file, where it
  cannot be written.
  """
  path = pathlib.Path(directory, "lock")
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("ab+", buffering=0) as file:
    try:
      _take(file, path)
    except OSError as error:
      error.filename = str(path)
      raise
    yield


def _take(file, path: pathlib.Path) -> None:
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.seek(0)
    holder = file.read().decode().strip() or "another process"
    wanted = "wait for its end, or choose another directory"
    raise ValueError(f"{path.parent}: {holder} runs in this directory; {wanted}") from None
  except OSError as error:
    if error.errno not in _UNSUPPORTED:
      raise
    print(f"{path}: no locks here: start no second run in this directory", file=sys.stderr)
  file.truncate(0)
  file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
