"""What listeners hear in sounds whose notes are known."""

import dataclasses
import itertools
import sys

import numpy as np
import pytest

from musiclm_jax.embedders import musicnn, packages
from musiclm_jax.evaluation import chroma, listeners, transcriber

RATE = 24000
CHORDS = ((60, 64, 67), (65, 69, 72), (67, 71, 74), (60, 64, 67))


def play(notes, seconds: float) -> np.ndarray:
  """A waveform [samples] of notes (start, end, MIDI pitch) with decaying overtones."""
  time = np.arange(round(seconds * RATE)) / RATE
  waveform = np.zeros(len(time))
  for start, end, pitch in notes:
    since = np.clip(time - start, 0, None)
    shape = np.minimum(since / 0.01, 1) * np.exp(-1.5 * since) * np.clip((end - time) / 0.03, 0, 1)
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    for k in range(1, 7):
      waveform += 0.1 / k * shape * np.sin(2 * np.pi * k * hertz * since)
  return waveform.astype(np.float32)


SCALE = [
  (0.4 * i, 0.4 * i + 0.38, p) for i, p in enumerate((60, 62, 64, 65, 67, 69, 71, 72, 74, 76))
]
PIECES = [SCALE, [(1.0 * i, 1.0 * i + 0.97, p) for i, chord in enumerate(CHORDS) for p in chord]]


@pytest.fixture(scope="module")
def music():
  """A scale and four chords, [2, 4 * RATE]."""
  return np.stack([play(notes, 4.0) for notes in PIECES])


@pytest.fixture(scope="module")
def heard(music):
  return listeners.listen(music, RATE)


def truth(frames: int) -> np.ndarray:
  """Whether each note sounds, [2, frames, 88]."""
  times = np.arange(frames) / transcriber.FRAME_RATE
  sounds = np.zeros((2, frames, 88))
  for rows, notes in zip(sounds, PIECES):
    for start, end, pitch in notes:
      rows[(times >= start) & (times < end), pitch - transcriber.LOWEST_PITCH] = 1
  return sounds


def test_the_notes_of_a_scale_and_of_chords_are_heard_in_their_place(heard):
  counts = transcriber.frame_agreement(truth(heard.notes.shape[1]), heard.notes)
  scores = counts[:, 0] / counts[:, 1]
  assert (scores >= 0.8).all(), scores
  assert transcriber.notes_at_once(heard.notes) == pytest.approx([0.95, 2.9], abs=0.35)


def test_onsets_are_heard_where_notes_begin(heard):
  for rows, notes in zip(heard.onsets, PIECES):
    for start, _, pitch in notes:
      frame = round(start * transcriber.FRAME_RATE)
      near = rows[max(0, frame - 4) : frame + 5, pitch - transcriber.LOWEST_PITCH]
      assert near.max() > 0.3, (start, pitch)


def test_frames_keep_their_time_over_many_windows():
  start = 17.0  # seconds: the published framing is 0.1 s off by then
  notes, _ = transcriber.transcribe(play([(start, 19.0, 60)], 20.0)[None], RATE)
  sounds = np.flatnonzero(notes[0, :, 60 - transcriber.LOWEST_PITCH] > 0.5)
  assert notes.shape[1] == 1 + int(20 * 22050) // 256
  assert sounds[0] / transcriber.FRAME_RATE == pytest.approx(start, abs=0.04)


def test_a_clip_shorter_than_a_window_is_heard_and_silence_has_no_notes():
  waveforms = np.stack([play([(0.1, 0.9, 60)], 1.0), np.zeros(RATE, np.float32)])
  at_once = transcriber.notes_at_once(transcriber.transcribe(waveforms, RATE)[0])
  assert at_once[0] > 0.5 and at_once[1] == 0


def test_pitch_classes_are_those_of_the_notes(heard):
  for classes in (heard.chroma, transcriber.note_chroma(heard.notes)):
    frames = classes.shape[1]
    for i, chord in enumerate(CHORDS):
      middle = classes[1, int(frames * (i + 0.5) / 4)]
      assert set(np.argsort(middle)[-3:]) == {p % 12 for p in chord}


def test_clips_agree_with_themselves_and_not_with_other_notes(music, heard):
  same = listeners.compare(heard, heard, ["a", "b"])
  for name in ("notes_share", "note_f_measure", "chroma_correlation", "note_chroma_correlation"):
    assert same[name]["value"] == pytest.approx(1), name
  higher = np.stack([play([(s, e, p + 1) for s, e, p in notes], 4.0) for notes in PIECES])
  other = listeners.compare(heard, listeners.listen(higher, RATE), ["a", "b"])
  assert other["notes_share"]["value"] == pytest.approx(1, abs=0.15)
  assert other["note_f_measure"]["value"] < 0.1
  assert other["chroma_correlation"]["value"] < 0.3
  assert other["note_chroma_correlation"]["value"] < 0.1
  silence = listeners.compare(heard, listeners.listen(np.zeros_like(music), RATE), ["a", "b"])
  assert not any(
    silence[name]["value"] for name in same if "energy" not in name and "band" not in name
  )


