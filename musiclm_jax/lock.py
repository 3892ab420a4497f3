"""One run at a time in a directory: of those that start together, the one started first."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import sys
from collections.abc import Callable, Iterator

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # by some network file systems
# The bytes of DIRECTORY/lock that processes lock: each run the one of its process id, the run that
# has begun _BEGUN too. _TURN is held while the others are tried.
_TURN, _BEGUN = 2**40, 2**40 + 1


class Taken(ValueError):  # noqa: N818 - it is an answer, not always a mistake
  """Another process runs in the directory."""


@contextlib.contextmanager
def exclusive(directory: str) -> Iterator[Callable[[], None]]:
  """Gives a function `begin`, to be called when a run is ready and before it writes.

  Raises Taken at once where another run has begun in `directory`. `begin` raises it where
  another has begun since, or a process with a lower id, which was started before, gets ready for
  the same directory: of two that start together the first one runs, whichever is ready first.

  The operating system releases the locks of a process when it ends, however it ends; the file
  DIRECTORY/lock stays, and its existence means nothing. Raises OSError, naming the file, where it
  cannot be written.
  """
  path, process = pathlib.Path(directory, "lock"), os.getpid()
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("ab+", buffering=0) as file:

    def begin() -> None:
      with _turn(file, path) as locks:
        if locks and not _is_free(file, 0, process):
          raise _refusal(directory, "an earlier process")
        if locks and not _lock(file, _BEGUN, 1):
          raise _refusal(directory, _holder(file))
        file.truncate(0)
        file.write(f"process {process} on {socket.gethostname()}\n".encode())

    with _turn(file, path) as locks:
      if not locks:
        print(f"{path}: no locks here: start no second run in this directory", file=sys.stderr)
      elif not (_is_free(file, _BEGUN, 1) and _lock(file, process, 1)):
        raise _refusal(directory, _holder(file))
    yield begin


@contextlib.contextmanager
def _turn(file, path: pathlib.Path) -> Iterator[bool]:
  """Makes the other processes wait; whether the file system has locks."""
  try:
    try:
      fcntl.lockf(file, fcntl.LOCK_EX, 1, _TURN)
    except OSError as error:
      if error.errno not in _UNSUPPORTED:
        raise
      yield False
      return
    yield True
    fcntl.lockf(file, fcntl.LOCK_UN, 1, _TURN)
  except OSError as error:
    error.filename = str(path)
    raise


def _lock(file, start: int, count: int) -> bool:
  """Locks these bytes, unless another process holds one of them."""
  try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, count, start)
  except (BlockingIOError, PermissionError):
    return False
  return True


def _is_free(file, start: int, count: int) -> bool:
  free = _lock(file, start, count)
  if free:
    fcntl.lockf(file, fcntl.LOCK_UN, count, start)
  return free


def _holder(file) -> str:
  file.seek(0)
  return file.read().decode().strip() or "another process"


def _refusal(directory: str, holder: str) -> Taken:
  wanted = "wait for its end, or choose another directory"
  return Taken(f"{directory}: {holder} runs in this directory; {wanted}")
