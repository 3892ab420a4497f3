"""Sources that follow the time in a piece."""

import numpy as np
import pytest

from musiclm_jax.clocks import Beat, Place
from musiclm_jax.tokens import Stream


def codes(source, size, record, start=0.0, seconds=1.0, rate=4.0):
  stream = Stream("clock", "clock", rate, 0, 1, size, source)
  source.check(stream, {})
  found = source.open(stream, {}, {})(record, start, seconds)
  assert found.dtype == np.int32 and found.shape == (stream.frames(seconds), 1)
  return found[:, 0].tolist()


BEAT = Beat("bpm", "beat_s")


def test_a_beat_comes_again_after_a_beat_and_begins_where_the_record_says():
  record = {"bpm": np.float32(60.0), "beat_s": np.float32(0.0)}
  assert codes(BEAT, 4, record) == [0, 1, 2, 3]
  assert codes(BEAT, 4, record, start=0.5) == [2, 3, 0, 1]
  assert codes(BEAT, 4, record | {"beat_s": 0.25}) == [3, 0, 1, 2]
  assert codes(BEAT, 4, {"bpm": 120.0}) == [1, 3, 1, 3]  # the first beat is the beginning


def test_windows_of_a_piece_have_the_beats_of_the_whole():
  whole = codes(BEAT, 8, {"bpm": 93.0}, seconds=20.0, rate=25.0)
  parts = [codes(BEAT, 8, {"bpm": 93.0}, start, 5.0, 25.0) for start in (0.0, 5.0, 10.0, 15.0)]
  assert sum(parts, []) == whole


@pytest.mark.parametrize("record", [{}, {"beat_s": 0.0}, {"bpm": float("nan")}, {"bpm": 0.0}])
def test_without_a_tempo_there_is_no_beat(record):
  assert codes(BEAT, 4, record) == [-1] * 4


PLACE = Place("start_s", "end_s", 2)


def test_the_first_and_the_last_seconds_of_a_piece_have_codes_of_their_own():
  record = {"start_s": 0.0, "end_s": 10.0}
  found = codes(PLACE, 6, record, seconds=12.0, rate=1.0)
  assert found == [1, 2, 0, 0, 0, 0, 0, 5, 4, 3, 3, 3]  # after the end: still the last one
  assert codes(PLACE, 6, record | {"start_s": 5.0}, seconds=3.0, rate=1.0) == [0, 0, 0]
  assert codes(PLACE, 6, record, start=8.0, seconds=2.0, rate=1.0) == [4, 3]


def test_what_is_not_known_of_a_place_is_far():
  assert codes(PLACE, 6, {}, rate=1.0, seconds=3.0) == [-1, -1, -1]
  assert codes(PLACE, 6, {"end_s": 3.0}, rate=1.0, seconds=3.0) == [5, 4, 3]
  assert codes(PLACE, 6, {"start_s": 0.0}, rate=1.0, seconds=3.0) == [1, 2, 0]


def test_a_stream_without_a_rate_or_with_too_few_codes_is_refused():
  for source in (BEAT, PLACE):
    with pytest.raises(ValueError, match="stream clock: wanted a frame rate, found 0 Hz"):
      codes(source, 6, {}, rate=0.0)
  with pytest.raises(ValueError, match="stream clock: wanted 4 codes, found 3"):
    codes(PLACE, 3, {})
