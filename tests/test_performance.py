"""How renditions are played: small deviations, accents, and onsets that the facts follow."""

import dataclasses

import numpy as np
import pytest

from musiclm_jax.datasets import catalogue, draws, instruments, passages, performance
from musiclm_jax.datasets.rendition import Rendition, Voice

WORK = dataclasses.replace(catalogue.list_works()[0], metre="4/4")
BPM = 120.0


def rendition(voices):
  facts = dict(tempo_word="fast", key="C major", arrangement="solo", dynamics="loud")
  return Rendition(
    work=WORK,
    passage=passages.Passage("0", 0.0, "beginning"),
    start=0.0,
    pickup=0.0,
    bpm=BPM,
    articulation="legato",
    voices=voices,
    melody=voices[0].notes,
    **facts,
  )


@pytest.fixture(scope="module")
def played():
  """A melody of eighths and a voice of chords on every beat, 200 bars."""
  piano, organ = instruments.with_role("chords")[:2]
  eighths = np.array([[i * 0.5, 0.5, 60.0 + i % 5] for i in range(1600)])
  chords = np.array([[i * 1.0, 1.0, 48.0 + j] for i in range(800) for j in (0, 4, 7)])
  score = rendition((Voice(piano, eighths, 0.0), Voice(organ, chords, -9.0)))
  return score, performance.perform(score, draws.generator(1))


def test_onsets_deviate_by_some_milliseconds_and_stay_in_order(played):
  score, parts = played
  for voice, part in zip(score.voices, parts):
    deviations = part.notes[:, 0] - voice.notes[:, 0] * score.seconds_per_quarter
    assert 0.005 < deviations.std() < 0.02 and np.abs(deviations).max() < 0.05
    assert np.all(np.diff(np.unique(part.notes[:, 0])) > 0.1)
  melody = parts[0].notes[:, 0] - score.voices[0].notes[:, 0] * score.seconds_per_quarter
  chords = parts[1].notes[::3, 0] - score.voices[1].notes[::3, 0] * score.seconds_per_quarter
  assert np.corrcoef(melody[:-1], melody[1:])[0, 1] > 0.5
  assert np.corrcoef(melody[::2], chords)[0, 1] > 0.4  # the voices stay together


def test_notes_of_a_chord_begin_together(played):
  onsets = played[1][1].notes[:, 0].reshape(-1, 3)
  assert np.all(onsets == onsets[:, :1])


def test_downbeats_are_louder_and_notes_are_not_longer_than_written(played):
  score, parts = played
  levels = parts[0].notes[:, 3].reshape(-1, 8).mean(axis=0)
  assert levels[0] > levels[[2, 4, 6]].max() and levels[[2, 4, 6]].min() > levels[1::2].max()
  written = score.voices[0].notes[:, 1] * score.seconds_per_quarter
  shares = parts[0].notes[:, 1] / written
  assert shares.max() <= 1.0 and 0.85 < shares.mean() < 0.99
  assert parts[0].loudness == 0.0 and parts[1].loudness == -9.0


def test_the_generator_decides(played):
  score, parts = played
  again = performance.perform(score, draws.generator(1))
  other = performance.perform(score, draws.generator(2))
  np.testing.assert_array_equal(again[0].notes, parts[0].notes)
  assert not np.array_equal(other[0].notes, parts[0].notes)
