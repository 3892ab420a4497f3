"""The notes of all works of the catalogue in one file, to render the corpus without music21.

Run as `python -m musiclm_jax.datasets.score_arrays scores.npz`; then `musiclm prepare` reads it by
--scores=scores.npz. The clips are the same, byte for byte.
"""

import functools
import hashlib
import os
import pathlib
import sys
import zipfile

import numpy as np

from musiclm_jax.datasets import catalogue, scores, workers
from musiclm_jax.datasets.catalogue import Work
from musiclm_jax.datasets.scores import Music


def read_music(work: Work, path: str) -> Music:
  """Notes of a work from the file `path`, or from music21 where that is "".

  Raises ValueError where the file is missing, of another kind or of another catalogue.
  """
  return _load(path)[work.id] if path else scores.read_music(work)


def write(path: str, works: tuple[Work, ...], musics: list[Music]) -> None:
  """Writes the notes of works: one row for each part, [notes] arrays of all parts in a row."""
  parts = [part for music in musics for part in music.parts]
  notes = np.concatenate(parts)
  arrays = {
    "catalogue": np.array(_digest()),
    "work": np.array([work.id for work in works]),
    "pickup": np.array([music.pickup for music in musics]),
    "length": np.array([music.length for music in musics]),
    "parts": np.array([len(music.parts) for music in musics], np.int32),
    "notes": np.array([len(part) for part in parts], np.int32),
    "onset": notes[:, 0],
    "duration": notes[:, 1],
    "pitch": notes[:, 2].astype(np.uint8),
  }
  partial = pathlib.Path(path + ".partial")
  with open(partial, "wb") as file:
    np.savez_compressed(file, **arrays)
  partial.replace(path)


@functools.cache
def _load(path: str) -> dict[str, Music]:
  """{work: its notes}."""
  try:
    with np.load(path) as file:
      arrays = dict(file)
  except (OSError, ValueError, zipfile.BadZipFile) as error:
    raise ValueError(f"{path}: wanted a file of scores: {error}") from None
  made = str(arrays.get("catalogue", "none"))
  if made != _digest():
    raise ValueError(f"{path}: wanted the scores of this catalogue ({_digest()}), got {made}")
  notes = np.stack([arrays["onset"], arrays["duration"], arrays["pitch"]], axis=1)
  parts = np.split(notes.astype(np.float64), np.cumsum(arrays["notes"])[:-1])
  ends = np.cumsum(arrays["parts"])
  return {
    str(work): Music(tuple(parts[end - count : end]), float(pickup), float(length))
    for work, pickup, length, count, end in zip(
      arrays["work"], arrays["pickup"], arrays["length"], arrays["parts"], ends
    )
  }


@functools.cache
def _digest() -> str:
  """A fingerprint of the list of works."""
  return hashlib.sha256((catalogue.data_folder() / "works.csv").read_bytes()).hexdigest()[:16]


def main() -> None:
  """Writes the scores of all works to the path that the command line gives."""
  works = catalogue.list_works()
  with workers.ordered_map(os.cpu_count()) as mapped:
    write(sys.argv[1], works, list(mapped(scores.read_music, works)))


if __name__ == "__main__":
  main()
