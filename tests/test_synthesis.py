"""The waveform of a clip: levels, tuning, onsets, rooms."""

import librosa
import numpy as np
import pytest

from musiclm_jax import audio
from musiclm_jax.datasets import catalogue, corpus_clips, instruments, soundfonts, synthesis
from musiclm_jax.datasets.performance import Part

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
      scores="",
      clip_seconds=6.0,
      passages=1,
      renditions=3,
      held_out=False,
    )
  )


def test_waveform_is_level_and_clean(examples):
  levels = synthesis.LEVELS.values()
  for example in examples:
    waveform = example["waveform"]
    assert waveform.dtype == np.int16 and waveform.shape == (6 * 24_000,)
    real = audio.from_int16(waveform)
    assert abs(real.mean()) < 1e-4
    assert np.abs(real).max() <= synthesis.PEAK + 1e-4
    assert min(abs(real.std() - level) for level in levels) < 1e-3


class Dry:
  """A generator that draws no room."""

  @staticmethod
  def random():
    return 0.0


def one_note(program, pitch, soundfont, seconds=2.0):
  """A clip of two seconds with one note, as loud as any, without reverberation."""
  instrument = next(each for each in instruments.instruments() if each.program == program)
  part = Part(instrument, np.array([[0.0, seconds, pitch, 0.0]]), 0.0)
  return audio.from_int16(synthesis.render((part,), "loud", soundfont, 2.0, Dry()))


@pytest.mark.parametrize("program", [each.program for each in instruments.with_role("lead")])
def test_instruments_are_in_tune(program, soundfont):
  """The fundamental or a low harmonic of middle and high notes is within 25 cents of its place.

  The drawbar organ's 16-foot stop sounds an octave below the note.
  """
  instrument = next(each for each in instruments.instruments() if each.program == program)
  for pitch in (60, 67, min(instrument.high - 2, 79)):
    waveform = one_note(program, pitch, soundfont)[2400:21600]
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 1 << 19))
    peak = np.argmax(spectrum) * 24_000 / (1 << 19)
    ratio = peak / librosa.midi_to_hz(pitch) * (2 if instrument.name == "drawbar organ" else 1)
    assert round(ratio) in range(1, 9), (instrument.name, pitch, peak)
    assert abs(1200 * np.log2(ratio / round(ratio))) < 25, (instrument.name, pitch, peak)


def test_peaks_are_limited_by_softening_not_clipping(soundfont):
  """A banjo's short stroke cannot reach the level of a loud clip, and only its peak is at the
  limit."""
  waveform = one_note(105, 70, soundfont, seconds=0.02)
  assert np.isclose(np.abs(waveform).max(), synthesis.PEAK, atol=1e-3)
  assert (np.abs(waveform) > 0.999 * synthesis.PEAK).sum() <= 2


@pytest.mark.parametrize("program, pitch", [(56, 57), (64, 76)])
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


def test_parts_keep_their_balance(soundfont):
  """Whatever the instrument, a part is as loud as `loudness` states, here 10 dB below another."""
  for name in ("piano", "square-wave synthesizer"):
    instrument = next(each for each in instruments.instruments() if each.name == name)
    notes = np.array([[i * 0.5, 0.45, 67.0, 0.0] for i in range(8)])
    sound = synthesis.stem(Part(instrument, notes, -10.0), soundfont, 6 * 24_000)
    assert np.isclose(synthesis.sounding_level(sound), 1.0, rtol=1e-3)


def test_notes_have_their_levels(soundfont):
  """The second of two notes is 6 dB softer; symusic's own velocities have no effect."""
  flute = next(each for each in instruments.instruments() if each.name == "flute")
  notes = np.array([[-2.0, 0.9, 72.0, 0.0], [-1.0, 0.9, 72.0, -6.0]])
  sound = synthesis.stem(Part(flute, notes, 0.0), soundfont, 2 * 24_000)
  first, second = (sound[start : start + 12_000].std() for start in (6_000, 30_000))
  assert np.isclose(20 * np.log10(second / first), -6.0, atol=0.5)


def test_level_curve_is_reached_within_the_ramp():
  curve = synthesis.level_curve(np.array([0.5, 0.5, 1.0]), np.array([-6.0, -6.0, 0.0]), 48_000)
  ramp = round(synthesis.RAMP_SECONDS * 24_000)
  assert np.allclose(curve[:24_000], 10 ** (-6 / 20)) and np.allclose(curve[24_000 + ramp :], 1.0)
  assert np.all(np.diff(curve) >= 0) and len(curve) == 48_000


def test_rooms_decay_and_are_softer_than_the_sound():
  """A click answered by rooms: the answer ends within 1.3 s and is 12 to 20 dB below the click."""
  click = np.zeros(48_000, np.float32)
  click[0] = 1.0
  answers = [synthesis.reverberate(click, np.random.default_rng(seed)) for seed in range(20)]
  dry = [np.array_equal(answer, click) for answer in answers]
  assert 1 <= sum(dry) <= 12
  for answer in (answer for answer, is_dry in zip(answers, dry) if not is_dry):
    assert np.isclose(answer[0], 1.0, atol=1e-5)
    level = 10 * np.log10(np.sum(answer[1:].astype(float) ** 2))
    assert -20.1 < level < -11.9
    assert np.abs(answer[round(1.3 * 24_000) :]).max() < 1e-5
  again = synthesis.reverberate(click, np.random.default_rng(3))
  np.testing.assert_array_equal(again, answers[3])
