"""Waveforms: reading, writing, resampling, int16 samples.

A waveform is float32 in [-1, 1], [samples], mono. NumPy only; spectrograms.py has the transforms.
"""

import io
import pathlib
import re

import numpy as np

from musiclm_jax import storage

# What is written by the ending of its name: libsndfile's format and encoding.
_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
INT16_SCALE = 32768.0  # an int16 sample is the float one times this
INT16_PEAK = 32767 / 32768  # the largest float sample that int16 holds
SILENCE = 1e-4  # no sample above this (-80 dB) is silence
MAX_PEAK = 10.0  # a sample above this (20 dB over full scale) is damage, not loudness
_TOLERANCE = 0.1  # seconds by which stated and decoded lengths may differ: codecs' delays do
_BLOCK = 1 << 16  # samples that are decoded at once


def to_int16(waveform: np.ndarray) -> np.ndarray:
  """int16 samples of float ones in [-1, 1], rounded; 1.0 becomes 32767."""
  scaled = np.round(waveform * INT16_SCALE)
  return np.clip(scaled, -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
  """float32 samples in [-1, 1) of int16 ones."""
  return samples.astype(np.float32) / INT16_SCALE


def header(path: str) -> tuple[int, int]:
  """(sample rate in Hz, channels) of an audio file.

  Raises ValueError, naming the file, where it is missing, empty or not audio.
  """
  with _opened(path) as file:
    return file.samplerate, file.channels


def read(path: str, sample_rate: int) -> np.ndarray:
  """The waveform [samples] float32 at `sample_rate` Hz of an audio file of any rate and channels.

  Channels are averaged. Raises ValueError, naming the file, where it is missing, is not audio, is
  empty, has lost its end, holds NaN or a sample above `MAX_PEAK`, or is silent.
  """
  with _opened(path) as file:
    rate, waveform = file.samplerate, _decoded(path, file)
  if not waveform.size:
    raise ValueError(f"{path}: wanted audio, found 0 samples")
  waveform = waveform.mean(axis=1)
  _check_samples(path, waveform)
  return resample(waveform, rate, sample_rate)


def _opened(path: str):
  """The file as a soundfile.SoundFile."""
  import soundfile

  if not pathlib.Path(path).is_file():
    raise ValueError(f"{path}: no such file")
  with open(path, "rb") as file:
    beginning = file.read(12)
  if not beginning:
    raise ValueError(f"{path}: the file is empty (0 bytes)")
  try:
    return soundfile.SoundFile(path)
  except soundfile.LibsndfileError:  # its reasons mislead: an MP3 that is HTML "does not exist"
    raise ValueError(
      f"{path}: not an audio file that libsndfile can read (it begins with {beginning!r})"
    ) from None


def _decoded(path: str, file) -> np.ndarray:
  """[samples, channels] float32 of an open file.

  Decodes block by block, because a header may state any number of samples. Raises ValueError where
  it states none, where the file holds fewer than it states, or where an Ogg stream has no end.
  """
  import soundfile

  if file.frames >= 2**62:  # what libsndfile makes of no length; it then cannot read on
    raise ValueError(f"{path}: the header states no length; encode it anew, with one")
  blocks, reason = [], ""
  try:
    while not blocks or len(blocks[-1]):
      blocks.append(file.read(_BLOCK, dtype="float32", always_2d=True))
  except soundfile.LibsndfileError as error:
    reason = f" ({error.error_string.removeprefix('Error : ').strip('.')})"
  waveform = np.concatenate(blocks) if blocks else np.zeros((0, file.channels), np.float32)
  seconds, stated = len(waveform) / file.samplerate, _stated_seconds(path, file)
  if reason and stated is None:
    raise ValueError(f"{path}: only its first {seconds:.1f} s can be decoded{reason}")
  if stated is not None and (reason or stated - seconds > _TOLERANCE):
    raise ValueError(
      f"{path}: its header states {stated:.1f} s, only {seconds:.1f} s can be decoded{reason}"
    )
  if file.format == "OGG" and not _ogg_ends(path):
    raise ValueError(f"{path}: the Ogg stream has no end, only its first {seconds:.1f} s are here")
  return waveform


def _stated_seconds(path: str, file) -> float | None:
  """Seconds that the header states, or None where it does not."""
  if file.format == "MP3" and not _mp3_has_table(path):
    return None  # libsndfile's length is an estimate by the bit rate
  seconds = file.frames / file.samplerate
  # libsndfile corrects the sizes of chunks that go beyond the end of the file, and logs it.
  sizes = re.findall(
    r"(?m)^\W*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", file.extra_info
  )
  for stated, found in ((int(a), int(b)) for a, b in sizes):
    # Programs that stream write a size just below 2^31 or 2^32 for "unknown".
    unknown = any(0 < limit - stated <= 1 << 16 for limit in (2**31, 2**32))
    if stated > found > 0 and not unknown:
      return seconds * stated / found
  return seconds


def _mp3_has_table(path: str) -> bool:
  """Whether the first frame of an MP3 file, after any ID3 tag, states the number of frames."""
  with open(path, "rb") as file:
    tag = file.read(10)
    if tag[:3] == b"ID3":  # four bytes of seven bits: the length of the tag
      file.seek(10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0))))
    else:
      file.seek(0)
    frame = file.read(4096)
  return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))


