"""Streams: pieces of any length come out as the whole does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musiclm_jax.tokenizers import streaming
from musiclm_jax.tokenizers.frozen import Frozen
from tests import test_soundstream

HOP = 480
FRAMES = 10


def codec():
  return Frozen(test_soundstream.codec(), test_soundstream.variables())


def pieces(*ends):
  """Consecutive slices up to each end."""
  return [slice(a, b) for a, b in zip([0, *ends], ends)]


@pytest.mark.slow
@settings(max_examples=8)
@given(st.lists(st.integers(0, FRAMES * HOP), max_size=4).map(sorted))
def test_pieces_of_sound_are_encoded_as_the_whole(ends):
  x, stream, codes = test_soundstream.music(2, FRAMES * HOP), streaming.initial_state(2), []
  for piece in pieces(*ends, FRAMES * HOP):
    new, stream = streaming.encode(codec(), stream, x[:, piece])
    codes.append(new)
    assert sum(c.shape[1] for c in codes) == piece.stop // HOP
  np.testing.assert_array_equal(np.concatenate(codes, axis=1), test_soundstream.run(x, "encode"))


@pytest.mark.slow
@settings(max_examples=8)
@given(st.lists(st.integers(1, FRAMES - 1), max_size=4, unique=True).map(sorted))
def test_pieces_of_codes_are_decoded_as_the_whole(ends):
  codes = np.random.default_rng(0).integers(0, 16, (2, FRAMES, 3)).astype(np.int32)
  state, parts = {}, []
  for piece in pieces(*ends, FRAMES):
    new, state = streaming.decode(codec(), state, codes[:, piece])
    parts.append(new)
  whole = test_soundstream.run(codes, "decode")
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)


def test_another_number_of_streams_is_refused():
  with pytest.raises(ValueError, match="wanted 2 streams, found 3"):
    streaming.encode(None, streaming.initial_state(2), np.zeros((3, 10), np.float32))
