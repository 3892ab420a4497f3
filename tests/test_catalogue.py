"""The list of works: complete, free, and split by melody."""

import pytest

from musiclm_jax.datasets import catalogue, scores


@pytest.fixture(scope="module")
def works():
  return {work.id: work for work in catalogue.list_works()}


def test_list_is_whole(works):
  assert len(works) == len(catalogue.list_works()) > 1000
  folder = scores.corpus_folder()
  assert all((folder / path).is_file() for path in {work.path for work in works.values()})
  for work in works.values():
    assert work.metre in scores.BAR_QUARTERS and work.split in ("train", "validation", "test")
    assert scores.split_key(work.key)[1] in scores.SCALES
    assert work.title and work.composer and work.licence and work.collection


def test_list_leaves_out_what_is_not_free(works):
  barred = ("palestrina", "essenFolksong", "leadSheet", "josquin", "monteverdi", "trecento")
  assert not {work.path.split("/")[0] for work in works.values()} & set(barred)
  assert not [work for work in works.values() if work.path.endswith(".krn")]


def test_versions_of_one_title_share_a_split(works):
  splits = {}
  for work in works.values():
    if work.parts == 1:
      splits.setdefault(work.title.lower(), set()).add(work.split)
  assert max(map(len, splits.values())) == 1
