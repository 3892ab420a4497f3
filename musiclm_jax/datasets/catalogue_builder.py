"""Makes `data/works.csv`, the catalogue of works, from the scores that music21 ships.

Run as `python -m musiclm_jax.datasets.catalogue_builder data/works.csv` (a few minutes on two
cores). It keeps works of one metre and one key whose notes confirm the key, so that captions made
from the list are true.
"""

import csv
import dataclasses
import os
import pathlib
import re
import sys

import numpy as np

from musiclm_jax.datasets import scores, splits, workers
from musiclm_jax.datasets.catalogue import COLLECTIONS, LEFT_OUT, Collection, Work

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
FORMS = (
  *("slip jig", "jig", "reel", "hornpipe", "strathspey", "highland fling", "clog", "waltz"),
  *("polka", "march", "minuet", "quick step", "air", "song"),
)


def notated_key(score) -> str:
  """The key signature of a score as "D dorian"; a signature without a mode counts as major.

  "" where there are several signatures, or the mode is not one of `scores.SCALES`.
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
  """(metre, stretch) of a score; ("", 1.0) where it has several metres or an unusual one."""
  from music21 import meter

  found = {each.ratioString for each in score.recurse().getElementsByClass(meter.TimeSignature)}
  metre, stretch = METRES.get(found.pop(), ("", 1.0)) if len(found) == 1 else ("", 1.0)
  # Reels and hornpipes in sixteenths: read as eighths, a bar of 2/4 becomes one of 4/4.
  if metre in ("2/4", "4/4") and np.median(notes[:, 1]) * stretch <= 0.25:
    return "4/4", 2 * stretch
  return metre, stretch


def describe(path: str, number: int, collection: Collection) -> tuple[Work, str] | None:
  """A work and its incipit (the intervals of its first notes), or None where it is not usable.

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
  title = abc_field(text, "T").strip(" \"'") if single else title_of(score, path)
  stem = path.rsplit(".", 1)[0]
  work = Work(
    id=f"{stem}:{number}" if single else stem,
    path=path,
    number=number,
    title=title,
    composer=collection.composer,
    key=key,
    metre=metre,
    form=collection.form or form_of(f"{abc_field(text, 'R')} {title}"),
    stretch=stretch,
    parts=len(music.parts),
    split="",
    collection=collection.name,
    licence=collection.licence,
  )
  first = scores.melody_of(music.parts[0])[:9, 2]
  return work, " ".join(f"{step:.0f}" for step in np.diff(first))


def abc_field(text: str, field: str) -> str:
  """The first value of a header field: abc_field("X:1\\nT: The Rake", "T") == "The Rake"."""
  found = re.search(rf"(?m)^{field}:\s*(.*?)\s*$", text)
  return found[1] if found else ""


def form_of(text: str) -> str:
  """form_of("hornpipe The Rights of Man") == "hornpipe"; "folk tune" where no form is named."""
  text = text.lower().replace("quickstep", "quick step")
  return next((name for name in FORMS if re.search(rf"\b{name}s?\b", text)), "folk tune")


def title_of(score, path: str) -> str:
  """Where a MusicXML score is in the corpus, with its titles: "Haydn opus1no1 movement1 (...)"."""
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


def describe_file(job: tuple[str, Collection]) -> list[tuple[Work, str]]:
  """The usable works of one file of the corpus, (path, its collection).

  Names those that music21 cannot read on stderr.
  """
  from music21 import exceptions21

  path, collection = job
  file, found = scores.corpus_folder() / path, []
  single = file.suffix != ".abc"
  count = 1 if single else len(scores.split_tunes(file.read_text("utf-8", "replace")))
  unreadable = (ValueError, KeyError, IndexError, AttributeError, TypeError)
  for number in range(1, count + 1):
    try:
      work = describe(path, number, collection)
    except (exceptions21.Music21Exception, *unreadable) as error:
      print(f"{path} number {number} left out: {type(error).__name__} {error}", file=sys.stderr)
      continue
    if work:
      found.append(work)
  return found


def make_list() -> list[Work]:
  """Every usable work of the installed music21, in the order of the collections."""
  folder = scores.corpus_folder()
  collections = {
    file.relative_to(folder).as_posix(): collection
    for pattern, collection in COLLECTIONS.items()
    for file in sorted(folder.glob(pattern))
  }
  jobs = [item for item in collections.items() if item[0] not in LEFT_OUT]
  with workers.ordered_map(os.cpu_count() or 1) as parallel:
    found = [each for works in parallel(describe_file, jobs) for each in works]
  split = splits.split_of_works((work.id, work.title, incipit) for work, incipit in found)
  return [dataclasses.replace(work, split=split[work.id]) for work, _ in found]


def write_list(path: pathlib.Path) -> None:
  """Writes the list of works as a CSV file with one column per field of `catalogue.Work`."""
  works = make_list()
  partial = path.with_name(path.name + ".partial")
  with open(partial, "w", encoding="utf-8", newline="") as file:
    names = [field.name for field in dataclasses.fields(Work)]
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(dataclasses.asdict, works))
  partial.replace(path)


if __name__ == "__main__":
  write_list(pathlib.Path(sys.argv[1]))
