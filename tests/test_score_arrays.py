"""Scores in one file: the same notes as music21's, and files that are refused."""

import numpy as np
import pytest

from musiclm_jax.datasets import catalogue, score_arrays, scores

WORKS = catalogue.list_works()[:6]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("scores") / "scores.npz")
  score_arrays.write(path, WORKS, [scores.read_music(work) for work in WORKS])
  return path


def test_notes_are_those_of_music21(file):
  assert len({work.parts for work in WORKS}) > 1
  for work in WORKS:
    music, read = scores.read_music(work), score_arrays.read_music(work, file)
    assert (read.pickup, read.length) == (music.pickup, music.length)
    assert len(read.parts) == len(music.parts)
    for one, other in zip(read.parts, music.parts):
      assert one.dtype == other.dtype == np.float64
      np.testing.assert_array_equal(one, other)


def test_without_a_file_music21_is_read():
  music = score_arrays.read_music(WORKS[0], "")
  np.testing.assert_array_equal(music.parts[0], scores.read_music(WORKS[0]).parts[0])


def test_other_files_are_refused(file, tmp_path):
  with pytest.raises(ValueError, match="none.npz: wanted a file of scores"):
    score_arrays.read_music(WORKS[0], str(tmp_path / "none.npz"))
  (tmp_path / "text.npz").write_text("no scores")
  with pytest.raises(ValueError, match="text.npz: wanted a file of scores"):
    score_arrays.read_music(WORKS[0], str(tmp_path / "text.npz"))
  with np.load(file) as arrays:
    np.savez(tmp_path / "old.npz", **{**arrays, "catalogue": np.array("0123")})
  with pytest.raises(ValueError, match="wanted the scores of this catalogue .*, got 0123"):
    score_arrays.read_music(WORKS[0], str(tmp_path / "old.npz"))
