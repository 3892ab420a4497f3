"""Whether two recordings follow the same pitch over time, by the contours of the transcriber.

The measures are raw pitch accuracy and raw chroma accuracy of melody extraction (Salamon et al.,
"Melody Extraction from Polyphonic Music Signals", IEEE SPM 2014; mir_eval.melody), the line of the
real recording being the reference.
"""

import numpy as np

UNVOICED = -1

_VOICED = 0.5  # as for notes
_OCTAVE = 36  # columns
_TOLERANCE = 1  # columns of 33 cents: those within 50


def pitch_line(contours: np.ndarray) -> np.ndarray:
  """The column of the likeliest pitch of each frame, [clips, frames] int.

  contours [clips, frames, 264] of `transcriber.outputs`, three columns a semitone. UNVOICED where
  no probability exceeds 0.5: in white noise 99 of 100 frames stay below 0.35, and the middle of a
  single note is above 0.8. With several voices the line is that of the clearest one, which can
  change from note to note.
  """
  return np.where(contours.max(axis=-1) > _VOICED, contours.argmax(axis=-1), UNVOICED)


def line_agreement(real: np.ndarray, other: np.ndarray, *, any_octave: bool = False) -> np.ndarray:
  """Counts [clips, 2] whose ratio is the raw pitch accuracy of lines `other` against `real`.

  real and other [clips, frames] of `pitch_line`. The second column is the number of frames where
  `real` is voiced; the first that of those where `other` is within 50 cents of it, or with
  any_octave within 50 cents of it in some octave (raw chroma accuracy). A frame where only `real`
  is voiced is wrong. The accuracy of many clips is the ratio of the columns' sums.
  """
  voiced = real != UNVOICED
  apart = np.abs(real - other)
  if any_octave:
    apart = np.minimum(apart % _OCTAVE, -apart % _OCTAVE)
  right = voiced & (other != UNVOICED) & (apart <= _TOLERANCE)
  return np.stack([right.sum(axis=1), voiced.sum(axis=1)], axis=1)
