"""The notes of music21's scores as plain arrays, and what keys and metres are."""

import dataclasses
import io
import pathlib
import re
import zipfile

import numpy as np

from musiclm_jax.datasets.catalogue import Work

SCALES = {
  "major": (0, 2, 4, 5, 7, 9, 11),
  "minor": (0, 2, 3, 5, 7, 8, 10),
  "dorian": (0, 2, 3, 5, 7, 9, 10),
  "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
# Krumhansl and Kessler's (1982) ratings of how well a pitch class fits a key.
PROFILES = {
  "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
  "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
# Length of a bar and of the felt beat, in quarter notes.
BAR_QUARTERS = {"2/4": 2.0, "3/4": 3.0, "4/4": 4.0, "6/8": 3.0, "9/8": 4.5, "12/8": 6.0}
BEAT_QUARTERS = {"2/4": 1.0, "3/4": 1.0, "4/4": 1.0, "6/8": 1.5, "9/8": 1.5, "12/8": 1.5}


@dataclasses.dataclass(frozen=True)
class Music:
  """Notes of a work: [notes, 3] float64 (onset, duration in quarters, MIDI pitch) of each part.

  The highest part is first. `pickup` and `length` are in quarters, the length in whole bars.
  """

  parts: tuple[np.ndarray, ...]
  pickup: float
  length: float


def corpus_folder() -> pathlib.Path:
  """Folder of the scores that music21 ships."""
  import music21  # takes two seconds, and listing works needs none of it

  return pathlib.Path(music21.__file__).parent / "corpus"


def read_music(work: Work) -> Music:
  """Notes of a work. Raises ValueError where its score has none. Nothing is cached on disk."""
  score = parse(read_tune(corpus_folder() / work.path, work.number))
  music = notes_of(score, work.metre, work.stretch)
  if not music.parts:
    raise ValueError(f"{work.path}: wanted a score with notes in number {work.number}, found none")
  return music


def read_tune(path: pathlib.Path, number: int) -> str:
  """Text of one tune of an ABC file, or of the whole MusicXML file."""
  if path.suffix == ".abc":
    return split_tunes(path.read_text(encoding="utf-8", errors="replace"))[number - 1]
  if path.suffix != ".mxl":
    return path.read_text(encoding="utf-8")
  with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
    names = [
      name
      for name in archive.namelist()
      if name.endswith("xml") and not name.startswith("META-INF")
    ]
    return archive.read(names[0]).decode("utf-8")


def split_tunes(text: str) -> list[str]:
  """Tunes of an ABC file, each from its `X:` line on.

  split_tunes("%% book\\nX:1\\nK:C\\nCDE|\\nX:2\\nK:G\\nGAB|") == ["X:1\\nK:C\\nCDE|\\n",
  "X:2\\nK:G\\nGAB|"]
  """
  return re.split(r"(?m)^(?=X:)", text)[1:]


def parse(text: str):
  """The music21 score of an ABC tune or a MusicXML file; parsing text, music21 caches nothing."""
  from music21 import converter

  if not text.startswith("X:"):
    return converter.parseData(text, format="musicxml")
  # Chord symbols would be read as notes, words and page settings not at all.
  lines = [line for line in text.splitlines() if not re.match(r"%|[wWNZBIHSPQ]:", line)]
  return converter.parseData(re.sub(r'"[^"\n]*"', "", "\n".join(lines)) + "\n", format="abc")


def notes_of(score, metre: str, stretch: float) -> Music:
  """Notes of a music21 score: values multiplied by `stretch`, the length rounded up to a bar."""
  parts = [part_notes(part) for part in score.parts]
  parts = [part * np.array([[stretch, stretch, 1.0]]) for part in parts if len(part)]
  bar = BAR_QUARTERS[metre]
  first = score.parts[0].getElementsByClass("Measure").first() if score.parts else None
  pickup = 0.0 if first is None else float(first.duration.quarterLength) * stretch
  end = max(
    [float(score.highestTime) * stretch]
    + [float((part[:, 0] + part[:, 1]).max()) for part in parts]
  )
  length = float(np.ceil(end / bar - 1e-6) * bar)
  return Music(tuple(parts), pickup if pickup < bar - 1e-6 else 0.0, length)


def part_notes(part) -> np.ndarray:
  """Notes [notes, 3] of a music21 part by onset and pitch; ties joined, grace notes left out."""
  rows, last, tied = [], {}, set()
  for measure in part.getElementsByClass("Measure"):
    for layer in list(measure.voices) or [measure]:
      begin = float(measure.offset) + (0.0 if layer is measure else float(layer.offset))
      for element in layer.notes:
        for note in element.notes if element.isChord else [element]:
          onset, duration = begin + float(element.offset), float(element.quarterLength)
          held = last.get(note.pitch.midi)
          if note.pitch.midi in tied and held and abs(held[0] + held[1] - onset) < 1e-6:
            held[1] += duration
          elif duration > 0:
            last[note.pitch.midi] = [onset, duration, note.pitch.midi]
            rows.append(last[note.pitch.midi])
          opens = note.tie is not None and note.tie.type in ("start", "continue")
          (tied.add if opens else tied.discard)(note.pitch.midi)
  return np.array(sorted(rows), np.float64).reshape(-1, 3)


def melody_of(notes: np.ndarray) -> np.ndarray:
  """The highest note of every onset, [notes, 3], each cut where the next begins."""
  order = np.lexsort((-notes[:, 2], notes[:, 0]))
  notes = notes[order]
  notes = notes[np.concatenate([[True], np.diff(notes[:, 0]) > 1e-6])].copy()
  notes[:-1, 1] = np.minimum(notes[:-1, 1], np.diff(notes[:, 0]))
  return notes


def split_key(key: str) -> tuple[int, str]:
  """Pitch class and mode: split_key("D dorian") == (2, "dorian")."""
  tonic, mode = key.split()
  return TONICS.index(tonic), mode


def share_in_scale(notes: np.ndarray, key: str) -> float:
  """Share, 0 to 1, of the sounding time of notes [notes, 3] that is in the key's scale.

  The raised sixth and seventh belong to minor.
  """
  tonic, mode = split_key(key)
  scale = set(SCALES[mode]) | ({9, 11} if mode == "minor" else set())
  inside = np.isin((notes[:, 2].astype(int) - tonic) % 12, list(scale))
  return float(notes[inside, 1].sum() / max(notes[:, 1].sum(), 1e-9))


def estimate_key(notes: np.ndarray) -> str:
  """The major or minor key whose profile correlates best with the pitch classes' sounding time.

  notes are [notes, 3]; the method is Krumhansl and Schmuckler's.
  """
  time = np.bincount(notes[:, 2].astype(int) % 12, weights=notes[:, 1], minlength=12)
  keys = {
    f"{tonic} {mode}": np.corrcoef(time, np.roll(profile, shift))[0, 1]
    for shift, tonic in enumerate(TONICS)
    for mode, profile in PROFILES.items()
  }
  return max(keys, key=keys.get)
