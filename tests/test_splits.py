"""Splits of files and of works."""

import collections

import pytest

from musiclm_jax.datasets import splits


def test_splits_depend_on_the_path_alone_and_have_their_shares():
  paths = [f"album {i % 7}/song {i}.wav" for i in range(5000)]
  found = collections.Counter(splits.split_of_file(path, (0.8, 0.1, 0.1)) for path in paths)
  assert abs(found["train"] - 4000) < 100 and abs(found["test"] - 500) < 80
  assert set(found) == set(splits.SPLITS)
  assert {splits.split_of_file(path, (1.0, 0.0, 0.0)) for path in paths} == {"train"}
  assert {splits.split_of_file(path, (0.5, 0.0, 0.5)) for path in paths} == {"train", "test"}
  # the same on every machine and in every version
  found = [splits.split_of_file(f"{i}.wav", (0.4, 0.3, 0.3)) for i in range(6)]
  assert found == ["train", "train", "test", "train", "test", "train"]


@pytest.mark.parametrize(
  "shares", [(0.9, 0.1), (0.5, 0.5, 0.5), (1.1, -0.1, 0.0), (0.5, 0.5, float("nan"))]
)
def test_shares_must_be_three_and_one_in_all(shares):
  with pytest.raises(ValueError, match="shares: wanted a share of 0 to 1 for each of train, val"):
    splits.check_shares(shares)


def test_versions_of_a_melody_share_a_split():
  works = [("a", "The Rake", "1 2"), ("b", "Rake", "3 4"), ("c", "Other", "3 4")]
  works += [(f"w{i}", f"T{i}", f"{i}") for i in range(60)]
  found = splits.split_of_works(works)
  assert found["a"] == found["b"] == found["c"]
  assert set(found.values()) == set(splits.SPLITS)
