"""The agreement of the codes of texts and audio, and the errors of their levels."""

import numpy as np
import pytest

from musiclm_jax.evaluation.joint_embedding import agreement, relative_errors


def test_agreement_by_level_and_up_to_it():
  works = np.array(["a", "a", "b", "b"])
  audio = np.array([[0, 1], [0, 2], [1, 1], [1, 3]])
  text = np.array([[0, 1], [1, 2], [1, 1], [1, 2]])
  first, second = agreement(audio, text, works)
  assert first["own"] == 3 / 4 and first["own_prefix"] == 3 / 4
  # of 8 pairs of other works, the text of clip 1 alone has the first code of both clips of b
  assert first["other"] == 2 / 8
  assert second["own"] == 3 / 4 and second["own_prefix"] == 2 / 4
  # at level 2: text 0 and clip 2, text 2 and clip 0, text 3 and clip 1
  assert second["other"] == 3 / 8 and second["other_prefix"] == 0
  low, high = first["interval"]
  assert low <= 3 / 4 <= high


def test_agreement_needs_other_works():
  codes = np.zeros((3, 2), int)
  with pytest.raises(ValueError, match="agreement: wanted clips of several works, found a alone"):
    agreement(codes, codes, np.array(["a", "a", "a"]))


def test_errors_are_relative_to_the_variance_and_fall_with_the_levels():
  embeddings = np.array([[3.0, 0.5], [3.0, -0.5], [-3.0, 0.5], [-3.0, -0.5]])
  vectors = np.array([[[3.0, 0.0], [-3.0, 0.0]], [[0.0, 0.5], [0.0, -0.5]]])
  codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])

  def quantizer(method, some):
    assert method == "decode"
    return sum(vectors[level][some[..., level]] for level in range(some.shape[-1]))

  found = relative_errors(quantizer, embeddings, codes)
  np.testing.assert_allclose(found, [0.25 / 9.25, 0.0], atol=1e-12)
