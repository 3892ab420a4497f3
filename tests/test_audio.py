"""Waveforms: files that are read, written and refused."""

import pathlib

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


def write(waveform, rate=24000, subtype=None):
  return lambda path: soundfile.write(path, waveform, rate, subtype)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda path: None, "no such file"),
    (lambda path: path.touch(), "the file is empty (0 bytes)"),
    (lambda path: path.write_text("<!DOCTYPE html>"), "not an audio file that libsndfile can read"),
    (write(np.zeros(0, np.float32)), "wanted audio, found 0 samples"),
    (write(np.zeros(2400, np.float32)), "wanted audio, found silence"),
    (write(np.where(np.arange(24000) == 7, np.nan, TONE), subtype="FLOAT"), "sample 7 is not"),
    (write(np.where(np.arange(24000) == 7, np.inf, TONE), subtype="FLOAT"), "sample 7 is not"),
    (write(np.where(np.arange(24000) == 7, 1e9, TONE), subtype="FLOAT"), "sample 7 is 1e+09, "),
  ],
)
def test_a_bad_file_is_one_line_with_its_name(tmp_path, make, message):
  path = tmp_path / "bad.wav"
  make(path)
  with pytest.raises(ValueError) as caught:
    audio.read(str(path), 24000)
  assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_a_page_named_mp3_is_not_a_missing_file(tmp_path):
  path = tmp_path / "page.mp3"
  path.write_text("<!DOCTYPE html><html><body>404 not found</body></html>" * 40)
  with pytest.raises(ValueError, match="not an audio file .* begins with b'<!DOCTYPE"):
    audio.header(str(path))


WHOLE = ("wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "w64", "rf64")


@pytest.mark.parametrize("ending", WHOLE)
def test_a_file_that_lost_its_end_is_refused_with_its_lengths(tmp_path, ending):
  path, whole = tmp_path / f"cut.{ending}", np.tile(TONE, 4)
  options = {"opus": dict(format="OGG", subtype="OPUS"), "rf64": dict(format="RF64")}
  soundfile.write(path, whole, 24000, **options.get(ending, {}))
  assert abs(len(audio.read(str(path), 24000)) - len(whole)) < 100
  content = path.read_bytes()
  path.write_bytes(content[: len(content) * 3 // 4])
  lengths = "its header states 4.0 s, only [0-3].. s can be decoded"
  if ending in ("ogg", "opus"):
    lengths = "the Ogg stream has no end, only its first [0-3].. s are here"
  with pytest.raises(ValueError, match=f"cut.{ending}: {lengths}"):
    audio.read(str(path), 24000)


def test_an_unknown_length_is_read_to_the_end_or_refused(tmp_path):
  """Programs that stream WAV write the largest size; encoders that stream FLAC write 0 samples."""
  soundfile.write(tmp_path / "a.wav", TONE, 24000)
  for size in (2**32 - 1, 2**31 - 4096):
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = content[40:44] = size.to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(content)
    assert len(audio.read(str(tmp_path / "b.wav"), 24000)) == 24000
  soundfile.write(tmp_path / "a.flac", TONE, 24000)
  content = bytearray((tmp_path / "a.flac").read_bytes())
  content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])  # 36 bits: the number of samples
  (tmp_path / "a.flac").write_bytes(content)
  with pytest.raises(ValueError, match="a.flac: the header states no length"):
    audio.read(str(tmp_path / "a.flac"), 24000)


def test_channels_are_averaged_and_resampled(tmp_path):
  path = str(tmp_path / "tone.flac")
  soundfile.write(path, np.stack([TONE, np.zeros_like(TONE)], 1), 24000)
  assert audio.header(path) == (24000, 2)
  found = audio.read(path, 12000)
  wanted = 0.15 * np.sin(2 * np.pi * 440 * np.arange(12000) / 12000)
  np.testing.assert_allclose(found[200:-200], wanted[200:-200], atol=1e-3)


def test_int16_samples_survive_floats():
  samples = np.arange(-32768, 32768).astype(np.int16)
  np.testing.assert_array_equal(audio.to_int16(audio.from_int16(samples)), samples)
  assert audio.from_int16(samples).dtype == np.float32 and audio.from_int16(samples)[0] == -1
  np.testing.assert_array_equal(audio.to_int16(np.array([1.0, -1.5])), [32767, -32768])
  assert audio.to_int16(np.array(audio.INT16_PEAK)) == 32767


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


def test_resampling_keeps_pitch_and_length():
  low = audio.resample(TONE, 24000, 16000)
  assert len(low) == 16000
  spectrum = np.abs(np.fft.rfft(low))
  assert spectrum.argmax() == 440
