"""How works are chosen from music21's corpus."""

import dataclasses

import numpy as np

from musiclm_jax.datasets import catalogue, scores


def test_described_work_is_the_listed_one():
  path = "ryansMammoth/AllAboardReel.abc"
  work, incipit = catalogue.describe(path, 1, catalogue.COLLECTIONS["ryansMammoth/*.abc"])
  listed = {each.id: each for each in scores.list_works()}[work.id]
  assert dataclasses.replace(work, split=listed.split) == listed
  assert len(incipit.split()) == 8


def test_forms_are_named():
  assert catalogue.form_of("hornpipe The Rights of Man") == "hornpipe"
  assert catalogue.form_of("Slip Jig") == "slip jig"
  assert catalogue.form_of("25th Regt. Quickstep") == "quick step"
  assert catalogue.form_of("The White Cockade") == "folk tune"


def test_key_that_the_notes_deny_is_no_key():
  d_major = np.array([[i, 1, p] for i, p in enumerate((62, 64, 66, 67, 69, 71, 73, 74))], float)
  assert catalogue.checked_key("D major", (d_major,)) == "D major"
  assert catalogue.checked_key("C major", (d_major,)) == ""


def test_versions_of_a_melody_go_the_same_way():
  row = scores.list_works()[0]
  found = [
    (dataclasses.replace(row, id=f"w{i}", title=title), incipit)
    for i, (title, incipit) in enumerate(
      [
        ("The Rake", "1 2"),
        ("Rake", "3 4"),
        ("Other", "3 4"),
        *((f"T{j}", f"{j}") for j in range(60)),
      ]
    )
  ]
  works = catalogue.split_groups(found)
  assert len({work.split for work in works[:3]}) == 1
  assert {work.split for work in works} == {"train", "validation", "test"}
