"""Pitch lines of scales whose pitches are known, and how well two of them agree."""

import numpy as np
import pytest

from musiclm_jax.evaluation import contours, transcriber

RATE = 24000
SCALE = (60, 62, 64, 65, 67, 69, 71, 72)
SECONDS = 0.4


def play(pitches) -> np.ndarray:
  """Notes of SECONDS each with six partials, [samples]."""
  time = np.arange(round(SECONDS * RATE)) / RATE
  shape = np.minimum(1, np.minimum(time / 0.01, (SECONDS - time) / 0.02))
  notes = []
  for pitch in pitches:
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    partials = sum(np.sin(2 * np.pi * k * hertz * time) / k for k in range(1, 7))
    notes.append(0.3 * shape * partials)
  return np.concatenate(notes).astype(np.float32)


@pytest.fixture(scope="module")
def lines():
  """{name: pitch line [1, frames]} of the scale, moved by semitones, of silence and of noise."""
  sounds = {by: play([pitch + by for pitch in SCALE]) for by in (0, 0.25, 1, 12, -12)}
  sounds["silence"] = np.zeros_like(sounds[0])
  sounds["noise"] = 0.1 * np.random.default_rng(0).normal(size=len(sounds[0]))
  (found,) = transcriber.outputs(np.stack(list(sounds.values())), RATE, ("contours",))
  return dict(zip(sounds, contours.pitch_line(found)[:, None]))


def share(real, other, **arguments) -> float:
  ((right, voiced),) = contours.line_agreement(real, other, **arguments)
  return right / voiced


def test_the_line_of_a_scale_is_its_pitches(lines):
  middles = (np.arange(len(SCALE)) + 0.5) * SECONDS * transcriber.FRAME_RATE
  wanted = 3 * (np.array(SCALE) - transcriber.LOWEST_PITCH) + 1
  np.testing.assert_array_equal(lines[0][0, middles.astype(int)], wanted)
  assert (lines[0] != contours.UNVOICED).mean() > 0.9
  for name in ("silence", "noise"):
    assert (lines[name] != contours.UNVOICED).mean() < 0.01


def test_a_recording_agrees_with_itself_and_with_one_a_little_out_of_tune(lines):
  for arguments in ({}, {"any_octave": True}):
    assert share(lines[0], lines[0], **arguments) == 1
    assert share(lines[0], lines[0.25], **arguments) > 0.9


def test_a_semitone_higher_agrees_nowhere_and_an_octave_in_chroma_alone(lines):
  for arguments in ({}, {"any_octave": True}):
    assert share(lines[0], lines[1], **arguments) < 0.05
    assert share(lines[0], lines["silence"], **arguments) == 0
  for octave in (12, -12):
    assert share(lines[0], lines[octave]) < 0.05
    assert share(lines[0], lines[octave], any_octave=True) > 0.9


def test_counts_are_of_frames_where_the_real_one_is_voiced():
  real = np.array([[10, 10, 10, 46, -1, 10], [-1] * 6])
  other = np.array([[11, 12, -1, 9, 10, 46], [5] * 6])
  assert contours.line_agreement(real, other).tolist() == [[1, 5], [0, 0]]
  assert contours.line_agreement(real, other, any_octave=True).tolist() == [[3, 5], [0, 0]]


def test_outputs_of_one_run_are_those_of_transcribe():
  waveforms = play(SCALE[:3])[None]
  found = transcriber.outputs(waveforms, RATE, ("contours", "onsets", "notes"))
  notes, onsets = transcriber.transcribe(waveforms, RATE)
  np.testing.assert_array_equal(found[1], onsets)
  np.testing.assert_array_equal(found[2], notes)
  assert found[0].shape == (*notes.shape[:2], 264)
