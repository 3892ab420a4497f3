"""Tempo, onsets and key of audio, to compare with what its prompt asked for."""

import warnings

import librosa
import numpy as np

from musiclm_jax.datasets.scores import SCALES

_HOP = 512
_TEMPO_TOLERANCE = 0.04  # of "accuracy 2" (Gouyon et al. 2006)
_TONICS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"": 0, "#": 1, "b": -1}
_MINOR = ("minor", "dorian", "phrygian", "aeolian", "locrian")
# How well each pitch class fits a key, from its tonic (Temperley, The Cognition of Basic Musical
# Structures, 2001, Chapter 7).
_PROFILES = {
  False: (5.0, 2.0, 3.5, 2.0, 4.5, 4.0, 2.0, 4.5, 2.0, 3.5, 1.5, 4.0),
  True: (5.0, 2.0, 3.5, 4.5, 2.0, 4.0, 2.0, 4.5, 3.5, 2.0, 1.5, 4.0),
}


def tempo(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """Beats per minute [batch] by autocorrelation of the onset strength; may be twice or half."""
  return np.array(
    [
      float(librosa.feature.tempo(onset_envelope=e, sr=sample_rate, hop_length=_HOP)[0])
      for e in _envelopes(waveforms, sample_rate)
    ]
  )


def tempo_agreement(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
  """Whether found tempi [m] are within 4 % of the wanted ones [n], of half or of twice: [n, m]."""
  ratio = np.asarray(found)[None] / np.asarray(wanted)[:, None]
  octaves = np.array([0.5, 1.0, 2.0])
  near = np.abs(ratio[..., None] / octaves.reshape(1, 1, -1) - 1) <= _TEMPO_TOLERANCE
  return near.any(axis=-1).astype(float)


def onset_rate(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """Onsets per second [batch]."""
  rates = []
  for envelope in _envelopes(waveforms, sample_rate):
    onsets = librosa.onset.onset_detect(onset_envelope=envelope, sr=sample_rate, hop_length=_HOP)
    rates.append(len(onsets) * sample_rate / waveforms.shape[1])
  return np.array(rates)


def regularity(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """The highest peak [batch], 0 to 1, of the autocorrelation of onset strength, 0.2 to 2 s."""
  low, high = (round(seconds * sample_rate / _HOP) for seconds in (0.2, 2.0))
  found = []
  for envelope in _envelopes(waveforms, sample_rate):
    similar = librosa.autocorrelate(envelope - envelope.mean())
    found.append(max(float(similar[low:high].max()), 0.0) / max(float(similar[0]), 1e-9))
  return np.array(found)


def parse_key(name: str) -> tuple[int, bool]:
  """The pitch class of the tonic and whether the third is minor, of a key such as "Eb dorian".

  Raises ValueError for another form.
  """
  tonic, _, mode = name.partition(" ")
  if tonic[:1] not in _TONICS or tonic[1:] not in _ACCIDENTALS or not mode:
    raise ValueError(f"wanted a key such as 'Eb major', found {name!r}")
  return (_TONICS[tonic[0]] + _ACCIDENTALS[tonic[1:]]) % 12, mode in _MINOR


def keys(pitch_classes: np.ndarray) -> list[tuple[int, bool]]:
  """The keys [batch], as of `parse_key`, of pitch classes [batch, frames, 12] from C.

  The one whose profile correlates most with the mean over frames (Krumhansl and Schmuckler). Of
  notes that sound (transcriber) it is right more often than of a spectrum.
  """
  candidates = [(tonic, minor) for minor in _PROFILES for tonic in range(12)]
  profiles = np.stack([np.roll(_PROFILES[minor], tonic) for tonic, minor in candidates])
  means = pitch_classes.mean(axis=1)
  fits = _standard(means) @ _standard(profiles).T
  return [candidates[i] for i in fits.argmax(axis=1)]


def key_agreement(wanted: list[tuple[int, bool]], found: list[tuple[int, bool]]) -> np.ndarray:
  """Scores [n, m] of found keys [m] for the wanted ones [n], by MIREX's audio key detection.

  1 for the same key, 0.5 a fifth away, 0.3 for the relative and 0.2 for the parallel key, else 0.
  """
  return np.array([[_key_score(a, b) for b in found] for a in wanted])


def equal(wanted: list[tuple[int, bool]], found: list[tuple[int, bool]], part: int) -> np.ndarray:
  """[n, m]: whether the tonic (part 0) or mode (part 1) of found keys [m] is the wanted [n]."""
  return np.array([[float(a[part] == b[part]) for b in found] for a in wanted])


def share_in_key(wanted: list[str], pitch_classes: np.ndarray) -> np.ndarray:
  """The share [n, m] of pitch classes [m, frames, 12] that is in the scales of keys [n].

  0 in silence. Raises ValueError as `parse_key`.
  """
  scales = np.zeros((len(wanted), 12))
  for scale, key in zip(scales, wanted):
    tonic, mode = parse_key(key)[0], key.partition(" ")[2]
    scale[[(tonic + degree) % 12 for degree in SCALES[mode]]] = 1
  time = pitch_classes.sum(axis=1)
  return scales @ (time / np.maximum(time.sum(axis=1, keepdims=True), 1e-9)).T


def _key_score(wanted: tuple[int, bool], found: tuple[int, bool]) -> float:
  interval, same_mode = (found[0] - wanted[0]) % 12, found[1] == wanted[1]
  if same_mode:
    return {0: 1.0, 5: 0.5, 7: 0.5}.get(interval, 0.0)
  relative = 3 if wanted[1] else 9
  return {0: 0.2, relative: 0.3}.get(interval, 0.0)


def _standard(rows: np.ndarray) -> np.ndarray:
  """rows [n, 12] with mean 0 and length 1; constant ones are 0."""
  centred = rows - rows.mean(axis=1, keepdims=True)
  return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)


def _envelopes(waveforms: np.ndarray, sample_rate: int):
  for waveform in waveforms:
    with warnings.catch_warnings():  # librosa warns of empty mel bands
      warnings.simplefilter("ignore")
      yield librosa.onset.onset_strength(y=waveform, sr=sample_rate, hop_length=_HOP)
