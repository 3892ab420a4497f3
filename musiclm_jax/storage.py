"""Writing files whole or not at all, and short names of their content."""

import hashlib
import os
import pathlib


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file whole or not at all, and the directories above it."""
  write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file whole or not at all, and the directories above it."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # two runs may write the same file
  try:
    partial.write_bytes(content)
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def check_writable(path: str) -> None:
  """Raises ValueError or OSError, where a file could not be written; makes its folder."""
  if pathlib.Path(path).is_dir():
    raise ValueError(f"{path}: wants the name of a file, this is a folder")
  folder = pathlib.Path(path).resolve().parent
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    raise ValueError(f"{folder}: wants a folder, this is a file or in one") from None
  if not os.access(folder, os.W_OK):
    raise ValueError(f"{folder}: this folder cannot be written")


def digest(text: str) -> str:
  """Twelve hexadecimal digits that identify a text."""
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint(paths: list[str | os.PathLike]) -> str:
  """Twelve hexadecimal digits that identify the content of files, whatever their names."""
  state = hashlib.sha256()
  for path in paths:
    with open(path, "rb") as file:
      while block := file.read(1 << 20):
        state.update(block)
  return state.hexdigest()[:12]
