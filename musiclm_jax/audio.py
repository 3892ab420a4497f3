"""Waveforms: reading, writing, resampling, int16 samples.

A waveform is float32 in [-1, 1], [samples], mono. NumPy only; spectrograms.py has the transforms.
"""

import os
import pathlib

import numpy as np


def header(path: str) -> tuple[int, int, int]:
  """(samples, sample rate in Hz, channels) of an audio file, by its header.

  The samples of an MP3 file without a table of contents are an estimate. Raises ValueError, naming
  the file, where it is missing or is not audio.
  """
  import soundfile

  info = _decoded(soundfile.info, path)
  return info.frames, info.samplerate, info.channels


def read(path: str, sample_rate: int) -> np.ndarray:
  """The mono waveform [samples] float32 of an audio file that is already at `sample_rate` Hz.

  Nothing is converted behind the caller's back. Raises ValueError, naming the file, where it is
  missing, is not audio, is empty, has another rate or more than one channel, holds NaN or infinity,
  or is silent.
  """
  waveform, rate = _samples(path)
  if rate != sample_rate:
    raise ValueError(f"{path}: wanted {sample_rate} Hz, found {rate} Hz; resample it first")
  if waveform.shape[1] != 1:
    raise ValueError(f"{path}: wanted mono, found {waveform.shape[1]} channels; mix it down first")
  return _sound(path, waveform[:, 0])


def convert(path: str, sample_rate: int) -> np.ndarray:
  """The waveform [samples] float32 at `sample_rate` Hz of an audio file of any rate and channels.

  Channels are averaged. Raises ValueError as `read` does for all else.
  """
  waveform, rate = _samples(path)
  return resample(_sound(path, waveform.mean(axis=1)), rate, sample_rate)


def _samples(path: str) -> tuple[np.ndarray, int]:
  """[samples, channels] float32 of an audio file, and its rate in Hz."""
  import soundfile

  return _decoded(soundfile.read, path, dtype="float32", always_2d=True)


def _decoded(function, path: str, **options):
  """What a function of soundfile says of a file, where libsndfile can read it."""
  import soundfile

  if not pathlib.Path(path).is_file():
    raise ValueError(f"{path}: no such file")
  try:
    return function(path, **options)
  except soundfile.LibsndfileError as error:
    raise ValueError(
      f"{path}: not an audio file libsndfile can read ({error.error_string})"
    ) from None


def _sound(path: str, waveform: np.ndarray) -> np.ndarray:
  """The waveform [samples] itself, where something can be heard."""
  if not waveform.size:
    raise ValueError(f"{path}: wanted audio, found 0 samples")
  if not np.isfinite(waveform).all():
    raise ValueError(
      f"{path}: sample {int(np.argmin(np.isfinite(waveform)))} is not a finite number"
    )
  if not np.any(np.abs(waveform) > 1e-4):
    raise ValueError(f"{path}: wanted audio, found silence (no sample above -80 dB)")
  return waveform


def write(path: str, waveform: np.ndarray, sample_rate: int) -> None:
  """Writes [samples] float32 in [-1, 1] as 16-bit WAV, whole or not at all.

  Raises ValueError where samples are not finite. Peaks above 1 scale the whole down: no clipping.
  """
  import soundfile

  waveform = np.asarray(waveform, np.float32)
  if not np.isfinite(waveform).all():
    raise ValueError(f"{path}: refusing to write samples that are not finite numbers")
  pathlib.Path(path).resolve().parent.mkdir(parents=True, exist_ok=True)
  partial = f"{path}.partial"
  soundfile.write(
    partial,
    waveform / max(1.0, float(np.abs(waveform).max(initial=0))),
    sample_rate,
    "PCM_16",
    format="WAV",
  )
  os.replace(partial, path)


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
  """[samples] float32 at `from_rate` Hz to the same sound at `to_rate` Hz (soxr, high quality)."""
  import soxr

  return waveform if from_rate == to_rate else soxr.resample(waveform, from_rate, to_rate)
