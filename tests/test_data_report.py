"""The report about a data set."""

import numpy as np
import pytest

from musiclm_jax.evaluation import data_report


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def test_spans_are_equal_where_their_codes_are_in_the_same_order(rng):
  codes = rng.integers(0, 1024, (50, 2))
  own = data_report.spans(codes, 10)
  assert len(own) == 41 == len(np.unique(own))
  shifted = data_report.spans(np.concatenate([codes[5:30], codes[::-1][:9]]), 10)
  assert np.isin(shifted, own).sum() == 16 and np.isin(shifted, own)[:16].all()
  assert (data_report.spans(codes * [[1, 7]], 10) == own).all()  # the first level alone counts
  assert len(data_report.spans(codes[:9], 10)) == 0


def test_a_held_out_clip_that_is_in_the_train_split_is_counted(rng):
  train = [rng.integers(0, 64, (100, 1)) for _ in range(20)]
  test = [rng.integers(0, 64, (100, 1)) for _ in range(3)] + [train[7][20:]]
  text = data_report._repeated({"train": train, "test": test}, 30, 1.2)
  assert "spans of 1.2 s that the train split has" in text
  found, all_spans = 80 - 29, 3 * 71 + 80 - 29
  assert f"<td>{found / all_spans:.3f}</td>" in text and "<td>0.25</td>" in text


def test_texts_lists_and_numbers_are_shown():
  texts = {"train": [b"flute", b"flute", b"harp"], "test": [b"<i>"]}
  lists = {"train": [np.array([b"flute", b"harp"], object)], "test": [np.array([b"harp"], object)]}
  numbers = {"train": [60.0, 90.0, float("nan")], "test": [100.0]}
  shown = data_report._distribution("lead", texts, 2)
  assert "all 3 values" in shown and "&lt;i&gt;" in shown and "<i>" not in shown
  assert "<td>harp</td><td>1</td><td>1</td>" in data_report._distribution("players", lists, 9)
  assert "<td>train</td><td>60</td>" in data_report._distribution("bpm", numbers, 9)
