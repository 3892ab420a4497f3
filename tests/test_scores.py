"""Notes read from music21's scores; keys and scales."""

import dataclasses

import numpy as np
import pytest

from musiclm_jax.datasets import catalogue, scores


@pytest.fixture(scope="module")
def works():
  return {work.id: work for work in catalogue.list_works()}


def test_tune_is_read_as_written(works):
  """All Aboard: a pickup of two sixteenths, F# G, read as eighths of 4/4; the bar A F D F A F D
  F."""
  music = scores.read_music(works["ryansMammoth/AllAboardReel:1"])
  assert music.pickup == 1.0
  np.testing.assert_array_equal(music.parts[0][:4, 2], [66, 67, 69, 66])
  np.testing.assert_array_equal(music.parts[0][:4, 0], [0.0, 0.5, 1.0, 1.5])
  assert music.length % 4.0 == 0.0


def test_chorale_has_four_parts_in_its_key(works):
  music = scores.read_music(works["bach/bwv117.4"])
  assert len(music.parts) == 4
  middles = [part[:, 2].mean() for part in music.parts]
  assert middles == sorted(middles, reverse=True)
  assert scores.share_in_scale(np.concatenate(music.parts), "G major") > 0.9


def test_score_without_notes_is_refused(works):
  work = dataclasses.replace(works["ryansMammoth/AllAboardReel:1"], metre="4/4", number=1)
  text = "X:1\nT:Empty\nM:4/4\nL:1/4\nK:C\nz4|z4|\n"
  assert not scores.notes_of(scores.parse(text), work.metre, 1.0).parts


def test_ties_join_only_equal_pitches():
  text = "X:1\nT:Ties\nM:4/4\nL:1/4\nK:C\nC2-C2|D2-E2|\n"
  notes = scores.notes_of(scores.parse(text), "4/4", 1.0).parts[0]
  np.testing.assert_array_equal(notes, [[0, 4, 60], [4, 2, 62], [6, 2, 64]])


def test_split_tunes():
  text = "%% book\nX:1\nK:C\nCDE|\nX:2\nK:G\nGAB|"
  assert scores.split_tunes(text) == ["X:1\nK:C\nCDE|\n", "X:2\nK:G\nGAB|"]


def test_melody_is_the_highest_line():
  notes = np.array([[0, 4, 60], [0, 1, 72], [1, 1, 74]], float)
  np.testing.assert_array_equal(scores.melody_of(notes), [[0, 1, 72], [1, 1, 74]])


@pytest.mark.parametrize("key", ["C major", "A minor", "Eb major", "F# minor"])
def test_key_of_its_own_scale(key):
  tonic, mode = scores.split_key(key)
  pitches = [
    60 + tonic + step for step in (*scores.SCALES[mode], 0, 4 if mode == "major" else 3, 7)
  ]
  notes = np.array([[i, 1.0, pitch] for i, pitch in enumerate(pitches)], float)
  assert scores.estimate_key(notes) == key
  assert scores.share_in_scale(notes, key) == 1.0
