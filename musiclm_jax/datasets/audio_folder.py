"""Anyone's folder of audio: its files, what a CSV says of them, their splits and their clips."""

import ast
import collections
import csv
import dataclasses
import hashlib
import io
import os
import pathlib

import numpy as np

from musiclm_jax import audio

SPLITS = ("train", "validation", "test")
# The endings of what libsndfile reads and says the rate of.
ENDINGS = (
  *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd"),
  *(".caf", ".w64", ".rf64"),
)


@dataclasses.dataclass(frozen=True)
class Job:
  """A file to be cut into clips of `clip_samples` at `sample_rate` Hz; `path` is within `folder`.

  With `convert` it may have any rate and number of channels.
  """

  folder: str
  path: str
  caption: str
  aspects: tuple[str, ...]
  clip_samples: int
  sample_rate: int
  convert: bool


def list_files(folder: str) -> tuple[dict[str, int], collections.Counter]:
  """The audio files of a folder and its folders, {path: bytes} in sorted order, and how many other
  files there are of each ending.

  Links to folders are not followed but counted. Raises OSError where a folder cannot be read and
  ValueError where it holds no audio or a name is not UTF-8.
  """
  found, others = {}, collections.Counter()
  for parent, folders, names in os.walk(folder, onerror=_raise):
    links = sum(os.path.islink(os.path.join(parent, name)) for name in folders)
    others += collections.Counter({"link to a folder": links})
    for name in names:
      path = pathlib.Path(parent, name)
      if path.suffix.lower() in ENDINGS:
        found[_name(path.relative_to(folder))] = path.stat().st_size
      else:
        others[path.suffix.lower() or "without ending"] += 1
  if not found:
    held = f"found {listed(others)}" if others else "it is empty"
    raise ValueError(f"{folder}: wanted audio files ({' '.join(ENDINGS)}), {held}")
  return dict(sorted(found.items())), others


def _raise(error: OSError):
  raise error


def _name(path: pathlib.PurePath) -> str:
  name = path.as_posix()
  try:
    name.encode()
  except UnicodeEncodeError:
    raise ValueError(f"{name!r}: its name is not UTF-8; rename it") from None
  return name


def listed(counts: collections.Counter) -> str:
  """listed({".jpg": 2, ".txt": 1}) == "2 .jpg, 1 .txt"."""
  return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def read_captions(path: str, files) -> dict[str, tuple[str, tuple[str, ...]]]:
  """{file: (caption, aspects)} of a CSV in MusicCaps' columns `file`, `caption`, `aspect_list`.

  `aspect_list` may be missing. Raises ValueError, with the line where there is one, for a row whose
  file is not among `files`, a second row of a file, an empty caption, an aspect list that is none,
  and for a file without a row.
  """
  rows = csv.DictReader(io.StringIO(_text(path), newline=""), restval="", strict=True)
  missing = {"file", "caption"} - set(rows.fieldnames or ())
  if missing:
    raise ValueError(f"{path}:1: wanted a column {' and '.join(sorted(missing))}, found none")
  texts, lines = {}, {}
  try:
    for row in rows:
      place, file = f"{path}:{rows.line_num}", row["file"]
      if None in row:
        raise ValueError(f"{place}: more values than columns; a comma in a value needs quotes")
      if file not in files:
        raise ValueError(f"{place}: no audio file {file!r} in the folder")
      if file in texts:
        raise ValueError(f"{place}: a second row of {file}, the first is in line {lines[file]}")
      if not row["caption"].strip():
        raise ValueError(f"{place}: the caption of {file} is empty")
      texts[file] = row["caption"].strip(), _aspects(row.get("aspect_list", ""), place)
      lines[file] = rows.line_num
  except csv.Error as error:
    raise ValueError(f"{path}:{rows.line_num + 1}: not CSV ({error})") from None
  without = [file for file in files if file not in texts]
  if without:
    more = f" and {len(without) - 1} more" if len(without) > 1 else ""
    raise ValueError(f"{path}: no row of the file {without[0]}{more}")
  return texts


def _text(path: str) -> str:
  data = pathlib.Path(path).read_bytes()
  try:
    return data.decode("utf-8-sig")  # spreadsheets write a mark at the beginning
  except UnicodeDecodeError as error:
    line = 1 + data.count(b"\n", 0, error.start)
    raise ValueError(f"{path}:{line}: not a text in UTF-8; save it as such") from None


def _aspects(text: str, place: str) -> tuple[str, ...]:
  """The phrases of MusicCaps' notation: _aspects("['slow', 'flute']") == ("slow", "flute")."""
  try:
    value = ast.literal_eval(text.strip() or "[]")
  except (ValueError, SyntaxError):
    value = None
  if type(value) is not list or any(type(phrase) is not str for phrase in value):
    raise ValueError(f"{place}: aspect_list wants ['slow', 'flute'], got {text!r}")
  return tuple(value)


def split_of(path: str, shares: tuple[float, ...]) -> str:
  """The split of a file, by a hash of its path alone: other files, and where the folder is, do not
  matter."""
  position = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") / 2**64
  return SPLITS[int(np.searchsorted(np.cumsum(shares)[:-1], position, side="right"))]


def look(job: Job) -> tuple[int, bool]:
  """Clips of a file by its header, and whether it must be converted.

  Raises ValueError, naming the file, where it is not audio, is empty, or must be converted and may
  not be.
  """
  path = os.path.join(job.folder, job.path)
  samples, rate, channels = audio.header(path)
  if not samples:
    raise ValueError(f"{path}: wanted audio, found 0 samples")
  other = (rate, channels) != (job.sample_rate, 1)
  if other and not job.convert:
    raise ValueError(
      f"{path}: wanted {job.sample_rate} Hz mono, found {rate} Hz and {channels} channels; "
      "--convert=True resamples and mixes down"
    )
  return round(samples * job.sample_rate / rate) // job.clip_samples, other


def cut(job: Job) -> tuple[Job, list[np.ndarray], int]:
  """The job, the clips of its file, [clip_samples] int16 each, and the samples left at the end.

  16-bit audio that needs no conversion is kept bit for bit. Peaks above full scale make the whole
  file softer: no clipping. Raises ValueError, naming the file, as `audio.read` does.
  """
  read = audio.convert if job.convert else audio.read
  waveform = read(os.path.join(job.folder, job.path), job.sample_rate)
  waveform = waveform / max(1.0, float(np.abs(waveform).max()))
  samples = np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)
  whole = len(samples) // job.clip_samples * job.clip_samples
  return job, list(samples[:whole].reshape(-1, job.clip_samples)), len(samples) - whole
