"""Passages, excerpts and the waveform that is rendered from them."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import librosa
import numpy as np
import pytest

from musiclm_jax import audio
from musiclm_jax.datasets import catalogue, corpus_clips, scores, soundfonts, synthesis

WORK = next(work for work in catalogue.list_works() if work.parts == 1 and work.metre == "4/4")


@pytest.fixture(scope="module")
def soundfont(tmp_path_factory):
  return soundfonts.write_corrected("", tmp_path_factory.mktemp("soundfont"))


@pytest.fixture(scope="module")
def examples(soundfont):
  return corpus_clips.render_work(
    corpus_clips.Job(
      work=WORK,
      seed=0,
      soundfont=soundfont,
      clip_seconds=6.0,
      passages=1,
      renditions=3,
      held_out=False,
    )
  )


@hypothesis.given(
  st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 8), st.integers(30, 90)), min_size=1),
  st.floats(0, 40),
  st.floats(1, 20),
)
def test_between_keeps_what_sounds(rows, start, length):
  notes = np.array(rows, float)
  cut = passages.between(notes, start, start + length)
  assert np.all(cut[:, 0] >= 0) and np.all(cut[:, 0] + cut[:, 1] <= length + 1e-9)
  sounding = np.minimum(notes[:, 0] + notes[:, 1], start + length) - np.maximum(notes[:, 0], start)
  assert np.isclose(cut[:, 1].sum(), sounding[sounding > 1e-6].sum())


def test_waveform_is_level_and_clean(examples):
  levels = {level for _, level in synthesis.DYNAMICS.values()}
  for example in examples:
    waveform = example["waveform"]
    assert waveform.dtype == np.int16 and waveform.shape == (6 * 24_000,)
    real = audio.from_int16(waveform)
    assert abs(real.mean()) < 1e-4
    assert np.abs(real).max() <= synthesis.PEAK + 1e-4
    assert min(abs(real.std() - level) for level in levels) < 1e-3


def one_note(program, pitch, soundfont):
  """A clip of one note of two seconds, as loud as any."""
  instrument = next(each for each in instruments.instruments() if each.program == program)
  notes = np.array([[0.0, 2.0, pitch]])
  rendition = arrangement.Rendition(
    work=dataclasses.replace(WORK, metre="4/4"),
    passage=passages.Passage("0", 0.0, "beginning"),
    start=0.0,
    bpm=60.0,
    tempo_word="slow",
    key="C major",
    arrangement="solo",
    dynamics="loud",
    articulation="legato",
    voices=(arrangement.Voice(instrument, notes, 1.0),),
    melody=notes,
  )
  return audio.from_int16(synthesis.render(rendition, soundfont, 2.0))


@pytest.mark.parametrize("program", [0, 24, 40, 52, 56, 64, 73, 80])
def test_instruments_are_in_tune(program, soundfont):
  """The fundamental or a low harmonic of middle and high notes is within 30 cents of its place."""
  instrument = next(each for each in instruments.instruments() if each.program == program)
  for pitch in (60, 67, min(instrument.high - 2, 79)):
    waveform = one_note(program, pitch, soundfont)[2400:21600]
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 1 << 19))
    peak = np.argmax(spectrum) * 24_000 / (1 << 19)
    ratio = peak / librosa.midi_to_hz(pitch)
    assert round(ratio) in range(1, 9), (instrument.name, pitch, peak)
    assert abs(1200 * np.log2(ratio / round(ratio))) < 30, (instrument.name, pitch, peak)


def test_peaks_are_limited_by_softening_not_clipping(soundfont):
  """A xylophone's short stroke cannot reach the level of a loud clip, and only its peak is at the
  limit."""
  waveform = one_note(13, 70, soundfont)
  assert np.isclose(np.abs(waveform).max(), synthesis.PEAK, atol=1e-3)
  assert (np.abs(waveform) > 0.999 * synthesis.PEAK).sum() <= 2


@pytest.mark.parametrize("program, pitch", [(56, 57), (65, 76)])
def test_memory_after_a_sample_is_not_heard(program, pitch, soundfont):
  """These loops end with their sample; the memory after it is made to differ."""
  heard = set()
  for value in (100.0, -50.0, 1e4):
    memory = [np.full(size, value, np.float32) for size in range(100, 60_000, 200)]
    del memory
    heard.add(one_note(program, pitch, soundfont).tobytes())
  assert len(heard) == 1


def test_onsets_are_heard_at_the_stated_times(examples):
  """Of all shifts of the stated onsets by up to 120 ms, the one that fits the audio best is between
  0 and 80 ms (a soft attack) and fits better than any that is too early.
  """
  for example in examples:
    strength = librosa.onset.onset_strength(
      y=audio.from_int16(example["waveform"]), sr=24_000, hop_length=240
    )
    frames = np.round(example["onsets"][1:, 0] * 100).astype(int)
    frames = frames[frames < 580]
    fit = {shift: strength[frames + shift].mean() for shift in range(-12, 13)}
    assert 0 <= max(fit, key=fit.get) <= 8
    assert max(fit.values()) > 1.3 * max(fit[shift] for shift in range(-12, -2))


def test_the_passage_starts_at_the_stated_time(examples):
  music = passages.repeated(scores.read_music(WORK), 6.0, 1.0)
  for example in examples:
    start = example["start_s"] * example["bpm"] / 60
    heard = passages.between(music.parts[0], start, start + 6.0 * example["bpm"] / 60)
    np.testing.assert_allclose(
      heard[:, 0] * 60 / example["bpm"], example["onsets"][:, 0], atol=1e-4
    )
    assert len(set(np.round(heard[:, 2] - example["onsets"][:, 1]))) == 1


def test_generator_depends_on_its_parts_alone():
  one, two = (draws.generator(0, "a", "b").integers(0, 1 << 30, 4) for _ in range(2))
  np.testing.assert_array_equal(one, two)
  assert draws.generator(0, "ab").random() != draws.generator(0, "a", "b").random()
