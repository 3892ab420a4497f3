"""Pitch classes of audio over time by librosa, and how well those of two sets of clips agree."""

import functools

import librosa
import numpy as np

_WINDOW, _HOP = 4096, 512  # samples; 6 Hz a bin at 24 kHz
_COMPRESSION = 100
_QUIET_DB = 40  # frames so far below the loudest of their clip do not count


def chroma(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """Compressed energy of each pitch class from C, [clips, frames, 12] float32.

  waveforms [clips, samples] float; frames are 512 samples apart. Magnitudes over the largest of
  their clip are compressed by log(1 + 100 x), so that overtones count and not the strongest low
  partials alone (CLP features; Mueller and Ewert, ISMIR 2011), and summed over octaves evenly.
  """
  rows = []
  for waveform in waveforms:
    x = np.abs(librosa.stft(np.asarray(waveform, np.float32), n_fft=_WINDOW, hop_length=_HOP))
    compressed = np.log1p(_COMPRESSION * x / max(x.max(), 1e-9))
    rows.append((_pitch_classes(sample_rate) @ compressed).T)
  return np.stack(rows)


def audible(waveforms: np.ndarray) -> np.ndarray:
  """Whether each frame of `chroma` is within 40 dB of the loudest of its clip, [clips, frames]."""
  levels = np.stack(
    [librosa.feature.rms(y=x, frame_length=_WINDOW, hop_length=_HOP)[0] for x in waveforms]
  )
  loudest = levels.max(axis=1, keepdims=True)
  return (levels > loudest * 10 ** (-_QUIET_DB / 20)) & (loudest > 0)


def agreement(real: np.ndarray, other: np.ndarray, counted: np.ndarray) -> np.ndarray:
  """Correlation [clips] of pitch classes by frame, a mean over those where counted [clips, frames].

  real and other [clips, frames, 12]. That of a frame is Pearson's over the pitch classes, and 0
  where one of the two has all classes alike. A clip with no frame that counts is 0.
  """
  a, b = (x - x.mean(axis=2, keepdims=True) for x in (real, other))
  norms = np.linalg.norm(a, axis=2) * np.linalg.norm(b, axis=2)
  frames = (a * b).sum(axis=2) / np.maximum(norms, 1e-9)
  return (frames * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)


@functools.cache
def _pitch_classes(sample_rate: int) -> np.ndarray:
  """The share [12, bins] of each bin of the spectrum in each pitch class."""
  return librosa.filters.chroma(sr=sample_rate, n_fft=_WINDOW, tuning=0.0, octwidth=None)
