"""Audio files to be scored: their names, and their samples at any rate."""

import concurrent.futures
import dataclasses
import functools
import glob
import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from musiclm_jax import audio, storage
from musiclm_jax.embedders.embedder import Shared

_BATCH = 16  # clips


@dataclasses.dataclass(frozen=True)
class Clips:
  """The first `seconds` of audio files. The name of a clip is its file's, without the ending."""

  paths: tuple[str, ...]
  seconds: float

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """The names of the clips, in their order."""
    return tuple(pathlib.Path(path).stem for path in self.paths)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Identifies the content of the files in their order, whatever their names."""
    return storage.fingerprint(list(self.paths))

  def batches(self, sample_rate: int) -> Iterator[np.ndarray]:
    """Waveforms [up to 16 clips, samples] float32 at sample_rate Hz, channels averaged.

    Raises ValueError, naming the file, where one cannot be read (audio.read) or is too short.
    """
    read = functools.partial(self._read, sample_rate=sample_rate)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      yield from stacked(pool.map(read, self.paths))

  def named(self, names: Iterable[str]) -> "Clips":
    """The clips of these names, in their order. Raises ValueError for one that is not there."""
    known = dict(zip(self.names, self.paths))
    try:
      return dataclasses.replace(self, paths=tuple(known[name] for name in names))
    except KeyError as error:
      folder = pathlib.Path(self.paths[0]).parent
      raise ValueError(f"{folder}: no file {error.args[0]}.* among {len(self.paths)}") from None

  def _read(self, path: str, sample_rate: int) -> np.ndarray:
    waveform, samples = audio.read(path, sample_rate), round(self.seconds * sample_rate)
    if len(waveform) < samples - 1:  # resampling may round the length down
      found = len(waveform) / sample_rate
      raise ValueError(f"{path}: wanted {self.seconds:g} s or more, found {found:.2f} s")
    row = np.zeros(samples, np.float32)
    row[: len(waveform)] = waveform[:samples]
    return row


def stacked(rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """Waveforms [samples] as [up to 16 clips, samples]."""
  batch = []
  for row in rows:
    batch.append(row)
    if len(batch) == _BATCH:
      yield np.stack(batch)
      batch = []
  if batch:
    yield np.stack(batch)


def find(pattern: str, seconds: float) -> Clips:
  """The files that match a glob pattern, in the order of their names.

  Raises ValueError where there are none, or two of one name.
  """
  paths = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
  paths = [path for path in paths if os.path.isfile(path)]
  if not paths:
    raise ValueError(f"{pattern}: no such files")
  seen = {}
  for path in paths:
    name = pathlib.Path(path).stem
    if name in seen:
      raise ValueError(f"{pattern}: two files of the name {name}: {seen[name]} and {path}")
    seen[name] = path
  return Clips(tuple(paths), seconds)


@functools.lru_cache(maxsize=64)
def features(clips: Clips, maker, method: str):
  """What `maker.method` gives for all clips, concatenated; kept, since several measures ask for it.

  maker is a frozen dataclass with sample_rate, whose method takes waveforms [batch, samples]. The
  methods of an `embedder.Shared` have the outputs of its network in common.
  """
  if isinstance(maker, Shared) and method != "outputs":
    return maker.of_outputs(method, features(clips, maker, "outputs"))
  found = [getattr(maker, method)(rows) for rows in clips.batches(maker.sample_rate)]
  return np.concatenate(found)
