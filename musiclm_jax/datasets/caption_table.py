"""The captions of a folder's files, from a CSV whose column `file` has their paths."""

import dataclasses
import os
import posixpath
from collections.abc import Collection

from musiclm_jax import storage
from musiclm_jax.datasets import splits, table_rows
from musiclm_jax.datasets.audio_folder import Entry, composed
from musiclm_jax.datasets.file_table import Table
from musiclm_jax.ranges import Fraction

_SHOWN = 5  # files without a row that are named


@dataclasses.dataclass(frozen=True)
class Captions:
  """The CSV at `path`, or no captions where it is ""; `shares` of train, validation and test.

  It has the columns `file`, `caption` and, if it is there, `aspect_list`, separated by commas,
  semicolons or tabs. A file is named by its path within the folder, in any spelling (./NAME,
  composed or decomposed Unicode, absolute). A hash of its path decides its split.
  """

  path: str
  shares: tuple[Fraction, ...]

  def read(self, folder: str, files: Collection[str]) -> Table:
    """The table of the folder's files.

    Raises ValueError, with the line where there is one, for wrong shares, missing or repeated
    columns, and with all faults at once for rows whose file is not among `files`, second rows of a
    file, empty captions, malformed aspect lists, and files without a row.
    """
    splits.check_shares(self.shares)
    texts = read_captions(self.path, folder, files) if self.path else {}
    entries = {
      file: dataclasses.replace(
        texts.get(file, Entry()), split=splits.split_of_file(file, self.shares)
      )
      for file in files
    }
    settings = {"shares": list(self.shares)}
    if self.path:
      settings["captions"] = storage.fingerprint([self.path])
    used = [name for name, share in zip(splits.SPLITS, self.shares) if share or name == "train"]
    return Table(entries, tuple(used), settings)


def read_captions(path: str, folder: str, files: Collection[str]) -> dict[str, Entry]:
  """{file: entry with its caption} of a CSV. Raises ValueError as `Captions.read` does."""
  entries, lines = {}, {}
  by_base_name = {posixpath.basename(file).casefold(): file for file in files}

  def take(line: int, row: dict[str, str]) -> None:
    file = _file(row["file"], folder)
    if file not in files:
      close = by_base_name.get(posixpath.basename(file).casefold())
      hint = f"; it has {close!r}" if close else ""
      raise ValueError(f"no audio file {row['file']!r} in the folder{hint}")
    if file in lines:
      raise ValueError(f"a second row of {file}, the first is in line {lines[file]}")
    lines[file] = line
    text = row["caption"].strip()
    if not text:
      raise ValueError(f"the caption of {file} is empty")
    aspects = table_rows.parse_list("aspect_list", row.get("aspect_list", ""))
    entries[file] = Entry(text, aspects)

  table_rows.read_rows(path, ("file", "caption"), take)
  without = [file for file in files if file not in lines]
  if without:
    more = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
    raise ValueError(f"{path}: no row of the file {', '.join(without[:_SHOWN])}{more}")
  return entries


def _file(value: str, folder: str) -> str:
  """The name, as in `audio_folder.Listing`, of a value of the column `file`."""
  path = os.path.relpath(value, os.path.abspath(folder)) if os.path.isabs(value) else value
  return posixpath.normpath(composed(path.strip()))
