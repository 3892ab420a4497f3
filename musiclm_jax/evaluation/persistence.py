"""How often the codes of a steady sound are those of the frame before."""

import numpy as np

from musiclm_jax.evaluation import transcriber

_MARGIN_SECONDS = 0.03  # on both sides of two frames
_ONSET = 0.5
_TONE_SECONDS, _DROPPED_SECONDS = 1.5, 0.3
_PITCHES = range(40, 89, 4)
_OVERTONES = 8


def steady(notes: np.ndarray, onsets: np.ndarray, frames: int, frame_rate: float) -> np.ndarray:
  """Whether the sound is steady over frames i and i + 1 of a codec, [clips, frames - 1] bool.

  notes and onsets [clips, transcriber frames, 88] are those of the real clips. It is steady where
  the same notes, one or more, sound from 30 ms before the two frames to 30 ms after them, and none
  begins.
  """
  sounds = transcriber.sounding(notes)
  breaks = ~sounds.any(axis=2) | (onsets > _ONSET).any(axis=2)
  breaks[:, 1:] |= (sounds[:, 1:] != sounds[:, :-1]).any(axis=2)
  before = np.pad(breaks.cumsum(axis=1), ((0, 0), (1, 0)))
  starts = np.arange(frames - 1) / frame_rate - _MARGIN_SECONDS
  bounds = np.stack([starts, starts + 2 / frame_rate + 2 * _MARGIN_SECONDS])
  first, last = np.round(bounds * transcriber.FRAME_RATE).astype(int)
  inside = (first >= 0) & (last < breaks.shape[1])
  first, last = np.clip(first, 0, None), np.clip(last + 1, None, breaks.shape[1])
  return (before[:, last] == before[:, first]) & inside


def persistence(codes: np.ndarray, counted: np.ndarray) -> np.ndarray:
  """How many codes are those of the frame before, [clips, levels] int, where counted.

  codes [clips, frames, levels] int, counted [clips, frames - 1] bool for frames i and i + 1.
  """
  same = codes[:, 1:] == codes[:, :-1]
  return (same & counted[:, :, None]).sum(axis=1)


def by_chance(codes: np.ndarray, counted: np.ndarray) -> np.ndarray:
  """The share [levels] of equal codes in two frames drawn at random from those counted.

  Arguments as of `persistence`; 0 where none is counted.
  """
  rows = codes[:, 1:][counted]
  counts = [np.unique(column, return_counts=True)[1] / len(rows) for column in rows.T]
  return np.array([np.square(shares).sum() for shares in counts])


def tones(sample_rate: int) -> np.ndarray:
  """Tones [pitches, samples] float32 of 8 overtones that do not change, for 1.5 s each."""
  time = np.arange(round(_TONE_SECONDS * sample_rate)) / sample_rate
  hertz = 440 * 2 ** ((np.array(_PITCHES)[:, None] - 69) / 12)
  parts = [np.sin(2 * np.pi * k * hertz * time + k) / k for k in range(1, _OVERTONES + 1)]
  return (0.1 * sum(parts)).astype(np.float32)


def within_tones(codes: np.ndarray, frame_rate: float) -> np.ndarray:
  """The share [levels] of codes [pitches, frames, levels] of `tones` that do not change.

  The first and the last 0.3 s are left out.
  """
  dropped = round(_DROPPED_SECONDS * frame_rate)
  inner = codes[:, dropped : codes.shape[1] - dropped]
  return (inner[:, 1:] == inner[:, :-1]).mean(axis=(0, 1))
