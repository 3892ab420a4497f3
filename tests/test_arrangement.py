"""Arrangements: ranges, keys, held-out pairs, accompaniments that follow the metre."""

import numpy as np
import pytest

from musiclm_jax.datasets import (
  accompaniment,
  arrangement,
  catalogue,
  draws,
  instruments,
  passages,
  rendition,
  scores,
)

WORKS = [work for work in catalogue.list_works() if work.parts == 1][:3] + [
  work for work in catalogue.list_works() if work.parts == 4
][:3]


def renditions(work, held_out):
  music = scores.read_music(work)
  found = passages.draw_passages(music, work, 10.0, 2, draws.generator(0, work.id))
  music = passages.repeated(music, 10.0, scores.BEAT_QUARTERS[work.metre])
  return [
    arrangement.arrange(
      music,
      work,
      passage,
      number,
      seed=0,
      clip_seconds=10.0,
      renditions=3,
      held_out=held_out,
    )
    for passage in found
    for number in range(3)
  ]


@pytest.fixture(scope="module")
def arranged():
  return [
    (each, held_out)
    for w in WORKS
    for held_out in (False, True)
    for each in renditions(w, held_out)
  ]


@pytest.mark.slow
def test_every_voice_is_in_its_instruments_range(arranged):
  for each, _ in arranged:
    preroll = rendition.PREROLL_SECONDS / each.seconds_per_quarter
    for voice in each.voices:
      assert arrangement.in_range(voice.notes, voice.instrument), (each.work.id, voice.instrument)
      assert voice.notes[:, 0].min() >= -preroll - 1e-6
    assert each.melody[:, 0].max() < 10.0 / each.seconds_per_quarter


@pytest.mark.slow
def test_nobody_accompanies_himself(arranged):
  for each, _ in arranged:
    if each.arrangement != "parts":
      names = [voice.instrument.name for voice in each.voices]
      assert len(set(names)) == len(names)


@pytest.mark.slow
def test_held_out_pairs_are_only_where_asked_for(arranged):
  for each, held_out in arranged:
    word = each.tempo_word
    assert (each.voices[0].instrument.held_out == word) == held_out
    low, high = passages.TEMPI[word]
    assert low <= each.bpm <= high
    if not held_out:
      assert all(voice.instrument.held_out != word for voice in each.voices)


@pytest.mark.slow
def test_renditions_of_a_passage_are_one_melody_on_other_instruments(arranged):
  groups = {}
  for each, held_out in arranged:
    if not held_out:
      key = (each.work.id, each.passage.name)
      groups.setdefault(key, []).append(each)
  for group in groups.values():
    assert len({each.voices[0].instrument.name for each in group}) == len(group) == 3
    assert len({each.tempo_word for each in group}) == 1
    assert max(each.bpm for each in group) <= 1.3 * min(each.bpm for each in group)
  keys = [len({each.key for each in group}) for group in groups.values()]
  assert keys.count(1) >= 0.8 * len(keys)


@pytest.mark.slow
def test_transposed_notes_are_in_the_stated_key(arranged):
  for each, _ in arranged:
    assert scores.share_in_scale(each.melody, each.key) > 0.8


def test_seed_decides():
  one, two = renditions(WORKS[0], False), renditions(WORKS[0], False)
  assert [each.bpm for each in one] == [each.bpm for each in two]
  for a, b in zip(one, two):
    np.testing.assert_array_equal(a.melody, b.melody)


def test_renditions_choose_instruments_that_are_able_and_others_where_they_can():
  assert [arrangement.choose([True] * 6, number, 3) for number in range(3)] == [0, 2, 4]
  able = [False, True, False, False, True, False]
  assert [arrangement.choose(able, number, 3) for number in range(3)] == [1, 4, 4]
  assert [arrangement.choose([False, False, True, True], n, 2) for n in range(2)] == [2, 3]


def test_transpose_key():
  assert arrangement.transpose_key("D dorian", 3) == "F dorian"
  assert arrangement.transpose_key("B major", 1) == "C major"


@pytest.mark.parametrize("metre", list(scores.BAR_QUARTERS))
def test_drums_follow_the_metre(metre):
  bar, beat = scores.BAR_QUARTERS[metre], scores.BEAT_QUARTERS[metre]
  rows = np.array(accompaniment.drum_pattern(metre, 1.0, 1.0 + 2 * bar))
  kicks = rows[rows[:, 2] == instruments.KICK, 0]
  assert {1.0, 1.0 + bar} <= set(kicks)
  assert np.allclose((rows[rows[:, 2] == instruments.SNARE, 0] - 1.0) % beat, 0.0)


def test_harmony_of_an_arpeggio_is_its_triad():
  """Bars of C-E-G-C, F-A-C-F, C-E-G-C in C major are I, IV, I."""
  pitches = (60, 64, 67, 72, 65, 69, 72, 77, 60, 64, 67, 72)
  melody = np.array([[i, 1.0, pitch] for i, pitch in enumerate(pitches)])
  chords = accompaniment.harmonise(melody, "C major", "4/4", downbeat=0.0)
  heard = [triad for onset, _, triad in chords if onset >= 0]
  assert heard == [(0, 4, 7)] * 2 + [(5, 9, 0)] * 2 + [(0, 4, 7)] * 2
