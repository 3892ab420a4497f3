"""Full disks: libraries raise different errors with the operating system's text for one."""

import contextlib
import errno
import os

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def errors(path: str):
  """Raises OSError, with the number of the operating system and a path, where a disk is full.

  The path is that of the error, else `path`. Orbax and TensorStore raise ValueError instead, which
  would pass for a mistake of the user.
  """
  try:
    yield
  except (ValueError, OSError) as error:
    for number in _FULL:
      if os.strerror(number) in str(error):
        where = getattr(error, "filename", None) or path
        raise OSError(number, os.strerror(number), str(where)) from None
    raise
