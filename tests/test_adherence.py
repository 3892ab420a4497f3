"""Measures of tempo, onsets and timbre on sounds whose truth is known."""

import numpy as np
import pytest

from musiclm_jax.evaluation import adherence

RATE = 24000


def beats(bpm: float, seconds: float = 6.0) -> np.ndarray:
  """Decaying noise bursts on every beat."""
  time = np.arange(round(seconds * RATE)) / RATE
  noise = np.random.default_rng(0).normal(size=len(time))
  return (0.2 * noise * np.exp(-30 * (time % (60 / bpm)))).astype(np.float32)


@pytest.mark.slow
def test_tempo_and_onsets_of_beats():
  waveforms = np.stack([beats(90), beats(120), beats(150)])
  assert adherence.tempo(waveforms, RATE) == pytest.approx([90, 120, 150], rel=0.06)
  assert adherence.onset_rate(waveforms, RATE) == pytest.approx([1.5, 2.0, 2.5], abs=0.35)


@pytest.mark.slow
def test_silence_has_no_onsets_and_a_finite_tempo():
  silence = np.zeros((1, 3 * RATE), np.float32)
  assert adherence.onset_rate(silence, RATE)[0] == 0
  assert np.isfinite(adherence.tempo(silence, RATE)).all()


def test_timbre_does_not_depend_on_the_level():
  loud = beats(100)[None]
  found = adherence.timbre(np.concatenate([loud, loud / 4]), RATE)
  assert found.shape == (2, 2 * adherence.NUM_MFCC)
  assert found[0] == pytest.approx(found[1], abs=2.0)  # librosa's floor of 80 dB cuts the quiet one


def test_families_are_told_apart_and_an_unknown_one_gets_nothing(rng):
  features = rng.normal(size=(60, 8))
  families = ["brass" if i % 2 else "mallets" for i in range(60)]
  features[::2, 0] += 4
  classifier = adherence.FamilyClassifier(features, families)
  assert classifier.accuracy(features, families) > 0.9
  scores = classifier.scores(features[:3], ["mallets", "brass", "theremin"])
  assert scores.shape == (3, 3)
  assert scores[0, 0] > 0.5 > scores[0, 1] and scores[1, 1] > 0.5
  assert not scores[2].any()
  assert scores[0] + scores[1] == pytest.approx(np.ones(3))
  with pytest.raises(ValueError, match="at least two families"):
    adherence.FamilyClassifier(features, ["brass"] * 60)
  assert classifier.standardise(features).mean(axis=0) == pytest.approx(np.zeros(8), abs=1e-9)