def test_energy_is_compared_band_by_band(heard):
  quieter = dataclasses.replace(heard, energies=heard.energies * [1, 0.5, 0.1, 1, 0.01])
  found = {k: v["value"] for k, v in listeners.compare(heard, quieter, ["a", "b"]).items()}
  bands = [found[f"energy_{a}_to_{b}_hz_db"] for a, b in itertools.pairwise(listeners.BANDS)]
  assert bands == pytest.approx([0, -3.01, -10, 0, -20], abs=0.01)
  assert found["band_difference_to_4_khz_db"] == pytest.approx(10)
  assert found["band_difference_to_8_khz_db"] == pytest.approx(20)
  tones = np.sin(2 * np.pi * np.outer([250, 750, 1500, 3000, 6000], np.arange(RATE)) / RATE)
  shares = listeners.energies(tones, RATE)
  assert shares.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]
  assert shares.max(axis=1) == pytest.approx(shares.sum(axis=1), rel=1e-6)


def test_another_sample_of_real_music_is_near_and_noise_is_far(rng):
  real = rng.normal(size=(2, 100, 2, 4))
  works = [str(index // 2) for index in range(100)]
  found = listeners.compare_sets(real[0], {"real": real[1], "noise": real[1] + 1.5}, works)
  assert abs(found["real"]["kernel"]) < 20 < found["noise"]["kernel"]
  assert found["real"]["frechet"] < 0.3 < found["noise"]["frechet"]
  assert found["real"]["rows"] == 200
  assert abs(found["real"]["frechet_limit"]) < 0.1 < found["noise"]["frechet_limit"]
  figures = listeners.distance_figures(found, "noise")
  assert figures["kernel_distance"]["baseline"] == found["real"]["kernel"]
  low, high = figures["kernel_distance"]["interval"]
  assert low < found["noise"]["kernel"] < high
  assert listeners.shown_distances(found)["noise"]["kernel_interval"] == [low, high]
  same = listeners.kernel_ratio(found, "noise", "noise")
  assert same["value"] == 1 and same["interval"] == [1, 1]
  assert figures["frechet_distance"]["too_few"] == "200 patches, at least 201 are needed"


def test_chroma_agreement_does_not_depend_on_the_level_and_quiet_frames_do_not_count(music):
  counted = chroma.audible(music)
  a, b = (chroma.chroma(x, RATE) for x in (music, music / 10))
  assert chroma.agreement(a, b, counted) == pytest.approx([1, 1], abs=1e-4)
  half = music.copy()
  half[:, 2 * RATE :] *= 1e-4
  assert chroma.audible(half).mean() == pytest.approx(0.5, abs=0.05)
  assert not chroma.audible(np.zeros((1, RATE), np.float32)).any()


def test_musicnn_gives_an_embedding_for_every_three_seconds(music):
  long = np.concatenate([music, music[:, : 3 * RATE]], axis=1)
  embeddings, tags = musicnn.embed(long, RATE)
  assert embeddings.shape == (2, 2, musicnn.EMBED_DIM) and tags.shape == (2, 2, 50)
  assert len(musicnn.tag_names()) == 50
  first, _ = musicnn.embed(long[:1, : 3 * RATE + 300], RATE)
  assert first[0, 0] == pytest.approx(embeddings[0, 0], abs=1e-3)
  short, _ = musicnn.embed(long[:, :RATE], RATE)
  assert short.shape == (2, 1, musicnn.EMBED_DIM)


def test_musicnn_hears_a_beat_in_noise_bursts_and_none_in_a_held_chord():
  time = np.arange(3 * RATE + 300) / RATE
  noise = np.random.default_rng(0).normal(size=len(time))
  beats = (0.3 * noise * np.exp(-30 * (time % 0.25))).astype(np.float32)
  held = play([(0, 9, p) for p in (48, 55, 60, 64)], len(time) / RATE)
  _, tags = musicnn.embed(np.stack([beats, held]), RATE)
  drums = musicnn.tag_names().index("drums")
  slow = musicnn.tag_names().index("slow")
  assert tags[0, 0, drums] > tags[1, 0, drums] and tags[1, 0, slow] > tags[0, 0, slow]


@pytest.mark.parametrize("module", ["basic_pitch", "onnxruntime", "musicnn"])
def test_a_package_that_is_not_installed_is_named_with_how_to_install_it(
  module, music, monkeypatch
):
  monkeypatch.setitem(sys.modules, module, None)
  for call in (packages.check, lambda: listeners.listen(music, RATE)):
    with pytest.raises(ValueError, match=f"{module} is not installed: pip install"):
      call()
