"""Token arithmetic: ids, lengths, windows."""

import doctest
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musiclm_jax import sequences, tokens, windows
from musiclm_jax.tokens import Stage, Stream, Vocabulary, common_multiple, flatten, unflatten

MULAN = Stream("mulan", "mulan", 0.0, 0, 12, 1024)
SEMANTIC = Stream("semantic", "semantic", 25.0, 0, 1, 1024)
COARSE = Stream("coarse", "acoustic", 50.0, 0, 4, 1024)
FINE = Stream("fine", "acoustic", 50.0, 4, 8, 1024)
MELODY = Stream("melody", "melody", 1 / 3, 0, 24, 512)
PAPER = Vocabulary((MULAN, SEMANTIC, COARSE, FINE))


def test_docstring_examples():
  for module in (tokens, sequences, windows):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
  "conditions, target, seconds, lengths",
  [  # MusicLM Sections 3.2 and 4.2; Appendix C for the melody
    ((MULAN,), SEMANTIC, 30.0, (12, 750)),
    ((MULAN, SEMANTIC), COARSE, 10.0, (262, 2000)),
    ((COARSE,), FINE, 3.0, (600, 1200)),
    ((MULAN, MELODY), SEMANTIC, 9.0, (84, 225)),
  ],
)
def test_paper_lengths(conditions, target, seconds, lengths):
  stage = Stage("stage", conditions, target, seconds)
  assert (stage.condition_length, stage.target_length) == lengths
  assert stage.length == sum(lengths)


def test_ids_never_collide_and_levels_of_a_source_are_shared():
  ids = np.concatenate([PAPER.offsets(s)[:, None] + np.arange(1024) for s in PAPER.streams])
  nulls = [PAPER.null(s) for s in (MULAN, SEMANTIC, COARSE)]
  everything = [0, *nulls, *ids.ravel()]
  assert len(set(everything)) == len(everything) == 1 + 3 + 1024 * (12 + 1 + 12)
  assert max(everything) < PAPER.size <= max(everything) + 128
  assert PAPER.null(FINE) == PAPER.null(COARSE)
  assert PAPER.offsets(FINE)[0] == PAPER.offsets(COARSE)[-1] + 1024


def test_a_stream_of_an_unknown_source_or_other_codebook_is_refused():
  with pytest.raises(ValueError, match="source melody is not among acoustic, mulan, semantic"):
    PAPER.offsets(MELODY)
  other = Stream("fine", "acoustic", 50.0, 4, 8, 512)
  with pytest.raises(ValueError, match="codebooks of 1024, not of 512"):
    Vocabulary((COARSE, other)).size  # noqa: B018


@given(st.integers(1, 5), st.integers(1, 12), st.integers(2, 64), st.data())
def test_flatten_and_back(frames, levels, size, data):
  stream = Stream("s", "s", 50.0, 0, levels, size)
  vocabulary = Vocabulary((stream,))
  codes = np.array(
    data.draw(
      st.lists(
        st.lists(st.integers(0, size - 1), min_size=levels, max_size=levels),
        min_size=frames,
        max_size=frames,
      )
    )
  )
  flat = flatten(codes, vocabulary.offsets(stream))
  assert flat.shape == (frames * levels,)
  np.testing.assert_array_equal(unflatten(flat, vocabulary.offsets(stream)), codes)
  # position fixes the level: token i belongs to level i mod levels
  np.testing.assert_array_equal(
    (flat - vocabulary.first_id(stream)) // size, np.arange(frames * levels) % levels
  )


@given(st.integers(1, 300), *3 * (st.integers(0, 50),), st.integers(1, 3))
def test_windows_cover_every_frame_once(total, window, stride, known, grid):
  window = max(window, 1)
  numbers = [n * grid for n in (total, window, min(max(stride, 1), window))]
  known = min(known, total - 1) * grid
  made = list(windows.windows(*numbers, grid, known))
  total, window, stride = numbers
  written = np.concatenate([np.arange(w.new, w.end) for w in made])
  np.testing.assert_array_equal(written, np.arange(known, total))
  for w in made:
    assert 0 <= w.start <= w.new < w.end
    assert w.end - w.start == min(window, total)
    assert w.start % grid == 0
    assert w.new - w.start >= min(window - stride, w.new)  # as much context as there is


@pytest.mark.parametrize("numbers", [(10, 4, 0), (10, 4, 5), (0, 4, 2), (10, 4, 2, 1, 10)])
def test_windows_that_cannot_be_are_refused(numbers):
  with pytest.raises(ValueError, match="windows of"):
    list(windows.windows(*numbers))


@given(st.integers(1, 400), st.integers(1, 60), st.integers(1, 60))
def test_windows_of_a_waveform_start_every_hop_and_lie_in_it_by_half(samples, window, hop):
  waveform = np.arange(1, samples + 1, dtype=np.float32)[None]
  found = windows.cut(waveform, window, hop)[0]
  assert found.shape == (windows.window_count(samples, window, hop), window)
  padded = np.pad(waveform[0], (0, len(found) * hop + window))
  for index, row in enumerate(found):
    np.testing.assert_array_equal(row, padded[index * hop : index * hop + window])
  if len(found) > 1:
    assert (found[-1] > 0).sum() > window // 2 - window % 2
  assert samples - (len(found) - 1) * hop <= max(window, hop + window // 2 + 1)


@given(st.integers(0, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 30))
def test_the_windows_of_a_span_lie_in_it_but_for_short_spans_and_ends(
  start, seconds, window, count
):
  some = range(count)[windows.inside(start, seconds, window, 1.0, count)]
  assert len(some) >= 1
  wanted = [i for i in range(count) if start <= i and i + window <= start + seconds]
  assert list(some) == (wanted or [min(start, count - 1)])


def test_crops_start_where_all_streams_have_a_frame():
  assert Stage("coarse", (MULAN, SEMANTIC), COARSE, 10.0).grid_seconds == Fraction(1, 25)
  assert Stage("melody", (MELODY,), SEMANTIC, 9.0).grid_seconds == 3
  assert common_multiple([Fraction(1, 25), Fraction(2, 25), Fraction(3, 50)]) == Fraction(6, 25)


@pytest.mark.parametrize(
  "conditions, target, seconds, pattern, message",
  [
    ((MULAN, MELODY), SEMANTIC, 10.0, "flat", "crop_seconds 10 is no multiple of 3 s"),
    ((SEMANTIC,), COARSE, 0.03, "flat", "crop_seconds 0.03 is no multiple of 0.04 s"),
    ((), COARSE, 0.0, "flat", "crop_seconds 0 is no multiple"),
    ((COARSE,), MULAN, 1.0, "flat", "target mulan has no frame rate"),
    ((), COARSE, 1.0, "delay", "pattern: wanted flat or delayed, found 'delay'"),
    ((COARSE,), SEMANTIC, 1.0, "delayed", "come at 25 Hz and so cannot carry 50 Hz"),
  ],
)
def test_a_stage_that_could_not_generate_is_refused_at_once(
  conditions, target, seconds, pattern, message
):
  with pytest.raises(ValueError, match=f"stage s: .*{message}"):
    Stage("s", conditions, target, seconds, pattern)
