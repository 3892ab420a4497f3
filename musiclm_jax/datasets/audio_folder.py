"""A folder of audio: which files it has, and the clips of one of them."""

import collections
import dataclasses
import os
import pathlib
import unicodedata

import numpy as np

from musiclm_jax import audio

# The endings of what libsndfile reads and states the rate of.
ENDINGS = (
  *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd"),
  *(".caf", ".w64", ".rf64"),
)
_SLACK = 0.5  # seconds by which a file may miss the length that is stated of it
_APPLE_DOUBLE = b"\0\5\26\7"  # the magic number of the ._NAME that macOS writes beside a NAME


@dataclasses.dataclass(frozen=True)
class Reject:
  """A file that cannot be in the data set; `file` is its path within the folder."""

  file: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Listing:
  """What a folder holds.

  `files` are the audio files {name: path}, sorted by name. A path is relative to the folder, as
  the file system has it; a name is the same with slashes and composed Unicode (NFC), so that it
  does not depend on the file system. `rejects` are audio files with names or links that cannot be
  used, `others` counts files of other kinds.
  """

  files: dict[str, str]
  rejects: list[Reject]
  others: collections.Counter


def list_files(folder: str) -> Listing:
  """The audio files of a folder and its subfolders. Links to folders are counted, not followed.

  Raises OSError where a folder cannot be read and ValueError where it holds no audio.
  """
  files, rejects, others = {}, [], collections.Counter()
  for parent, folders, names in os.walk(folder, onerror=_raise):
    others["link to a folder"] += sum(os.path.islink(os.path.join(parent, n)) for n in folders)
    for entry in names:
      path = pathlib.Path(parent, entry)
      kind = _other_kind(path)
      if kind:
        others[kind] += 1
        continue
      relative = path.relative_to(folder)
      name = composed(relative.as_posix())
      reason = _name_fault(path, name) or (
        f"has the same name as {files[name]!r} in composed Unicode" if name in files else ""
      )
      if reason:
        rejects.append(Reject(_printable(name), reason))
      else:
        files[name] = str(relative)
  others = +others
  if not files and not rejects:
    held = f"found {counted(others)}" if others else "it is empty"
    raise ValueError(f"{folder}: wanted audio files ({' '.join(ENDINGS)}), {held}")
  return Listing(dict(sorted(files.items())), sorted(rejects, key=lambda r: r.file), others)


def composed(name: str) -> str:
  """The name in composed Unicode (NFC); macOS stores names decomposed, keyboards compose them."""
  return unicodedata.normalize("NFC", name)


def counted(counts: collections.Counter) -> str:
  """counted({".jpg": 2, ".txt": 1}) == "2 .jpg, 1 .txt"."""
  return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _raise(error: OSError):
  raise error


def _other_kind(path: pathlib.Path) -> str:
  """What a file is called that is not audio, or "" for audio."""
  if path.name == ".DS_Store":
    return "companion file of macOS"
  if path.suffix.lower() not in ENDINGS:
    return path.suffix.lower() or "without ending"
  if path.name.startswith("._") and path.is_file():
    with open(path, "rb") as file:
      if file.read(4) == _APPLE_DOUBLE:
        return "companion file of macOS"
  return ""


def _name_fault(path: pathlib.Path, name: str) -> str:
  """Why a file cannot be named in a data set or found, or ""."""
  if _printable(name) != name:
    return "its name is not UTF-8; rename it"
  return "" if path.is_file() else "a link to no file" if path.is_symlink() else "not a file"


def _printable(name: str) -> str:
  return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


@dataclasses.dataclass(frozen=True)
class Entry:
  """What is known of a file besides its sound; "" and 0 where nothing is.

  A caption, phrases that describe it, its split, the work that it is part of (its own where that is
  ""), the `seconds` that it lasts, and its licence with whom that wants credited. `row` identifies
  it in the table that it comes from.
  """

  caption: str = ""
  aspects: tuple[str, ...] = ()
  split: str = ""
  work: str = ""
  seconds: float = 0.0
  licence: str = ""
  credit: str = ""
  row: str = ""


@dataclasses.dataclass(frozen=True)
class Job:
  """A file to be cut into clips of `clip_samples` at `sample_rate` Hz.

  `name` and `path` are those of a `Listing` of `folder`. With `convert` the file may have any rate
  and number of channels.
  """

  folder: str
  name: str
  path: str
  entry: Entry
  clip_samples: int
  sample_rate: int
  convert: bool

  def __str__(self) -> str:
    return self.name


@dataclasses.dataclass(frozen=True)
class Cut:
  """What became of a job: `clips` {index: [clip_samples] int16}, or the `reason` that it has none.

  `silent` counts the clips that are left out because they are silent, `rest` the samples after the
  last clip. `converted` tells whether the file had another rate or several channels.
  """

  job: Job
  clips: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
  silent: int = 0
  rest: int = 0
  converted: bool = False
  reason: str = ""


def cut(job: Job) -> Cut:
  """Reads a file and cuts it into clips, without overlap.

  16-bit audio that needs no conversion is kept bit for bit. Peaks above full scale scale the whole
  file down, nothing is clipped. A file whose entry states its seconds is cut or padded with zeros
  to these. A file that cannot be used is no exception but has a reason.
  """
  path = os.path.join(job.folder, job.path)
  try:
    rate, channels = audio.header(path)
    converted = (rate, channels) != (job.sample_rate, 1)
    if converted and not job.convert:
      raise ValueError(
        f"{path}: wanted {job.sample_rate} Hz mono, found {rate} Hz and {channels} channels; "
        "--convert=True resamples and mixes down"
      )
    waveform = _fitted(path, audio.read(path, job.sample_rate), job)
  except OSError as error:
    return Cut(job, reason=error.strerror or str(error))
  except ValueError as error:
    return Cut(job, reason=str(error).removeprefix(f"{path}: "))
  samples = audio.to_int16(waveform / max(1.0, float(np.abs(waveform).max())))
  whole = len(samples) // job.clip_samples * job.clip_samples
  clips = dict(enumerate(samples[:whole].reshape(-1, job.clip_samples)))
  heard = {i: clip for i, clip in clips.items() if not _is_silent(clip)}
  rest = len(samples) - whole
  return Cut(job, heard, len(clips) - len(heard), rest, converted)


def _fitted(path: str, waveform: np.ndarray, job: Job) -> np.ndarray:
  """The waveform [samples], as long as its entry states. Raises ValueError where it is far off."""
  if not job.entry.seconds:
    return waveform
  seconds, wanted = len(waveform) / job.sample_rate, job.entry.seconds
  if abs(seconds - wanted) > _SLACK:
    raise ValueError(f"{path}: lasts {seconds:.1f} s, its row states {wanted:g} s")
  samples = round(wanted * job.sample_rate)
  return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))


def _is_silent(clip: np.ndarray) -> bool:
  return not np.any(np.abs(audio.from_int16(clip)) > audio.SILENCE)
