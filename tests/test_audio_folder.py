"""A folder of audio: what is found in it, captions that are refused with their line, clips."""

import collections

import numpy as np
import pytest
import soundfile

from musiclm_jax.datasets import audio_folder

RATE = 24000


def tone(seconds, *, rate=RATE, hertz=440.0, peak=0.5):
  time = np.arange(round(seconds * rate)) / rate
  return (peak * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def job(path, **changes):
  fields = dict(folder=str(path.parent), path=path.name, caption="", aspects=())
  fields |= dict(clip_samples=12000, sample_rate=RATE, convert=False)
  return audio_folder.Job(**(fields | changes))


def test_audio_files_are_found_in_all_folders_and_others_counted(tmp_path):
  for name in ("b.wav", "a/z.FLAC", "a/b/c.mp3", "B.ogg", "cover.jpg", "a/x.m4a", "y.m4a", "notes"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x" * len(name))
  (tmp_path / "link").symlink_to(tmp_path / "a")
  found, others = audio_folder.list_files(str(tmp_path))
  assert list(found.items()) == [("B.ogg", 5), ("a/b/c.mp3", 9), ("a/z.FLAC", 8), ("b.wav", 5)]
  wanted = {".m4a": 2, ".jpg": 1, "without ending": 1, "link to a folder": 1}
  assert others == collections.Counter(wanted)
  assert audio_folder.listed(others).startswith("2 .m4a, 1 ")


def test_a_folder_without_audio_is_refused_and_what_it_holds_said(tmp_path):
  with pytest.raises(ValueError, match="wanted audio files .* it is empty"):
    audio_folder.list_files(str(tmp_path))
  (tmp_path / "a.m4a").touch()
  with pytest.raises(ValueError, match="found 1 .m4a"):
    audio_folder.list_files(str(tmp_path))
  with pytest.raises(FileNotFoundError, match="nowhere"):
    audio_folder.list_files(str(tmp_path / "nowhere"))
  (tmp_path / "b.wav").symlink_to("gone.wav")
  with pytest.raises(FileNotFoundError, match="b.wav"):
    audio_folder.list_files(str(tmp_path))


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
  (tmp_path / "caf\udce9.wav").touch()
  with pytest.raises(ValueError, match="its name is not UTF-8; rename it"):
    audio_folder.list_files(str(tmp_path))


HEAD = "file,caption,aspect_list\n"
WHOLE = HEAD + "a.wav,\"slow, calm\",\"['slow', 'flute']\"\nb.wav,fast,\n"


@pytest.mark.parametrize("text", [WHOLE, "\ufeff" + WHOLE, WHOLE.replace("\n", "\r\n")])
def test_captions_are_those_of_the_csv(tmp_path, text):
  path = tmp_path / "captions.csv"
  path.write_bytes(text.encode())
  found = audio_folder.read_captions(str(path), {"a.wav": 1, "b.wav": 1})
  assert found == {"a.wav": ("slow, calm", ("slow", "flute")), "b.wav": ("fast", ())}


def test_the_aspect_list_may_be_missing(tmp_path):
  path = tmp_path / "captions.csv"
  path.write_text("caption,file,more\nslow,a.wav,x\n")
  assert audio_folder.read_captions(str(path), {"a.wav": 1}) == {"a.wav": ("slow", ())}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "captions.csv:1: wanted a column caption and file, found none"),
    ("file,text\na.wav,x\n", "captions.csv:1: wanted a column caption, found none"),
    (WHOLE + "c.wav,x,\n", "captions.csv:4: no audio file 'c.wav' in the folder"),
    (WHOLE + "a.wav,x,\n", "captions.csv:4: a second row of a.wav, the first is in line 2"),
    (HEAD + "a.wav,,\n", "captions.csv:2: the caption of a.wav is empty"),
    (HEAD + "a.wav,  ,\n", "captions.csv:2: the caption of a.wav is empty"),
    (HEAD + "a.wav\n", "captions.csv:2: the caption of a.wav is empty"),
    (HEAD + "a.wav,slow, calm,x\n", "captions.csv:2: more values than columns; a comma"),
    (HEAD + "a.wav,slow,flute\n", "captions.csv:2: aspect_list wants ['slow', 'flute'], got"),
    (HEAD + 'a.wav,slow,"[1, 2]"\n', "captions.csv:2: aspect_list wants"),
    (HEAD + "a.wav,slow,'flute'\n", "captions.csv:2: aspect_list wants"),
    (HEAD + 'a.wav,"slow\nb.wav,x,\n', "captions.csv:2: not CSV"),
    (HEAD + "a.wav,caf\udce9,\n", "captions.csv:2: not a text in UTF-8"),
    (HEAD + "a.wav,x,\n", "captions.csv: no row of the file b.wav"),
    (HEAD, "captions.csv: no row of the file a.wav and 1 more"),
  ],
)
def test_a_bad_row_is_one_line_with_its_place(tmp_path, text, message):
  path = tmp_path / "captions.csv"
  path.write_bytes(text.encode(errors="surrogateescape"))
  with pytest.raises(ValueError) as caught:
    audio_folder.read_captions(str(path), {"a.wav": 1, "b.wav": 1})
  assert str(caught.value).startswith(f"{tmp_path}/{message}")
  assert "\n" not in str(caught.value)


