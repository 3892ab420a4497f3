"""Classifiers of instrument families on embeddings whose families are known."""

import numpy as np
import pytest

from musiclm_jax.evaluation.families import Classifier


def test_families_are_told_apart_and_an_unknown_one_gets_nothing(rng):
  embeddings = rng.normal(size=(60, 2, 8))
  families = ["brass" if i % 2 else "mallets" for i in range(60)]
  embeddings[::2, :, 0] += 4
  classifier = Classifier(embeddings, families)
  assert classifier.right(embeddings, families).mean() > 0.9
  scores = classifier.scores(embeddings[:3], ["mallets", "brass", "theremin"])
  assert scores.shape == (3, 3)
  assert scores[0, 0] > 0.5 > scores[0, 1] and scores[1, 1] > 0.5
  assert not scores[2].any()
  assert scores[0] + scores[1] == pytest.approx(np.ones(3))
  with pytest.raises(ValueError, match="at least two families"):
    Classifier(embeddings, ["brass"] * 60)
