"""Waveforms: files that are refused, transforms against librosa."""

import pathlib

import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile

from musiclm_jax import audio

TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)).astype(np.float32)


def test_round_trip(tmp_path):
  path = str(tmp_path / "deep" / "tone.wav")
  audio.write(path, TONE, 24000)
  np.testing.assert_allclose(audio.read(path, 24000), TONE, atol=1 / 32768)
  assert not list(tmp_path.glob("**/*.partial"))


def write_text(path):
  path.write_text("not audio at all")


def write(waveform, rate=24000, subtype=None):
  return lambda path: soundfile.write(path, waveform, rate, subtype)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda path: None, "no such file"),
    (write_text, "not an audio file"),
    (write(TONE, 44100), "wanted 24000 Hz, found 44100 Hz"),
    (write(np.stack([TONE, TONE], 1)), "wanted mono, found 2 channels"),
    (write(np.zeros(0, np.float32)), "found 0 samples"),
    (write(np.zeros(2400, np.float32)), "found silence"),
    (write(np.where(np.arange(24000) == 7, np.nan, TONE), subtype="FLOAT"), "sample 7 is not"),
  ],
)
def test_a_bad_file_is_one_line_with_its_name(tmp_path, make, message):
  path = tmp_path / "bad.wav"
  make(path)
  with pytest.raises(ValueError, match=message) as caught:
    audio.read(str(path), 24000)
  assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_conversion_changes_nothing_where_there_is_nothing_to_convert(tmp_path):
  path = str(tmp_path / "tone.wav")
  audio.write(path, TONE, 24000)
  assert audio.header(path) == (24000, 24000, 1)
  np.testing.assert_array_equal(audio.convert(path, 24000), audio.read(path, 24000))


def test_conversion_averages_channels_and_resamples(tmp_path):
  path = str(tmp_path / "tone.flac")
  soundfile.write(path, np.stack([TONE, np.zeros_like(TONE)], 1), 24000)
  assert audio.header(path) == (24000, 24000, 2)
  found = audio.convert(path, 12000)
  wanted = 0.15 * np.sin(2 * np.pi * 440 * np.arange(12000) / 12000)
  np.testing.assert_allclose(found[200:-200], wanted[200:-200], atol=1e-3)


def test_writing_refuses_nan_and_leaves_nothing(tmp_path):
  with pytest.raises(ValueError, match="not finite"):
    audio.write(str(tmp_path / "x.wav"), np.array([np.nan]), 24000)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.OGG"])
def test_the_ending_of_a_file_is_its_format(tmp_path, name):
  audio.write(str(tmp_path / name), TONE, 24000)
  assert soundfile.info(tmp_path / name).format == name[2:].upper()
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_cannot_take_its_place_leaves_nothing(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(pathlib.Path, "replace", full)
  with pytest.raises(OSError, match="No space"):
    audio.write(str(tmp_path / "x.wav"), TONE, 24000)
  assert not list(tmp_path.iterdir())


def test_writing_scales_peaks_down_instead_of_clipping(tmp_path):
  path = str(tmp_path / "loud.wav")
  audio.write(path, 10 * TONE, 24000)
  loud = audio.read(path, 24000)
  np.testing.assert_allclose(loud / np.abs(loud).max(), TONE / np.abs(TONE).max(), atol=1e-3)


@pytest.mark.parametrize("window, hop", [(1024, 256), (600, 240)])
def test_stft_and_log_mel_match_librosa(window, hop):
  noise = np.random.default_rng(0).standard_normal(12000).astype(np.float32) * 0.1
  wanted = librosa.stft(noise, n_fft=window, hop_length=hop, center=False)
  np.testing.assert_allclose(
    audio.stft(jnp.array(noise), window=window, hop=hop), wanted.T, atol=2e-5
  )
  wanted = librosa.feature.melspectrogram(
    y=noise, sr=24000, n_fft=window, hop_length=hop, center=False, power=1.0, n_mels=64
  )
  found = audio.log_mel(jnp.array(noise), sample_rate=24000, window=window, hop=hop, num_mels=64)
  np.testing.assert_allclose(found, np.log(np.maximum(wanted.T, 1e-5)), atol=1e-3)


@pytest.mark.parametrize("window, hop", [(8, 4), (7, 3), (20, 6), (5, 5), (3, 9), (4, 1)])
def test_frames_are_strided_views(window, hop):
  x = np.arange(40.0).reshape(2, 20)
  found = audio.frame(jnp.array(x), window, hop)
  starts = range(0, 20 - window + 1, hop)
  np.testing.assert_array_equal(found, np.stack([x[:, i : i + window] for i in starts], axis=1))


def test_resampling_keeps_pitch_and_length():
  low = audio.resample(TONE, 24000, 16000)
  assert len(low) == 16000
  spectrum = np.abs(np.fft.rfft(low))
  assert spectrum.argmax() == 440


@pytest.mark.parametrize("size", [64, 600, 601])
def test_the_fourier_transform_of_tpus_is_that_of_others(rng, size):
  frames = rng.standard_normal((2, 3, size)).astype(np.float32)
  wanted = np.fft.rfft(frames.astype(np.float64))
  found = audio.fourier_product(frames)
  assert found.dtype == np.complex64
  np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
