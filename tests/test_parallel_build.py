"""Jobs spread over processes come back in order, in their splits, and never far ahead."""

import numpy as np
import pytest

from musiclm_jax.datasets import parallel_build


class Pool:
  """Stands for a pool of processes: counts what is begun and not yet taken."""

  def __init__(self):
    self.ahead = self.most = 0

  def apply_async(self, function, arguments):
    self.ahead += 1
    self.most = max(self.most, self.ahead)
    return Result(self, function, arguments)


class Result:
  def __init__(self, pool, function, arguments):
    self.pool, self.function, self.arguments = pool, function, arguments

  def get(self):
    self.pool.ahead -= 1
    return self.function(*self.arguments)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 20])
def test_a_pool_is_few_jobs_ahead_of_what_is_taken(count):
  pool = Pool()
  assert list(parallel_build._map(pool, 4, str, list(range(count)))) == [
    str(i) for i in range(count)
  ]
  assert pool.most == min(count, 4)


def test_results_lie_in_the_split_of_their_job():
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
