"""MTG-Jamendo: its tables of tags, and a folder of tracks that the user has."""

import dataclasses
import pathlib
import re
from collections.abc import Collection

from musiclm_jax import storage
from musiclm_jax.datasets import file_table, splits, table_rows
from musiclm_jax.datasets.audio_folder import Entry
from musiclm_jax.ranges import Fraction

_COLUMNS = ("TRACK_ID", "ARTIST_ID", "PATH", "TAGS")
_KINDS = ("genre", "instrument", "mood/theme")
# The tags are written without spaces; what is put between their words, for readers and text models.
_SPACED = {
  name.replace(" ", ""): name
  for name in (
    *("acoustic bass guitar", "acoustic guitar", "classical guitar", "double bass", "pipe organ"),
    *("drum machine", "electric guitar", "electric piano", "acid jazz", "alternative rock"),
    *("blues rock", "bossa nova", "classic rock", "dark ambient", "deep house", "drum n bass"),
    *("easy listening", "hard rock", "hip hop", "instrumental pop", "instrumental rock"),
    *("jazz fusion", "new age", "new wave", "pop folk", "pop rock", "post rock", "punk rock"),
    *("rock n roll", "singer songwriter", "trip hop", "world fusion"),
  )
}


@dataclasses.dataclass(frozen=True)
class MtgJamendo:
  """The folder `table` of published splits, data/splits/split-0, or one TSV of tags.

  Of a folder, `NAME-train.tsv`, `-validation` and `-test` are read where NAME is `tags`. Of one
  TSV, a hash of the artist decides the split; `shares` are those of train, validation and test.
  `licences` is audio_licenses.txt, or "". A track's file is named 14/214.mp3 or 14/214.low.mp3. Its
  caption names its genres, instruments and moods, its aspects are these.
  """

  table: str
  tags: str
  licences: str
  shares: tuple[Fraction, ...]

  def read(self, folder: str, files: Collection[str]) -> file_table.Table:
    """The table of the files, with the licence of each where these are given.

    Raises ValueError, all at once and with their lines, for rows without a track's number, with a
    malformed tag, or of a track that has one already.
    """
    del folder
    splits.check_shares(self.shares)
    tables = self._tables()
    licences = _read_licences(self.licences) if self.licences else {}
    rows, places, names = {}, {}, {}
    for path, split in tables.items():

      def take(line: int, row: dict[str, str], path: str = path, split: str = split) -> None:
        number, name = _number(row["PATH"]), row["TRACK_ID"].strip()
        if number in places:
          raise ValueError(f"a second row of {name}, the first is {places[number]}")
        places[number], names[number] = f"{path}:{line}", name
        split = split or splits.split_of_file(row["ARTIST_ID"].strip(), self.shares)
        rows[name] = _entry(row["TAGS"], split, *licences.get(number, ("", "")))

      table_rows.read_rows(path, _COLUMNS, take, delimiters=("\t",), open_end=True)
    paths = [*tables, *([self.licences] if self.licences else [])]
    settings = {"table": "MTG-Jamendo", "digest": storage.fingerprint(paths)}
    if not all(tables.values()):
      settings["shares"] = list(self.shares)

    def row_of(file: str) -> str:
      number = _number(file)
      return names.get(number, number)

    return file_table.match(
      pathlib.PurePath(self.table).name,
      rows,
      files,
      row_of,
      splits=splits.SPLITS,
      settings=settings,
    )

  def _tables(self) -> dict[str, str]:
    """{path: its split, or "" where it has those of all}."""
    if not pathlib.Path(self.table).is_dir():
      return {self.table: ""}
    return {
      str(pathlib.Path(self.table, f"{self.tags}-{split}.tsv")): split for split in splits.SPLITS
    }


def _number(path: str) -> str:
  """The number of a track: _number("14/214.low.mp3") == "214"."""
  found = re.fullmatch(r"0*([0-9]+)(\.low)?\.\w+", pathlib.PurePosixPath(path.strip()).name)
  if not found:
    raise ValueError(f"{path} is not named by the number of a track, as 14/214.mp3")
  return found[1]


def _entry(tags: str, split: str, licence: str, credit: str) -> Entry:
  named = {kind: [] for kind in _KINDS}
  for tag in filter(None, map(str.strip, tags.split("\t"))):
    kind, _, name = tag.partition("---")
    if kind not in named or not name:
      raise ValueError(f"TAGS wants genre---rock or {'--- or '.join(_KINDS[1:])}---, got {tag!r}")
    named[kind].append(_SPACED.get(name, name))
  caption = file_table.describe(*named.values())
  aspects = tuple(name for names in named.values() for name in names)
  return Entry(caption, aspects, split=split, licence=licence, credit=credit)


def _read_licences(path: str) -> dict[str, tuple[str, str]]:
  """{number: (licence, credit)} of audio_licenses.txt: a track's path, its title and artist and
  its licence, a line each."""
  lines = iter(pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines())
  found = {}
  for line in lines:
    if re.fullmatch(r"[0-9]+/[0-9]+\.mp3", line.strip()):
      credit, licence = next(lines, "").strip(), next(lines, "").strip()
      link = re.search(r"https?://\S+$", licence)
      found[_number(line)] = (link[0] if link else licence, credit)
  if not found:
    raise ValueError(f"{path}: wanted audio_licenses.txt of MTG-Jamendo, found no path of a track")
  return found
