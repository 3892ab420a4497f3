"""Makes `data/works.csv`: the scores of music21 that anyone may use for anything, with key and
metre.

Run as `python -m musiclm_jax.datasets.catalogue data/works.csv` (a few minutes on two cores). Kept
are works of one metre and one key whose notes bear the key out, so that captions made from the
list are true; `data/README.md` says why each collection is in or out.
"""

import csv
import dataclasses
import multiprocessing
import pathlib
import re
import sys

import numpy as np

from musiclm_jax.datasets import scores

# Written metre -> (metre, factor on written values) so that the beat is a quarter or a dotted one.
METRES = {
  "4/4": ("4/4", 1.0),
  "2/2": ("4/4", 1.0),
  "4/2": ("4/4", 0.5),
  "2/4": ("2/4", 1.0),
  "3/4": ("3/4", 1.0),
  "3/2": ("3/4", 0.5),
  "3/8": ("3/4", 2.0),
  "6/8": ("6/8", 1.0),
  "6/4": ("6/8", 0.5),
  "9/8": ("9/8", 1.0),
  "12/8": ("12/8", 1.0),
}
TUNES = "traditional melody in the public domain; volunteers' transcription without restriction"
UNRESTRICTED = "composer dead over 150 years; no restriction in the file"
BACH = "composer dead over 150 years; encoding by Margaret Greentree, used by permission"
CC0 = "public domain, encoding CC0 (notice in the file)"
QUARTET = "string quartet movement"
# glob under music21's corpus -> (collection, composer, form or "", licence)
COLLECTIONS = {
  "ryansMammoth/*.abc": ("Ryan's Mammoth Collection, 1883", "traditional", "", TUNES),
  "oneills1850/*.abc": ("O'Neill's Music of Ireland, 1903", "traditional", "", TUNES),
  "airdsAirs/*.abc": ("Aird's Airs, 1778-1801", "traditional", "", TUNES),
  "bach/bwv*.mxl": ("Bach chorales", "Johann Sebastian Bach", "chorale", BACH),
  "haydn/*/*.mxl": ("Quartets", "Joseph Haydn", QUARTET, UNRESTRICTED),
  "mozart/k[148]*/*.mxl": ("Quartets", "Wolfgang Amadeus Mozart", QUARTET, UNRESTRICTED),
  "beethoven/*/*.mxl": ("Quartets", "Ludwig van Beethoven", QUARTET, UNRESTRICTED),
  "schumann_robert/opus41no1/*.mxl": ("Quartets", "Robert Schumann", QUARTET, UNRESTRICTED),
  "corelli/*/*.xml": ("Sonatas", "Arcangelo Corelli", "trio sonata movement", "CC-BY"),
  "johnson_j_r/*.mxl": ("Songs", "John Rosamond Johnson", "song", CC0),
  "liliuokalani/*.mxl": ("Songs", "Liliuokalani", "song", CC0),
  "lusitano/*.mxl": ("Madrigals", "Vicente Lusitano", "madrigal", CC0),
}
LEFT_OUT = {"bach/bwv846.mxl"}  # taken from a MuseScore page whose licence is not stated
FORMS = (
  *("slip jig", "jig", "reel", "hornpipe", "strathspey", "highland fling", "clog", "waltz"),
  *("polka", "march", "minuet", "quick step", "air", "song"),
)


def notated_key(score) -> str:
  """The one key signature of the score as "D dorian", or "" where there are several or its mode
  is not a scale we name.

  A signature without a mode reads as major.
  """
  from music21 import key

  found = {
    (scores.TONICS[each.tonic.pitchClass], each.mode)
    if isinstance(each, key.Key)
    else (each.sharps, "")
    for each in score.recurse().getElementsByClass(key.KeySignature)
  }
  if len(found) != 1:
    return ""
  tonic, mode = found.pop()
  if mode == "":
    return f"{scores.TONICS[7 * tonic % 12]} major"
  return f"{tonic} {mode}" if mode in scores.SCALES else ""


def checked_key(notated: str, parts: tuple[np.ndarray, ...]) -> str:
  """The key that the signature, the notes and the last note agree on, or ""."""
  notes = np.concatenate(parts)
  if len(parts) > 1:
    estimate = scores.estimate_key(notes)
    tonic, mode = scores.split_key(estimate)
    lowest = parts[-1][-1, 2] if len(parts[-1]) else -1
    same_scale = scores.share_in_scale(notes, estimate) >= 0.85
    return estimate if same_scale and lowest % 12 == tonic else ""
  tonic, mode = scores.split_key(notated)
  third = "major" if scores.SCALES[mode][2] == 4 else "minor"
  ends = parts[0][-1, 2] % 12 == tonic
  agrees = scores.estimate_key(notes) == f"{scores.TONICS[tonic]} {third}"
  return notated if (ends or agrees) and scores.share_in_scale(notes, notated) >= 0.92 else ""


def metre_of(score, notes: np.ndarray) -> tuple[str, float]:
  """(metre, stretch) of a score of one metre; ("", 1.0) where there are several or an unusual
  one."""
  from music21 import meter

  found = {each.ratioString for each in score.recurse().getElementsByClass(meter.TimeSignature)}
  metre, stretch = METRES.get(found.pop(), ("", 1.0)) if len(found) == 1 else ("", 1.0)
  # Reels and hornpipes in sixteenths: read as eighths, a bar of 2/4 becomes one of 4/4.
  if metre in ("2/4", "4/4") and np.median(notes[:, 1]) * stretch <= 0.25:
    return "4/4", 2 * stretch
  return metre, stretch


