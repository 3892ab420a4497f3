"""Reads the tensors of a .pth file of torch, without torch and without running what it names.

Both formats of `torch.save`: the archive of torch 1.6 and later, and the pickles one after another
of before. Of a pickle only what makes ordered dictionaries of plain tensors is executed.
"""

import collections
import pickle
import zipfile

import numpy as np

_TYPES = {
  "FloatStorage": np.float32,
  "DoubleStorage": np.float64,
  "HalfStorage": np.float16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
}
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the format before 1.6


def load(path: str) -> dict[str, np.ndarray]:
  """{name: array} of a file that holds a state_dict.

  Raises ValueError, naming the file, where it is another file or holds anything else.
  """
  try:
    tensors = _archive(path) if zipfile.is_zipfile(path) else _pickles(path)
  except _BROKEN as error:
    raise ValueError(f"{path}: no file of tensors by torch ({error})") from None
  if not isinstance(tensors, dict) or not all(isinstance(x, np.ndarray) for x in tensors.values()):
    raise ValueError(f"{path}: wanted a dictionary of tensors (a state_dict) and nothing else")
  return dict(tensors)


# What unpickling raises where the content is of another kind.
_BROKEN = (
  pickle.UnpicklingError,
  zipfile.BadZipFile,
  AttributeError,
  EOFError,
  LookupError,
  TypeError,
  ValueError,
)


class _Unpickler(pickle.Unpickler):
  """Makes arrays of tensors; `storage` gives the array [elements] of a type, key and count."""

  def __init__(self, file, storage):
    super().__init__(file)
    self._storage = storage

  def find_class(self, module, name):
    if module == "torch" and name in _TYPES:
      return _TYPES[name]
    if (module, name) not in _MAKERS:
      raise pickle.UnpicklingError(f"it holds a {module}.{name}")
    return _MAKERS[module, name]

  def persistent_load(self, pid):
    _, kind, key, _, count, *_ = pid
    return self._storage(kind, key, count)


def _tensor(storage, offset, size, stride, *_):
  """A view of a storage as an array; offset and strides count elements."""
  last = offset + sum((n - 1) * step for n, step in zip(size, stride))
  if min((offset, *size, *stride)) < 0 or (0 not in size and last >= len(storage)):
    raise pickle.UnpicklingError("a tensor reaches beyond its storage")
  strides = [step * storage.itemsize for step in stride]
  return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)


_MAKERS = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch._utils", "_rebuild_tensor_v2"): _tensor,
}


def _archive(path: str):
  """The pickle data.pkl, with a file data/KEY for each storage."""
  with zipfile.ZipFile(path) as archive:
    described = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "data.pkl")

    def storage(kind, key, count):
      content = archive.read(f"{described.removesuffix('data.pkl')}data/{key}")
      return np.frombuffer(content, kind, count)

    with archive.open(described) as file:
      return _Unpickler(file, storage).load()


def _pickles(path: str):
  """Pickles of the magic number, a version, the byte order, the tensors and the order of their
  storages; then for each storage its count, int64, and its elements.
  """
  arrays = {}

  def storage(kind, key, count):
    return arrays.setdefault(key, np.empty(count, kind))

  with open(path, "rb") as file:
    magic, _, _, tensors, keys = (_Unpickler(file, storage).load() for _ in range(5))
    if magic != _MAGIC:
      raise pickle.UnpicklingError("it begins with another number")
    for key in keys:
      count, array = np.frombuffer(file.read(8), np.int64)[0], arrays[key]
      content = np.frombuffer(file.read(array.nbytes), array.dtype)
      if count != len(array) or len(content) != len(array):
        raise pickle.UnpicklingError("it ends early")
      array[:] = content
  return tensors
