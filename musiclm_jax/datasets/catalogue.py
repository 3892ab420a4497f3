"""The catalogue of the built-in corpus: the scores of music21 that it uses, and their licences.

`data/works.csv` is the list of usable works; `catalogue_builder` makes it from the collections
below, and `data/README.md` gives the reason for each.
"""

import csv
import dataclasses
import functools
import pathlib
from typing import NamedTuple

from musiclm_jax.datasets.splits import hash_fraction

TUNES = "traditional melody in the public domain; volunteers' transcription without restriction"
UNRESTRICTED = "composer dead over 150 years; no restriction in the file"
BACH = "composer dead over 150 years; encoding by Margaret Greentree, used by permission"
CC0 = "public domain, encoding CC0 (notice in the file)"
QUARTET = "string quartet movement"


class Collection(NamedTuple):
  """What is true of all scores of a folder; `form` is "" where it differs from work to work."""

  name: str
  composer: str
  form: str
  licence: str


# By the pattern of their paths within music21's corpus.
COLLECTIONS = {
  "ryansMammoth/*.abc": Collection("Ryan's Mammoth Collection, 1883", "traditional", "", TUNES),
  "oneills1850/*.abc": Collection("O'Neill's Music of Ireland, 1903", "traditional", "", TUNES),
  "airdsAirs/*.abc": Collection("Aird's Airs, 1778-1801", "traditional", "", TUNES),
  "bach/bwv*.mxl": Collection("Bach chorales", "Johann Sebastian Bach", "chorale", BACH),
  "haydn/*/*.mxl": Collection("Quartets", "Joseph Haydn", QUARTET, UNRESTRICTED),
  "mozart/k[148]*/*.mxl": Collection("Quartets", "Wolfgang Amadeus Mozart", QUARTET, UNRESTRICTED),
  "beethoven/*/*.mxl": Collection("Quartets", "Ludwig van Beethoven", QUARTET, UNRESTRICTED),
  "schumann_robert/opus41no1/*.mxl": Collection(
    "Quartets", "Robert Schumann", QUARTET, UNRESTRICTED
  ),
  "corelli/*/*.xml": Collection("Sonatas", "Arcangelo Corelli", "trio sonata movement", "CC-BY"),
  "johnson_j_r/*.mxl": Collection("Songs", "John Rosamond Johnson", "song", CC0),
  "liliuokalani/*.mxl": Collection("Songs", "Liliuokalani", "song", CC0),
  "lusitano/*.mxl": Collection("Madrigals", "Vicente Lusitano", "madrigal", CC0),
}
LEFT_OUT = {"bach/bwv846.mxl"}  # taken from a MuseScore page whose licence is not stated


@dataclasses.dataclass(frozen=True)
class Work:
  """One row of `data/works.csv`.

  `path` is relative to music21's corpus folder, `number` the index of the tune in its file, from
  1. `key` and `metre` are those of the notes that `scores.read_music` returns; `stretch` is the
  factor by which it lengthens the written values (2 for a reel in sixteenths of 2/4, so that the
  beat is the one that is felt). `parts` is the number of voices.
  """

  id: str
  path: str
  number: int
  title: str
  composer: str
  key: str
  metre: str
  form: str
  stretch: float
  parts: int
  split: str
  collection: str
  licence: str


def data_folder() -> pathlib.Path:
  """The folder data/ of the lists that the corpus is made from.

  In the package of an installed wheel, beside it in a checkout. Raises FileNotFoundError where it
  is in neither.
  """
  package = pathlib.Path(__file__).resolve().parents[1]
  for folder in (package / "data", package.parent / "data"):
    if (folder / "works.csv").exists():
      return folder
  raise FileNotFoundError(
    f"works.csv: wanted in {package / 'data'} or {package.parent / 'data'}, found in neither"
  )


@functools.cache
def list_works() -> tuple[Work, ...]:
  """All usable works, in an order that mixes the collections and is the same for every size.

  The few polyphonic works come earlier than their share: they are a third of a small corpus.
  """
  with open(data_folder() / "works.csv", encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  convert = {field.name: field.type for field in dataclasses.fields(Work)}
  works = [Work(**{name: convert[name](value) for name, value in row.items()}) for row in rows]

  def rank(work):
    return hash_fraction(work.id) * (0.2 if work.parts > 1 else 1.0)

  return tuple(sorted(works, key=rank))