def describe(path: str, number: int, entry: tuple[str, ...]) -> tuple[scores.Work, str] | None:
  """The work and its incipit (intervals of its first notes), or None if the work is unfit.

  Raises what music21 raises on a text it cannot read.
  """
  text = scores.read_tune(scores.corpus_folder() / path, number)
  score = scores.parse(text)
  written = scores.notes_of(score, "4/4", 1.0)
  single = path.endswith(".abc")
  if not 1 <= len(written.parts) <= (1 if single else 6):
    return None
  metre, stretch = metre_of(score, written.parts[0])
  notated = notated_key(score)
  if not metre or not notated:
    return None
  music = scores.notes_of(score, metre, stretch)
  key = checked_key(notated, music.parts)
  whole = abs(float(score.highestTime) * stretch - music.length) < 1e-6
  if not key or music.length < 24 or len(music.parts[0]) < 24 or (single and not whole):
    return None
  collection, composer, form, licence = entry
  title = abc_field(text, "T").strip(" \"'") if single else title_of(score, path)
  stem = path.rsplit(".", 1)[0]
  work = scores.Work(
    id=f"{stem}:{number}" if single else stem,
    path=path,
    number=number,
    title=title,
    composer=composer,
    key=key,
    metre=metre,
    form=form or form_of(f"{abc_field(text, 'R')} {title}"),
    stretch=stretch,
    parts=len(music.parts),
    split="",
    collection=collection,
    licence=licence,
  )
  first = scores.melody_of(music.parts[0])[:9, 2]
  return work, " ".join(f"{step:.0f}" for step in np.diff(first))


def abc_field(text: str, field: str) -> str:
  """First value of a header field: abc_field("X:1\\nT: The Rake", "T") == "The Rake"."""
  found = re.search(rf"(?m)^{field}:\s*(.*?)\s*$", text)
  return found[1] if found else ""


def form_of(text: str) -> str:
  """form_of("hornpipe The Rights of Man") == "hornpipe"; "folk tune" where no form is named."""
  text = text.lower().replace("quickstep", "quick step")
  return next((name for name in FORMS if re.search(rf"\b{name}s?\b", text)), "folk tune")


def title_of(score, path: str) -> str:
  """Titles of a MusicXML score and its movement, or its place in the corpus: "Haydn opus1no1
  movement1"."""
  data = score.metadata
  names = [data.title, data.movementName] if data else []
  names = [
    " ".join(name.split())
    for name in dict.fromkeys(names)
    if name and not re.search(r"\.(mxl|xml|mus)$", name)
  ]
  folder, *rest = path.rsplit(".", 1)[0].split("/")
  place = (
    rest[-1].replace("bwv", "BWV ") if len(rest) == 1 else " ".join([folder.capitalize(), *rest])
  )
  return f"{place} ({', '.join(names)})" if names else place


def split_groups(found: list[tuple[scores.Work, str]]) -> list[scores.Work]:
  """The works with their split: about 12 % test, 6 % validation.

  Works that share a title or an incipit are versions of one melody and go the same way.
  """
  leader: dict[str, str] = {}

  def root(name):
    while leader.setdefault(name, name) != name:
      name = leader[name]
    return name

  for work, incipit in found:
    slug = re.sub(r"[^a-z0-9]|\bthe\b", "", work.title.lower())
    for label in (f"title {slug}", f"incipit {incipit}"):
      ends = sorted((root(work.id), root(label)))
      leader[ends[1]] = ends[0]

  def split(work):
    fraction = scores.fraction_of(root(work.id))
    return "test" if fraction < 0.12 else "validation" if fraction < 0.18 else "train"

  return [dataclasses.replace(work, split=split(work)) for work, _ in found]


def describe_file(path: str, entry: tuple[str, ...]) -> list[tuple[scores.Work, str]]:
  """The usable works of one file of the corpus; those that music21 cannot read are named on
  stderr."""
  from music21 import exceptions21

  file, found = scores.corpus_folder() / path, []
  count = (
    len(scores.split_tunes(file.read_text("utf-8", "replace"))) if file.suffix == ".abc" else 1
  )
  for number in range(1, count + 1):
    try:
      work = describe(path, number, entry)
    except (
      exceptions21.Music21Exception,
      ValueError,
      KeyError,
      IndexError,
      AttributeError,
      TypeError,
    ) as error:
      print(f"{path} number {number} left out: {type(error).__name__} {error}", file=sys.stderr)
      continue
    if work:
      found.append(work)
  return found


def make_list() -> list[scores.Work]:
  """Every usable work of the installed music21, in the order of the collections."""
  folder = scores.corpus_folder()
  paths = {
    file.relative_to(folder).as_posix(): entry
    for pattern, entry in COLLECTIONS.items()
    for file in sorted(folder.glob(pattern))
  }
  with multiprocessing.get_context("spawn").Pool() as pool:
    found = pool.starmap(
      describe_file, [item for item in paths.items() if item[0] not in LEFT_OUT], chunksize=1
    )
  return split_groups([work for works in found for work in works])


def write_list(path: pathlib.Path) -> None:
  """Writes the list of works as a CSV file with one column per field of `scores.Work`."""
  with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(
      file, [field.name for field in dataclasses.fields(scores.Work)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(dataclasses.asdict(work) for work in make_list())


if __name__ == "__main__":
  write_list(pathlib.Path(sys.argv[1]))
