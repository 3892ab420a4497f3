"""Passages: anywhere in a work, in its key, and the generators that draw them."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from musiclm_jax.datasets import catalogue, draws, passages, scores

TUNES = [work for work in catalogue.list_works() if work.parts == 1]
WORKS = TUNES[:20] + [work for work in catalogue.list_works() if work.parts == 4][:4]
SECONDS = 30.0


@pytest.fixture(scope="module")
def drawn():
  """[(work, its music, two passages)]."""
  found = []
  for work in WORKS:
    music = scores.read_music(work)
    rng = draws.generator(0, work.id)
    found.append((work, music, passages.draw_passages(music, work, SECONDS, 2, rng)))
  return found


@hypothesis.given(
  st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 8), st.integers(30, 90)), min_size=1),
  st.floats(0, 40),
  st.floats(1, 20),
)
def test_between_keeps_what_sounds(rows, start, length):
  notes = np.array(rows, float)
  cut = passages.between(notes, start, start + length)
  assert np.all(cut[:, 0] >= 0) and np.all(cut[:, 0] + cut[:, 1] <= length + 1e-9)
  sounding = np.minimum(notes[:, 0] + notes[:, 1], start + length) - np.maximum(notes[:, 0], start)
  assert np.isclose(cut[:, 1].sum(), sounding[sounding > 1e-6].sum())


def test_passages_are_spread_and_begin_anywhere(drawn):
  found = [each for *_, two in drawn for each in two]
  assert len(found) >= 1.9 * len(drawn)
  places = [each.place for each in found]
  assert places.count("middle") > len(found) / 2 and {"beginning", "ending"} <= set(places)
  for _, music, two in drawn:
    starts = [each.start / music.length for each in two if each.place == "middle"]
    assert all(0 <= start < 1 for start in starts)
    assert len(starts) < 2 or starts[0] < 0.5 <= starts[1]
  beats = np.array([each.start for each in found if each.place == "middle"]) % 0.5
  assert np.mean((beats > 0.05) & (beats < 0.45)) > 0.5


def test_passages_fit_and_are_in_the_key_of_the_work(drawn):
  for work, music, two in drawn:
    beat = scores.BEAT_QUARTERS[work.metre]
    played = passages.repeated(music, SECONDS, beat)
    longest = SECONDS * passages.TEMPI["fast"][1] / 60 * beat
    shortest = SECONDS * passages.TEMPI["slow"][0] / 60 * beat
    assert played.length >= music.length + longest
    for each in two:
      heard = np.concatenate(
        [passages.between(part, each.start, each.start + shortest) for part in played.parts]
      )
      assert scores.share_in_scale(heard, work.key) >= 0.85
      assert len({each.name for each in two}) == len(two)


def test_a_work_without_a_place_that_fits_has_no_passages():
  """A single note is no melody."""
  music = scores.Music((np.array([[0.0, 4.0, 60.0]]),), 0.0, 8.0)
  rng = draws.generator(0)
  assert passages.draw_passages(music, TUNES[0], SECONDS, 2, rng) == []


def test_generator_depends_on_its_parts_alone():
  one, two = (draws.generator(0, "a", "b").integers(0, 1 << 30, 4) for _ in range(2))
  np.testing.assert_array_equal(one, two)
  assert draws.generator(0, "ab").random() != draws.generator(0, "a", "b").random()
