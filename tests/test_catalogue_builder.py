"""How the catalogue is made from music21's corpus."""

import dataclasses

import numpy as np

from musiclm_jax.datasets import catalogue, catalogue_builder


def test_described_work_is_the_listed_one():
  path = "ryansMammoth/AllAboardReel.abc"
  work, incipit = catalogue_builder.describe(path, 1, catalogue.COLLECTIONS["ryansMammoth/*.abc"])
  listed = {each.id: each for each in catalogue.list_works()}[work.id]
  assert dataclasses.replace(work, split=listed.split) == listed
  assert len(incipit.split()) == 8


def test_forms_are_named():
  assert catalogue_builder.form_of("hornpipe The Rights of Man") == "hornpipe"
  assert catalogue_builder.form_of("Slip Jig") == "slip jig"
  assert catalogue_builder.form_of("25th Regt. Quickstep") == "quick step"
  assert catalogue_builder.form_of("The White Cockade") == "folk tune"


def test_key_that_the_notes_deny_is_no_key():
  d_major = np.array([[i, 1, p] for i, p in enumerate((62, 64, 66, 67, 69, 71, 73, 74))], float)
  assert catalogue_builder.checked_key("D major", (d_major,)) == "D major"
  assert catalogue_builder.checked_key("C major", (d_major,)) == ""
