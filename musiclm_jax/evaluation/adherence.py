"""What prompts asked for, measured from audio by means that share nothing with our models.

Tempo and onsets are librosa's; the family of the leading instrument is told by a logistic
regression on MFCC statistics of real train clips.
"""

import warnings

import librosa
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NUM_MFCC = 20
_WINDOW, _HOP = 1024, 512


def timbre(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """Mean and standard deviation over time [batch, 2 * NUM_MFCC] of MFCCs 1.. of [batch, samples].

  Coefficient 0, the level, is left out.
  """
  rows = []
  for waveform in waveforms:
    mfcc = librosa.feature.mfcc(
      y=waveform, sr=sample_rate, n_mfcc=NUM_MFCC + 1, n_fft=_WINDOW, hop_length=_HOP
    )[1:]
    rows.append(np.concatenate([mfcc.mean(axis=1), mfcc.std(axis=1)]))
  return np.stack(rows)


class FamilyClassifier:
  """Tells the family of the leading instrument from timbre; trained on real clips alone."""

  def __init__(self, features: np.ndarray, families: list[str]):
    self._model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))
    self._model.fit(features, families)
    self.families = list(self._model.classes_)

  def standardise(self, features: np.ndarray) -> np.ndarray:
    """Features [batch, dim] with the mean 0 and deviation 1 of those of the real train clips."""
    return self._model[0].transform(features)

  def accuracy(self, features: np.ndarray, families: list[str]) -> float:
    """Share of rows whose likeliest family is the given one."""
    return float(self._model.score(features, families))

  def scores(self, features: np.ndarray, families: list[str]) -> np.ndarray:
    """Probability [prompts, outputs] of the family of prompt i in the features of output j.

    0 for a family that no train clip has.
    """
    shares = self._model.predict_proba(features)
    column = {family: i for i, family in enumerate(self.families)}
    nothing = np.zeros(len(features))
    return np.stack([shares[:, column[f]] if f in column else nothing for f in families])


def tempo(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """Beats a minute [batch] by autocorrelation of the onset strength; an octave may be missed."""
  return np.array(
    [
      float(librosa.feature.tempo(onset_envelope=e, sr=sample_rate, hop_length=_HOP)[0])
      for e in _envelopes(waveforms, sample_rate)
    ]
  )


def onset_rate(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """Onsets a second [batch]."""
  rates = []
  for envelope in _envelopes(waveforms, sample_rate):
    onsets = librosa.onset.onset_detect(onset_envelope=envelope, sr=sample_rate, hop_length=_HOP)
    rates.append(len(onsets) * sample_rate / waveforms.shape[1])
  return np.array(rates)


def _envelopes(waveforms: np.ndarray, sample_rate: int):
  for waveform in waveforms:
    with warnings.catch_warnings():  # of an empty mel band
      warnings.simplefilter("ignore")
      yield librosa.onset.onset_strength(y=waveform, sr=sample_rate, hop_length=_HOP)
