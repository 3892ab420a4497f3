"""A folder of audio: what is found in it, and the clips of its files."""

import collections
import unicodedata

import numpy as np
import pytest
import soundfile

from musiclm_jax import audio
from musiclm_jax.datasets import audio_folder

RATE = 24000


def tone(seconds, *, rate=RATE, hertz=440.0, peak=0.5):
  time = np.arange(round(seconds * rate)) / rate
  return (peak * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def job(path, **changes):
  fields = dict(folder=str(path.parent), name=path.name, path=path.name)
  fields |= dict(entry=audio_folder.Entry(), clip_samples=12000, sample_rate=RATE, convert=False)
  return audio_folder.Job(**(fields | changes))


def test_audio_files_are_found_in_all_folders_and_others_counted(tmp_path):
  for name in ("b.wav", "a/z.FLAC", "a/b/c.mp3", "B.ogg", "cover.jpg", "a/x.m4a", "y.m4a", "notes"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  (tmp_path / "link").symlink_to(tmp_path / "a")
  listing = audio_folder.list_files(str(tmp_path))
  assert list(listing.files) == list(listing.files.values())
  assert list(listing.files) == ["B.ogg", "a/b/c.mp3", "a/z.FLAC", "b.wav"]
  wanted = {".m4a": 2, ".jpg": 1, "without ending": 1, "link to a folder": 1}
  assert listing.others == collections.Counter(wanted) and not listing.rejects
  assert audio_folder.counted(listing.others).startswith("2 .m4a, 1 ")


def test_a_folder_without_audio_is_refused_with_what_it_holds(tmp_path):
  with pytest.raises(ValueError, match="wanted audio files .* it is empty"):
    audio_folder.list_files(str(tmp_path))
  (tmp_path / "a.m4a").touch()
  with pytest.raises(ValueError, match="found 1 .m4a"):
    audio_folder.list_files(str(tmp_path))
  with pytest.raises(FileNotFoundError, match="nowhere"):
    audio_folder.list_files(str(tmp_path / "nowhere"))
  with pytest.raises(NotADirectoryError, match="a.m4a"):
    audio_folder.list_files(str(tmp_path / "a.m4a"))


def test_companions_of_macos_are_counted_and_audio_of_such_a_name_is_not(tmp_path):
  for name in ("a.wav", "._b.wav"):
    (tmp_path / name).write_bytes(b"RIFF")
  (tmp_path / "._a.wav").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
  (tmp_path / ".DS_Store").touch()
  listing = audio_folder.list_files(str(tmp_path))
  assert list(listing.files) == ["._b.wav", "a.wav"]
  assert listing.others == {"companion file of macOS": 2}


def test_names_and_links_that_cannot_be_used_are_rejects(tmp_path):
  (tmp_path / "caf\udce9.wav").touch()
  (tmp_path / "b.wav").symlink_to("gone.wav")
  (tmp_path / "folder.wav").mkdir()
  for form in ("NFC", "NFD"):
    (tmp_path / unicodedata.normalize(form, "é.wav")).touch()
  listing = audio_folder.list_files(str(tmp_path))
  assert list(listing.files) == ["é.wav"]
  reasons = {each.file: each.reason for each in listing.rejects}
  assert reasons.pop("é.wav").endswith("in composed Unicode")
  assert reasons == {
    "b.wav": "a link to no file",
    "caf\\xe9.wav": "its name is not UTF-8; rename it",
  }


def test_a_name_is_composed_and_its_path_is_as_stored(tmp_path):
  stored = unicodedata.normalize("NFD", "Café 1.wav")
  (tmp_path / stored).touch()
  files = audio_folder.list_files(str(tmp_path)).files
  assert files == {unicodedata.normalize("NFC", "Café 1.wav"): stored}


def clips_of(cut):
  assert not cut.reason
  return np.concatenate(list(cut.clips.values()))


def test_clips_are_cut_without_overlap_and_16_bits_kept(tmp_path, rng):
  samples = rng.integers(-32768, 32768, 30000).astype(np.int16)
  soundfile.write(tmp_path / "a.wav", samples, RATE)
  cut = audio_folder.cut(job(tmp_path / "a.wav"))
  assert str(cut.job) == "a.wav" and list(cut.clips) == [0, 1]
  assert (cut.rest, cut.silent, cut.converted) == (6000, 0, False)
  assert clips_of(cut).dtype == np.int16
  np.testing.assert_array_equal(clips_of(cut), samples[:24000])


def test_silent_clips_are_left_out_and_counted(tmp_path):
  waveform = np.concatenate([np.zeros(12000), tone(0.5), 5e-5 * tone(1.0), tone(0.5)])
  soundfile.write(tmp_path / "a.wav", waveform, RATE)
  cut = audio_folder.cut(job(tmp_path / "a.wav"))
  assert list(cut.clips) == [1, 4] and cut.silent == 3 and cut.rest == 0


def test_a_file_shorter_than_a_clip_gives_none(tmp_path):
  soundfile.write(tmp_path / "a.wav", tone(0.3), RATE)
  cut = audio_folder.cut(job(tmp_path / "a.wav"))
  assert (cut.clips, cut.rest, cut.reason) == ({}, 7200, "")


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_conversion_keeps_pitch_and_length(tmp_path, ending):
  path = tmp_path / f"a.{ending}"
  waveform = tone(2.2, rate=44100)
  soundfile.write(path, np.stack([waveform, 0.5 * waveform], 1), 44100)
  cut = audio_folder.cut(job(path, convert=True))
  assert len(cut.clips) == 4 and cut.rest == 4800 and cut.converted
  sound = audio.from_int16(clips_of(cut))
  peak = np.argmax(np.abs(np.fft.rfft(sound)))
  assert peak * RATE / len(sound) == pytest.approx(440, abs=0.5)
  assert np.abs(sound[2400:-2400]).max() == pytest.approx(0.375, rel=0.1)  # the mean of channels


def test_peaks_above_full_scale_make_the_whole_softer(tmp_path):
  waveform = tone(1.0, peak=2.0)
  soundfile.write(tmp_path / "a.wav", waveform, RATE, "FLOAT")
  sound = audio.from_int16(clips_of(audio_folder.cut(job(tmp_path / "a.wav"))))
  np.testing.assert_allclose(sound, waveform / np.abs(waveform).max(), atol=1 / 32768)


def test_channels_that_cancel_out_are_silence(tmp_path):
  soundfile.write(tmp_path / "a.wav", np.stack([tone(1.0), -tone(1.0)], 1), RATE)
  cut = audio_folder.cut(job(tmp_path / "a.wav", convert=True))
  assert cut.reason == "wanted audio, found silence (no sample above -80 dB)" and not cut.clips


def test_another_rate_is_a_reason_that_names_the_flag(tmp_path):
  soundfile.write(tmp_path / "a.wav", tone(1.0, rate=44100), 44100)
  reason = audio_folder.cut(job(tmp_path / "a.wav")).reason
  assert reason.startswith("wanted 24000 Hz mono, found 44100 Hz and 1 channels; --convert=True")