def test_splits_depend_on_the_path_alone_and_have_their_shares():
  paths = [f"album {i % 7}/song {i}.wav" for i in range(5000)]
  found = collections.Counter(audio_folder.split_of(path, (0.8, 0.1, 0.1)) for path in paths)
  assert abs(found["train"] - 4000) < 100 and abs(found["test"] - 500) < 80
  assert set(found) == set(audio_folder.SPLITS)
  assert {audio_folder.split_of(path, (1.0, 0.0, 0.0)) for path in paths} == {"train"}
  assert {audio_folder.split_of(path, (0.5, 0.0, 0.5)) for path in paths} == {"train", "test"}
  # the same on every machine and in every version
  found = [audio_folder.split_of(f"{i}.wav", (0.4, 0.3, 0.3)) for i in range(6)]
  assert found == ["train", "train", "test", "train", "test", "train"]


def test_clips_are_cut_without_overlap_and_16_bits_kept(tmp_path, rng):
  samples = rng.integers(-32768, 32768, 30000).astype(np.int16)
  soundfile.write(tmp_path / "a.wav", samples, RATE)
  given, clips, left = audio_folder.cut(job(tmp_path / "a.wav"))
  assert given.path == "a.wav" and left == 6000
  assert [clip.dtype for clip in clips] == [np.int16, np.int16]
  np.testing.assert_array_equal(np.concatenate(clips), samples[:24000])
  assert audio_folder.look(job(tmp_path / "a.wav")) == (2, False)


def test_a_file_shorter_than_a_clip_gives_none(tmp_path):
  soundfile.write(tmp_path / "a.wav", tone(0.3), RATE)
  assert audio_folder.cut(job(tmp_path / "a.wav"))[1:] == ([], 7200)
  assert audio_folder.look(job(tmp_path / "a.wav")) == (0, False)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_conversion_keeps_pitch_and_length(tmp_path, ending):
  path = tmp_path / f"a.{ending}"
  waveform = tone(2.2, rate=44100)
  soundfile.write(path, np.stack([waveform, 0.5 * waveform], 1), 44100)
  assert audio_folder.look(job(path, convert=True)) == (4, True)
  _, clips, left = audio_folder.cut(job(path, convert=True))
  assert len(clips) == 4 and left == 4800
  sound = np.concatenate(clips) / 32768
  peak = np.argmax(np.abs(np.fft.rfft(sound)))
  assert peak * RATE / len(sound) == pytest.approx(440, abs=0.5)
  assert np.abs(sound[2400:-2400]).max() == pytest.approx(0.375, rel=0.1)  # the mean of channels


def test_peaks_above_full_scale_make_the_whole_softer(tmp_path):
  waveform = tone(1.0, peak=2.0)
  soundfile.write(tmp_path / "a.wav", waveform, RATE, "FLOAT")
  sound = np.concatenate(audio_folder.cut(job(tmp_path / "a.wav"))[1]) / 32768
  np.testing.assert_allclose(sound, waveform / np.abs(waveform).max(), atol=1 / 32768)


def test_channels_that_cancel_out_are_silence(tmp_path):
  soundfile.write(tmp_path / "a.wav", np.stack([tone(1.0), -tone(1.0)], 1), RATE)
  with pytest.raises(ValueError, match="a.wav: wanted audio, found silence"):
    audio_folder.cut(job(tmp_path / "a.wav", convert=True))
