"""What a table says about the files of a folder, and which of its rows have a file."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Protocol

from musiclm_jax import storage
from musiclm_jax.datasets.audio_folder import Entry, Reject


@dataclasses.dataclass(frozen=True)
class Table:
  """What is known of the files of a folder.

  `entries` {file: its entry} has those that can be used, `rejects` the others. `splits` are those
  of the table, in order. `settings` identify it: values of JSON. `rows` {row: its split} are all
  rows of a published list, of which the folder may have some; {} where each row must have a file.
  """

  entries: dict[str, Entry]
  splits: tuple[str, ...]
  settings: dict
  rejects: tuple[Reject, ...] = ()
  rows: dict[str, str] = dataclasses.field(default_factory=dict)


class TableReader(Protocol):
  """Reads what is known of the files of a folder."""

  def read(self, folder: str, files: Collection[str]) -> Table:
    """The table of `files`, paths within `folder`.

    Raises ValueError, with all faults at once, where the table itself cannot be used.
    """


def match(
  name: str,
  rows: dict[str, Entry],
  files: Collection[str],
  row_of: Callable[[str], str],
  **table,
) -> Table:
  """The table of this name with these rows {row: entry}, matched with the files.

  row_of(file) is the row of a file, by its name; it raises ValueError with the reason where it can
  be that of none. Files without a row, and second files of one, are rejects. `table` are the other
  fields of the Table.
  """
  entries, rejects, first = {}, [], {}
  for file in files:
    try:
      row = row_of(file)
      if row not in rows:
        raise ValueError(f"{name} has no row {row}")
      if row in first:
        raise ValueError(f"a second file of row {row}, the first is {first[row]}")
    except ValueError as error:
      rejects.append(Reject(file, str(error)))
      continue
    first[row] = file
    entries[file] = dataclasses.replace(rows[row], row=row)
  splits = {row: entry.split for row, entry in rows.items()}
  return Table(entries, rejects=tuple(rejects), rows=splits, **table)


def subset(rows: dict[str, str], present: Collection[str]) -> dict:
  """How many of the rows {row: split} are present, in all and by split: values of JSON.

  {"rows": 5521, "found": 5469, "hash": "1f…", "splits": {"train": {"rows": …, …}, …}}
  """
  splits = {}
  for row, split in rows.items():
    splits.setdefault(split, []).append(row)
  present = set(present)
  by_split = {split: _counted(each, present) for split, each in sorted(splits.items())}
  return _counted(list(rows), present) | {"splits": by_split}


def subset_hash(rows: Collection[str]) -> str:
  """Twelve hexadecimal digits that identify a set of rows, in whatever order."""
  return storage.digest("\n".join(sorted(set(rows))))


def _counted(rows: list[str], present: set[str]) -> dict:
  found = [row for row in rows if row in present]
  return {"rows": len(rows), "found": len(found), "hash": subset_hash(found)}


def describe(
  genres: Collection[str] = (), instruments: Collection[str] = (), moods: Collection[str] = ()
) -> str:
  """A caption of labels: "Rock and folk music with piano and flute. Mood or theme: calm, epic."

  "Music." where there are none.
  """
  text = f"{_listed(genres)} music" if genres else "music"
  text += f" with {_listed(instruments)}" if instruments else ""
  text = f"{text[0].upper()}{text[1:]}."
  return f"{text} Mood or theme: {', '.join(moods)}." if moods else text


def _listed(names: Collection[str]) -> str:
  *others, last = names
  return f"{', '.join(others)} and {last}" if others else last
