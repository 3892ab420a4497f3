"""Whether audio has what its prompt asked for, by methods that are independent of the models.

Tempo and onsets are librosa's; the family of the leading instrument is estimated by a logistic
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
  """Mean and standard deviation over time, [batch, 2 * NUM_MFCC], of the MFCCs of [batch, samples].

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
  """The family of the leading instrument by timbre, learned from real clips [clips, dim] alone.

  Raises ValueError where all clips are of one family.
  """

  def __init__(self, features: np.ndarray, families: list[str]):
    if len(set(families)) < 2:
      raise ValueError(
        f"{len(families)} train clips of {sorted(set(families))}: the classifier of instrument "
        "families needs clips of at least two families"
      )
    self._model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))
    self._model.fit(features, families)
    self.families = list(self._model.classes_)

  def standardise(self, features: np.ndarray) -> np.ndarray:
    """Features [batch, dim] scaled so that those of the train clips have mean 0, deviation 1."""
    return self._model[0].transform(features)

  def accuracy(self, features: np.ndarray, families: list[str]) -> float:
    """Share of rows with the given family as the most probable."""
    return float(self._model.score(features, families))

  def scores(self, features: np.ndarray, families: list[str]) -> np.ndarray:
    """Probability [prompts, outputs] of the family of prompt i in the features of output j.

    0 for a family that no train clip has.
    """
    shares = self._model.predict_proba(features)
    column = {family: i for i, family in enumerate(self.families)}
    zeros = np.zeros(len(features))
    return np.stack([shares[:, column[f]] if f in column else zeros for f in families])


def tempo(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """Beats per minute [batch] by autocorrelation of the onset strength; may be twice or half."""
  return np.array(
    [
      float(librosa.feature.tempo(onset_envelope=e, sr=sample_rate, hop_length=_HOP)[0])
      for e in _envelopes(waveforms, sample_rate)
    ]
  )


def onset_rate(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """Onsets per second [batch]."""
  rates = []
  for envelope in _envelopes(waveforms, sample_rate):
    onsets = librosa.onset.onset_detect(onset_envelope=envelope, sr=sample_rate, hop_length=_HOP)
    rates.append(len(onsets) * sample_rate / waveforms.shape[1])
  return np.array(rates)


def _envelopes(waveforms: np.ndarray, sample_rate: int):
  for waveform in waveforms:
    with warnings.catch_warnings():  # librosa warns of empty mel bands
      warnings.simplefilter("ignore")
      yield librosa.onset.onset_strength(y=waveform, sr=sample_rate, hop_length=_HOP)
