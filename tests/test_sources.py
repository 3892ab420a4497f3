"""Sources that make codes when they are read, and conditions as functions of time."""

import numpy as np
import pytest

from musiclm_jax.lm import conditions
from musiclm_jax.sources import Label
from musiclm_jax.tokens import Stream


def make(source, stream_fields, record, start=0.0, seconds=10.0):
  stream = Stream("label", "label", 0.0, *stream_fields, source)
  source.check(stream, {})
  return source.open(stream, {}, {})(record, start, seconds).tolist()


@pytest.mark.parametrize(
  "bpm, code", [(40.0, 1), (79.9, 1), (80.0, 2), (119.0, 2), (500.0, 3), (float("nan"), 0)]
)
def test_a_number_is_the_count_of_bounds_that_are_not_above_it(bpm, code):
  assert make(Label("bpm", (80.0, 120.0)), (0, 1, 4), {"bpm": np.float32(bpm)}) == [[code]]


def test_texts_fill_the_levels_in_their_order():
  label = Label("instruments", ("flute", "harp", "violin"))
  record = {"instruments": np.array([b"harp", b"oboe", b"violin"], object)}
  assert make(label, (0, 2, 4), record) == [[2, 0]]
  assert make(label, (0, 4, 4), record) == [[2, 0, 3, 0]]
  assert make(label, (2, 1, 4), record) == [[3]]
  assert make(label, (0, 2, 4), {"instruments": np.array([], object)}) == [[0, 0]]
  assert label.code("flute") == 1  # words of a prompt are coded alike


def test_a_label_is_the_same_in_all_frames_and_unknown_where_it_is_missing():
  label = Label("instruments", ("flute", "harp"))
  stream = Stream("label", "label", 25.0, 0, 2, 4, label)
  codes = label.open(stream, {}, {})
  assert codes({"instruments": ["harp"]}, 3.0, 0.12).tolist() == [[2, 0]] * 3
  assert codes({}, 3.0, 0.08).tolist() == [[-1, -1]] * 2


def test_a_codebook_that_is_too_small_is_refused():
  with pytest.raises(ValueError, match="stream label: 2 bins want a codebook of 4, found 3"):
    make(Label("bpm", (80.0, 120.0)), (0, 1, 3), {})


def test_conditions_are_functions_of_time():
  one, other = np.full((2, 1, 3), 1), np.full((2, 1, 3), 2)
  assert conditions.constant(one)(7.0, 1.0) is one
  story = conditions.stepwise([(0.0, one), (10.0, other)])
  assert [story(start, 8.0) is other for start in (0.0, 2.0, 3.0, 30.0)] == [
    False,
    False,
    True,
    True,
  ]
  codes = np.arange(100).reshape(1, 100, 1)
  melody = conditions.sliced(codes, 25.0)
  np.testing.assert_array_equal(melody(2.0, 0.12)[0, :, 0], [50, 51, 52])
  assert melody(3.9, 1.0).shape == (1, 2, 1)  # it ends
  for times in ([], [1.0], [0.0, 5.0, 5.0]):
    with pytest.raises(ValueError, match="times that begin at 0 and rise"):
      conditions.stepwise([(time, one) for time in times])


def test_a_label_is_read_from_the_words_of_a_prompt():
  players = Label("instruments", ("bass", "double bass", "flute", "viola", "violin"))
  assert players.named("Two FLUTES, violin, double bass") == ["flute", "violin", "double bass"]
  assert players.named("a flutist in a bassoon") == []
  assert Label("key", ("F minor", "F# minor")).named("a jig in F# minor.") == ["F# minor"]
  tempo = Label("bpm", (80.0,))
  assert tempo.named("at 92.5 bpm") == [92.5] and tempo.named("120BPM") == [120.0]
  assert tempo.named("in 6/8 time") == []


def test_what_is_known_of_each_row_is_a_condition():
  stream = Stream("tempo", "tempo", 0.0, 0, 1, 4, Label("bpm", (80.0, 120.0)))
  condition = conditions.of_records(stream, [{"bpm": 100.0}, {}])
  assert condition(30.0, 10.0).tolist() == [[[2]], [[-1]]]
