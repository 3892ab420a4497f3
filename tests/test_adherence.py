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


def test_a_tempo_may_be_half_or_twice_and_four_percent_off():
  found = adherence.tempo_agreement([100.0, 80.0], [100.0, 51.5, 206.0, 95.0])
  assert found.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
  ("name", "key"),
  [("C major", (0, False)), ("Eb dorian", (3, True)), ("F# minor", (6, True)),
   ("Cb mixolydian", (11, False))],
)  # fmt: skip
def test_keys_have_a_tonic_and_a_third(name, key):
  assert adherence.parse_key(name) == key


@pytest.mark.parametrize("name", ["", "C", "H major", "Cx major"])
def test_what_is_no_key_is_refused(name):
  with pytest.raises(ValueError, match="wanted a key such as 'Eb major'"):
    adherence.parse_key(name)


@pytest.mark.parametrize("minor", [False, True])
def test_the_key_of_a_cadence_is_found_in_all_transpositions(minor):
  third = 3 if minor else 4
  chords = [(0, third, 7), (5, 5 + third, 12), (7, 11, 14), (0, third, 7)]
  classes = np.zeros((12, 4, 12))
  for tonic in range(12):
    for frame, chord in enumerate(chords):
      classes[tonic, frame, [(tonic + p) % 12 for p in chord]] = 1
  assert adherence.keys(classes) == [(tonic, minor) for tonic in range(12)]


def test_keys_agree_by_their_distance():
  found = [(0, False), (7, False), (5, False), (9, True), (0, True), (2, False)]
  assert adherence.key_agreement([(0, False)], found).tolist() == [[1, 0.5, 0.5, 0.3, 0.2, 0]]
  assert adherence.key_agreement([(9, True)], [(0, False)]).tolist() == [[0.3]]


def test_tonic_mode_and_scale_are_told_apart():
  keys = [(0, False), (9, True), (0, True)]
  assert adherence.equal(keys, [(0, False)], 0).tolist() == [[1], [0], [1]]
  assert adherence.equal(keys, [(0, False)], 1).tolist() == [[1], [0], [0]]
  music = np.zeros((2, 4, 12))
  music[0, :, [0, 4, 7]] = 1  # C major
  music[0, :2, 6] = 1
  found = adherence.share_in_key(["C major", "F# major", "A minor"], music)
  np.testing.assert_allclose(found[:, 0], [12 / 14, 2 / 14, 12 / 14])
  assert not found[:, 1].any()  # silence
