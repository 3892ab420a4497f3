"""Waveforms: reading, writing, resampling, STFT and log-mel spectrograms.

A waveform is float32 in [-1, 1], [samples] or [batch, samples], mono. Reading and writing are
numpy; the transforms are JAX and run inside models.
"""

import functools
import io
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

# What is written by the ending of its name: libsndfile's format and encoding.
_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
LOG_FLOOR = 1e-5  # log-mel spectrograms are ln(max(mel, LOG_FLOOR)), about -100 dB


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

  Nothing is converted. Raises ValueError, naming the file, where it is
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
  """The result of a function of soundfile for a file that libsndfile can read."""
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
  """The waveform [samples] itself, checked to be audible."""
  if not waveform.size:
    raise ValueError(f"{path}: wanted audio, found 0 samples")
  if not np.isfinite(waveform).all():
    raise ValueError(
      f"{path}: sample {int(np.argmin(np.isfinite(waveform)))} is not a finite number"
    )
  if not np.any(np.abs(waveform) > 1e-4):
    raise ValueError(f"{path}: wanted audio, found silence (no sample above -80 dB)")
  return waveform


def _format(path: str) -> tuple[str, str]:
  """(format, encoding) by the ending of a path. Raises ValueError for others than in `_FORMATS`."""
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in _FORMATS:
    known = ", ".join(_FORMATS)
    raise ValueError(f"{path}: wants a file name that ends in one of {known}")
  return _FORMATS[suffix]


def check_writable(path: str) -> None:
  """Raises ValueError or OSError, naming it, where `write` could not write the file; makes its
  folder.
  """
  if pathlib.Path(path).is_dir():
    raise ValueError(f"{path}: wants the name of a file, this is a folder")
  _format(path)
  folder = pathlib.Path(path).resolve().parent
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    raise ValueError(f"{folder}: wants a folder, this is a file or in one") from None
  if not os.access(folder, os.W_OK):
    raise ValueError(f"{folder}: this folder cannot be written")


def write(path: str, waveform: np.ndarray, sample_rate: int) -> None:
  """Writes [samples] float32 in [-1, 1], whole or not at all: 16-bit WAV or FLAC, or Ogg Vorbis, by
  the ending of the path.

  Raises ValueError where samples are not finite or the ending is another, OSError where the file
  cannot be written. Peaks above 1 scale the whole down: no clipping.
  """
  import soundfile

  waveform = np.asarray(waveform, np.float32)
  if not np.isfinite(waveform).all():
    raise ValueError(f"{path}: refusing to write samples that are not finite numbers")
  kind, encoding = _format(path)
  check_writable(path)
  scaled = waveform / max(1.0, float(np.abs(waveform).max(initial=0)))
  encoded = io.BytesIO()
  soundfile.write(encoded, scaled, sample_rate, encoding, format=kind)
  partial = pathlib.Path(f"{path}.{os.getpid()}.partial")  # two runs may write the same file
  try:
    partial.write_bytes(encoded.getvalue())
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
  """[samples] float32 at `from_rate` Hz to the same sound at `to_rate` Hz (soxr, high quality)."""
  import soxr

  return waveform if from_rate == to_rate else soxr.resample(waveform, from_rate, to_rate)


def frame(waveform: jnp.ndarray, window: int, hop: int) -> jnp.ndarray:
  """[..., samples] to [..., frames, window], frames = 1 + (samples - window) // hop, no padding."""
  frames = 1 + (waveform.shape[-1] - window) // hop
  parts = -(-window // hop)
  whole = (frames + parts - 1) * hop
  # Views of blocks of a hop and no gather, so that forward and backward are fast on every backend.
  fitted = waveform[..., :whole]
  fill = [(0, 0)] * (fitted.ndim - 1) + [(0, whole - fitted.shape[-1])]
  blocks = jnp.pad(fitted, fill).reshape(*fitted.shape[:-1], frames + parts - 1, hop)
  joined = jnp.concatenate([blocks[..., i : i + frames, :] for i in range(parts)], axis=-1)
  return joined[..., :window]


def stft(waveform: jnp.ndarray, *, window: int, hop: int) -> jnp.ndarray:
  """Short-time Fourier transform [..., frames, window // 2 + 1] complex64 of [..., samples].

  The window is a periodic Hann window; frames as in `frame`.
  """
  hann = np.hanning(window + 1)[:-1].astype(np.float32)
  frames = frame(waveform, window, hop)
  frames = frames * hann.reshape((1,) * (frames.ndim - 1) + (-1,))
  return jax.lax.platform_dependent(frames, tpu=fourier_product, default=jnp.fft.rfft)


def fourier_product(frames: jnp.ndarray) -> jnp.ndarray:
  """rfft over the last axis as a matrix product, for TPUs: what they are made for, where their
  compiler takes half a minute for one FFT.
  """
  size = frames.shape[-1]
  turns = np.outer(np.arange(size), np.arange(size // 2 + 1)) % size / size
  parts = (np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns))
  real, imaginary = (
    jnp.matmul(frames, part.astype(np.float32), precision=jax.lax.Precision.HIGHEST)
    for part in parts
  )
  return jax.lax.complex(real, imaginary)


@functools.lru_cache(maxsize=64)
def mel_filters(
  sample_rate: int, window: int, num_mels: int, fmin: float, fmax: float | None
) -> np.ndarray:
  """Slaney mel filters [window // 2 + 1, num_mels] float32 (librosa)."""
  import warnings

  import librosa

  with (
    warnings.catch_warnings()
  ):  # short windows leave low filters empty, which the multi-scale loss accepts
    warnings.simplefilter("ignore")
    return librosa.filters.mel(
      sr=sample_rate, n_fft=window, n_mels=num_mels, fmin=fmin, fmax=fmax
    ).T.copy()


def mel(waveform, *, sample_rate, window, hop, num_mels, fmin=0.0, fmax=None) -> jnp.ndarray:
  """Mel magnitudes [..., frames, num_mels] float32 of [..., samples] at `sample_rate` Hz."""
  spectrum = stft(waveform, window=window, hop=hop)
  # the gradient of |z| at 0 is not a number; the offset is 60 dB below LOG_FLOOR
  magnitude = jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-16)
  return magnitude @ mel_filters(sample_rate, window, num_mels, fmin, fmax)


def log_mel(waveform, *, sample_rate, window, hop, num_mels, fmin=0.0, fmax=None) -> jnp.ndarray:
  """ln(max(mel, LOG_FLOOR)) [..., frames, num_mels] of [..., samples] at `sample_rate` Hz."""
  spectrogram = mel(
    waveform,
    sample_rate=sample_rate,
    window=window,
    hop=hop,
    num_mels=num_mels,
    fmin=fmin,
    fmax=fmax,
  )
  return jnp.log(jnp.maximum(spectrogram, LOG_FLOOR))
