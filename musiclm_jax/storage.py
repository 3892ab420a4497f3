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
  partial = path.with_name(path.name + ".partial")
  partial.write_bytes(content)
  os.replace(partial, path)


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