def _ogg_ends(path: str) -> bool:
  """Whether the last page of an Ogg file is marked as the end of its stream (RFC 3533, 6)."""
  content = pathlib.Path(path).read_bytes()
  last = content.rfind(b"OggS")
  return len(content) > last + 5 and bool(content[last + 5] & 4)


def _check_samples(path: str, waveform: np.ndarray) -> None:
  """Raises ValueError where samples [samples] are not finite, far too large, or all silent."""
  if not np.isfinite(waveform).all():
    index = int(np.argmin(np.isfinite(waveform)))
    raise ValueError(f"{path}: sample {index} is not a finite number")
  index = int(np.argmax(np.abs(waveform)))
  peak = float(np.abs(waveform[index]))
  if peak > MAX_PEAK:
    raise ValueError(
      f"{path}: sample {index} is {peak:g}, wanted at most {MAX_PEAK:g} (full scale is 1)"
    )
  if peak <= SILENCE:
    raise ValueError(f"{path}: wanted audio, found silence (no sample above -80 dB)")


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
  if not pathlib.Path(path).is_dir():
    _format(path)
  storage.check_writable(path)


def write(path: str, waveform: np.ndarray, sample_rate: int) -> None:
  """Writes [samples] float32 in [-1, 1], whole or not at all: 16-bit WAV or FLAC, or Ogg Vorbis, by
  the ending of the path.

  Raises ValueError where samples are not finite or the ending is another, OSError where the file
  cannot be written. Peaks above 1 scale the whole down: no clipping.
  """
  check_writable(path)
  storage.write_bytes(path, encoded(path, waveform, sample_rate))


def encoded(path: str, waveform: np.ndarray, sample_rate: int) -> bytes:
  """The content that `write` gives a file of this name. Raises ValueError as it does."""
  import soundfile

  waveform = np.asarray(waveform, np.float32)
  if not np.isfinite(waveform).all():
    raise ValueError(f"{path}: refusing to write samples that are not finite numbers")
  kind, encoding = _format(path)
  scaled = waveform / max(1.0, float(np.abs(waveform).max(initial=0)))
  content = io.BytesIO()
  soundfile.write(content, scaled, sample_rate, encoding, format=kind)
  return content.getvalue()


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
  """[samples] float32 at `from_rate` Hz to the same sound at `to_rate` Hz (soxr, high quality)."""
  import soxr

  return waveform if from_rate == to_rate else soxr.resample(waveform, from_rate, to_rate)
