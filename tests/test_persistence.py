"""Which frames count as steady, and how often their codes stay the same."""

import numpy as np
import pytest

from musiclm_jax.evaluation import persistence, transcriber

FRAMES, RATE = 100, 50.0


def heard(*notes):
  """Notes and onsets [1, frames, 88] of notes (start, end, pitch) in seconds and MIDI pitch."""
  count = round(FRAMES / RATE * transcriber.FRAME_RATE) + 1
  times = np.arange(count) / transcriber.FRAME_RATE
  sounds, onsets = np.zeros((2, 1, count, 88))
  for start, end, pitch in notes:
    sounds[0, (times >= start) & (times < end), pitch - 21] = 0.9
    onsets[0, np.abs(times - start).argmin(), pitch - 21] = 0.9
  return sounds, onsets


def steady(*notes):
  return persistence.steady(*heard(*notes), FRAMES, RATE)[0]


def test_frames_are_steady_inside_a_note_and_not_at_its_ends_nor_in_silence():
  found = steady((0.5, 1.5, 60))
  starts = np.flatnonzero(found) / RATE
  assert found.shape == (FRAMES - 1,)
  assert starts[0] == pytest.approx(0.55, abs=0.03) and starts[-1] == pytest.approx(1.43, abs=0.03)
  assert found[30:70].all()
  assert not steady().any()


def test_a_note_that_joins_or_is_struck_again_is_not_steady():
  joined = steady((0.0, 2.0, 60), (1.0, 2.0, 64))
  again = steady((0.0, 1.0, 60), (1.0, 2.0, 60))
  for found in (joined, again):
    assert not found[48:51].any() and found[20:40].all() and found[60:80].all()


def test_persistence_counts_equal_codes_of_steady_frames_alone():
  codes = np.zeros((1, FRAMES, 2), int)
  codes[0, :, 1] = np.arange(FRAMES)
  counted = steady((0.5, 1.5, 60))[None]
  assert persistence.persistence(codes, counted).tolist() == [[counted.sum(), 0]]
  assert persistence.by_chance(codes, counted) == pytest.approx([1, 1 / counted.sum()])
  assert not persistence.by_chance(codes, np.zeros_like(counted)).any()


def test_tones_do_not_change_and_their_ends_are_left_out():
  waveforms = persistence.tones(24000)
  assert waveforms.dtype == np.float32 and np.abs(waveforms).max() < 1
  codes = np.zeros((len(waveforms), 75, 1), int)
  codes[:, 5] = codes[:, 70] = 1
  assert persistence.within_tones(codes, RATE) == [1]
  codes[:, 30] = 1
  assert persistence.within_tones(codes, RATE)[0] == pytest.approx(1 - 2 / 44)
