"""Work that is spread over the splits of a data set."""

import numpy as np
import pytest

from musiclm_jax.datasets import parallel_build


def test_results_are_in_the_split_of_their_job():
  jobs = {"train": [1, 2, 3], "validation": [], "test": [4, 5]}
  made = parallel_build.spread(map, np.square, jobs, unit="job", verb="squaring")
  assert {split: list(each) for split, each in made.items()} == {
    "train": [1, 4, 9],
    "validation": [],
    "test": [16, 25],
  }


def test_short_work_and_its_errors_show_no_progress_bar(capsys):
  def fail(job):
    raise ValueError(job)

  made = parallel_build.spread(map, fail, {"train": ["a.wav"]}, unit="job", verb="reading")
  with pytest.raises(ValueError, match="a.wav"):
    next(made["train"])
  assert capsys.readouterr().err == ""
