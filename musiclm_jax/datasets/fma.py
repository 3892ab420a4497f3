"""FMA: tracks.csv and genres.csv of fma_metadata, and a folder of tracks that the user has."""

import dataclasses
import pathlib
import re
from collections.abc import Collection
from typing import Literal, get_args

from musiclm_jax import storage
from musiclm_jax.datasets import file_table, table_rows
from musiclm_jax.datasets.audio_folder import Entry

Subset = Literal["small", "medium", "large"]  # each has the tracks of those before it
_SUBSETS = get_args(Subset)
_SPLITS = {"training": "train", "validation": "validation", "test": "test"}
_COLUMNS = (
  *("track_id", "set split", "set subset", "track genre_top", "track genres"),
  *("track license", "track title", "artist name"),
)


@dataclasses.dataclass(frozen=True)
class Fma:
  """The file `table`, tracks.csv, with genres.csv beside it; the tracks of one `subset` of it.

  The subset "large" has all tracks, also those of fma_full. A track's file is named by its number,
  000/000002.mp3. It has no text of its own: its caption names its genres, its aspects are these.
  """

  table: str
  subset: Subset

  def read(self, folder: str, files: Collection[str]) -> file_table.Table:
    """The table of the files, in the published splits, with the licence of each.

    Raises ValueError, all at once and with their lines, for rows with an impossible or repeated
    number, an unknown split, subset or genre, or a malformed list.
    """
    del folder
    genres_path = str(pathlib.Path(self.table).with_name("genres.csv"))
    genres = _read_genres(genres_path)
    rows, lines = {}, {}

    def take(line: int, row: dict[str, str]) -> None:
      number = _number("track_id", row["track_id"])
      if number in lines:
        raise ValueError(f"a second row of {number}, the first is in line {lines[number]}")
      lines[number] = line
      subset = _one_of("set subset", row["set subset"], _SUBSETS)
      if _SUBSETS.index(subset) <= _SUBSETS.index(self.subset):
        rows[number] = _entry(row, genres)

    table_rows.read_rows(self.table, _COLUMNS, take, delimiters=(",",), header_rows=3)
    digest = storage.fingerprint([self.table, genres_path])
    settings = {"table": "FMA", "subset": self.subset, "digest": digest}
    splits = tuple(_SPLITS.values())
    name = f"{pathlib.PurePath(self.table).name}, subset {self.subset},"
    return file_table.match(name, rows, files, _row_of, splits=splits, settings=settings)


def _read_genres(path: str) -> dict[int, str]:
  """{number: title} of genres.csv."""
  genres = {}

  def take(line: int, row: dict[str, str]) -> None:
    del line
    genres[int(_number("genre_id", row["genre_id"]))] = row["title"].strip()

  table_rows.read_rows(path, ("genre_id", "title"), take, delimiters=(",",))
  return genres


def _entry(row: dict[str, str], genres: dict[int, str]) -> Entry:
  numbers = table_rows.parse_list("track genres", row["track genres"], int)
  unknown = [number for number in numbers if number not in genres]
  if unknown:
    raise ValueError(f"track genres: genres.csv has no genre {unknown[0]}")
  top = row["track genre_top"].strip()
  names = dict.fromkeys([*([top] if top else []), *(genres[number] for number in numbers)])
  title, artist = row["track title"].strip(), row["artist name"].strip()
  return Entry(
    file_table.describe(genres=names),
    tuple(names),
    split=_SPLITS[_one_of("set split", row["set split"], tuple(_SPLITS))],
    licence=row["track license"].strip(),
    credit=f"{title} by {artist}",
  )


def _row_of(file: str) -> str:
  stem = pathlib.PurePosixPath(file).stem
  if not re.fullmatch("[0-9]+", stem):
    raise ValueError("its name is not the number of a track, as 000002.mp3")
  return str(int(stem))


def _number(name: str, text: str) -> str:
  if not re.fullmatch("[0-9]+", text.strip()):
    raise ValueError(f"{name} wants a number, got {text!r}")
  return str(int(text))


def _one_of(name: str, text: str, known: tuple[str, ...]) -> str:
  if text.strip() not in known:
    raise ValueError(f"{name} wants {' or '.join(known)}, got {text!r}")
  return text.strip()
