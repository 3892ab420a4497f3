"""Pitch classes of audio over time by librosa, and how well those of two sets of clips agree."""

import librosa
import numpy as np

_WINDOW, _HOP = 4096, 512  # samples of 24 kHz: 6 Hz a bin
_QUIET_DB = 40  # frames so far below the loudest do not count


def chroma(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """Energy of each pitch class from C, [clips, frames, 12], largest 1, of [clips, samples].

  Frames are 512 samples apart.
  """
  rows = [
    librosa.feature.chroma_stft(
      y=waveform, sr=sample_rate, n_fft=_WINDOW, hop_length=_HOP, tuning=0.0
    ).T
    for waveform in waveforms
  ]
  return np.stack(rows).astype(np.float32)


def audible(waveforms: np.ndarray) -> np.ndarray:
  """Whether each frame of `chroma` is within 40 dB of the loudest of its clip, [clips, frames]."""
  levels = np.stack(
    [librosa.feature.rms(y=x, frame_length=_WINDOW, hop_length=_HOP)[0] for x in waveforms]
  )
  loudest = levels.max(axis=1, keepdims=True)
  return (levels > loudest * 10 ** (-_QUIET_DB / 20)) & (loudest > 0)


def agreement(real: np.ndarray, other: np.ndarray, counted: np.ndarray) -> np.ndarray:
  """Correlation [clips] of chroma by frame, a mean over the frames where counted [clips, frames].

  real and other [clips, frames, 12]. That of a frame is Pearson's over the pitch classes, and 0
  where one of the two has all classes alike. A clip with no frame that counts is 0.
  """
  a, b = (x - x.mean(axis=2, keepdims=True) for x in (real, other))
  norms = np.linalg.norm(a, axis=2) * np.linalg.norm(b, axis=2)
  frames = (a * b).sum(axis=2) / np.maximum(norms, 1e-9)
  return (frames * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
