"""`musiclm prepare data/folder`: what it makes, what it reports, and what it refuses."""

import dataclasses
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from musiclm_jax import main
from musiclm_jax.datasets import audio_folder, caption_table, folder_builder

RATE = 24000
SETTINGS = dict(clip_seconds=0.5, shares="(0.5, 0.25, 0.25)", workers=1)


def tone(seconds, *, rate=RATE, hertz=440.0):
  time = np.arange(round(seconds * rate)) / rate
  return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def write_songs(path, count=8):
  """Songs of two clips and 0.1 s, in two folders; among them every split has some."""
  for i in range(count):
    file = pathlib.Path(path, f"album {i % 2}", f"song {i}.wav")
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, tone(1.1, hertz=200 + 50 * i), RATE)
  return path


def prepare(capsys, tmp_path, **flags):
  """Exit code, stdout and the lines of stderr of a command over tmp_path/songs."""
  flags = SETTINGS | dict(audio_dir=tmp_path / "songs", data_dir=tmp_path / "out") | flags
  words = [f"--{name}={value}" for name, value in flags.items()]
  code = main.main(["prepare", "data/folder", *words])
  out, err = capsys.readouterr()
  return code, out, err.splitlines()


def refused(capsys, tmp_path, *, count=1, code=1, **flags):
  """The lines on stderr, `count` in all, of a command that must fail and leave no data set."""
  found, out, lines = prepare(capsys, tmp_path, **flags)
  assert found == code and out == "" and len(lines) == count
  assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
  return "\n".join(lines).removeprefix("musiclm: ")


def read(tmp_path):
  """Records of each split, read without the package."""
  builder = tfds.builder_from_directory(tmp_path / "out/folder/1.0.0")
  return {split: list(builder.as_data_source(split)) for split in builder.info.splits}


def captions(path, files):
  rows = [f"{file},a song in {file[:5]},\"['slow', 'flute']\"\n" for file in files]
  pathlib.Path(path).write_text("file,caption,aspect_list\n" + "".join(rows))
  return path


def test_every_file_becomes_clips_in_one_split(tmp_path, capsys):
  write_songs(tmp_path / "songs")
  soundfile.write(tmp_path / "songs/short.wav", tone(0.2), RATE)
  (tmp_path / "songs/cover.jpg").touch()
  code, out, lines = prepare(capsys, tmp_path)
  assert code == 0
  assert out.startswith(f"{tmp_path}/out/folder/1.0.0: 16 clips, 0.00 h, clips: train ")
  assert lines == [
    "prepare: 9 files; left out: 1 shorter than 0.5 s (0.2 s), 0.8 s at the ends of 8 others, "
    "files of other kinds: 1 .jpg"
  ]
  splits = read(tmp_path)
  works = {split: {row["work"].decode() for row in rows} for split, rows in splits.items()}
  assert set(works) == {"train", "validation", "test"}
  assert sum(map(len, works.values())) == len(set().union(*works.values())) == 8
  for row in itertools.chain(*splits.values()):
    file, number = row["id"].decode().split("#")
    samples, _ = soundfile.read(tmp_path / "songs" / file, dtype="int16")
    np.testing.assert_array_equal(
      row["waveform"], samples.reshape(-1)[:24000].reshape(2, -1)[int(number)]
    )
    assert row["work"].decode() == file and row["waveform"].dtype == np.int16
    assert (row["caption"], row["melody"], list(row["aspect_list"])) == (b"", b"", [])
  assert not (tmp_path / "out/folder/1.0.0/captions.model").exists()


def test_captions_come_with_every_clip_and_with_a_text_model(tmp_path, capsys):
  write_songs(tmp_path / "songs")
  files = [f"album {i % 2}/song {i}.wav" for i in range(8)]
  code, _, _ = prepare(capsys, tmp_path, captions=captions(tmp_path / "x.csv", files))
  assert code == 0
  for row in itertools.chain(*read(tmp_path).values()):
    assert row["caption"].decode() == f"a song in {row['work'].decode()[:5]}"
    assert list(row["aspect_list"]) == [b"slow", b"flute"]
  assert (tmp_path / "out/folder/1.0.0/captions.model").exists()


def cut_in_half(path):
  soundfile.write(path, tone(1), RATE)
  path.write_bytes(path.read_bytes()[:24000])


BAD = {
  "another rate": lambda path: soundfile.write(path, tone(1, rate=44100), 44100),
  "stereo": lambda path: soundfile.write(path, np.stack([tone(1)] * 2, 1), RATE),
  "silence": lambda path: soundfile.write(path, np.zeros(24000), RATE),
  "no samples": lambda path: soundfile.write(path, np.zeros(0), RATE),
  "not numbers": lambda path: soundfile.write(path, tone(1) * np.nan, RATE, "FLOAT"),
  "text": lambda path: path.write_text("not audio at all"),
  "empty": lambda path: path.touch(),
  "no end": lambda path: cut_in_half(path),
}
CONVERTIBLE = ("another rate", "stereo")


def write_bad_songs(tmp_path):
  write_songs(tmp_path / "songs")
  for bad, make in BAD.items():
    make(tmp_path / "songs" / f"bad {bad}.wav")
  (tmp_path / "songs/bad link.wav").symlink_to("gone.wav")


@pytest.mark.parametrize("workers", [1, 2])
def test_all_bad_files_are_named_at_once(tmp_path, capsys, workers):
  write_bad_songs(tmp_path)
  count = len(BAD) + 1
  heading, *lines = refused(capsys, tmp_path, count=count + 1, workers=workers).split("\n")
  assert heading.startswith(
    f"{tmp_path}/songs: {count} audio files cannot be used; --skip_bad=True"
  )
  assert {line.split(".wav: ")[0] for line in lines} == {
    f"{tmp_path}/songs/bad {bad}" for bad in (*BAD, "link")
  }
  for line in lines:
    assert ("--convert=True" in line) == any(bad in line for bad in CONVERTIBLE)


def test_a_bad_file_is_one_line_with_its_name(tmp_path, capsys):
  path = write_songs(tmp_path / "songs") / "bad.wav"
  path.touch()
  line = refused(capsys, tmp_path, convert=True)
  assert line.startswith(f"{path}: the file is empty (0 bytes); --skip_bad=True")


def test_bad_files_can_be_skipped_and_are_listed(tmp_path, capsys):
  write_bad_songs(tmp_path)
  code, _, lines = prepare(capsys, tmp_path, convert=True, skip_bad=True)
  directory = tmp_path / "out/folder/1.0.0"
  bad = sorted(f"bad {bad}.wav" for bad in (*BAD, "link") if bad not in CONVERTIBLE)
  assert code == 0 and lines[1:] == [
    "prepare: converted 2 of 10 files to 24000 Hz mono",
    f"prepare: left out {len(bad)} of 17 files as bad, see {directory}/rejects.jsonl; "
    "that is more than 10%, so check the reasons",
  ]
  rows = [json.loads(line) for line in (directory / "rejects.jsonl").read_text().splitlines()]
  assert [row["file"] for row in rows] == bad and all(row["reason"] for row in rows)
  records = list(itertools.chain(*read(tmp_path).values()))
  works = {row["work"].decode() for row in records}
  assert {work for work in works if "bad" in work} == {f"bad {bad}.wav" for bad in CONVERTIBLE}
  assert prepare(capsys, tmp_path, convert=True, skip_bad=True)[1].endswith("already there\n")
  code, _, lines = prepare(capsys, tmp_path, convert=True)
  assert code == 1 and f"lacks {len(bad)} bad files, see {directory}/rejects.jsonl" in lines[0]


def test_where_all_files_are_bad_their_reasons_are_given(tmp_path, capsys):
  (tmp_path / "songs").mkdir()
  for name in "ab":
    (tmp_path / f"songs/{name}.wav").touch()
  flags = dict(skip_bad=True, shares="(1.0, 0.0, 0.0)")
  first, *rest = refused(capsys, tmp_path, count=3, **flags).split("\n")
  assert first.startswith("shares: train gets 2 of 2 files and no clip of 0.5 s")
  reason = "the file is empty (0 bytes)"
  assert rest == [f"{tmp_path}/songs/{name}.wav: {reason}" for name in "ab"]


def test_the_text_model_is_that_of_the_files_that_are_used(tmp_path, capsys):
  """The same bytes as without the bad file and its caption."""
  write_songs(tmp_path / "songs")
  flags = dict(skip_bad=True, shares="(1.0, 0.0, 0.0)")
  files, models = [f"album {i % 2}/song {i}.wav" for i in range(8)], []
  for name in ("without", "with"):
    table = captions(tmp_path / "x.csv", files)
    out = tmp_path / name
    assert prepare(capsys, tmp_path, captions=table, data_dir=out, **flags)[0] == 0
    models.append((out / "folder/1.0.0/captions.model").read_bytes())
    (tmp_path / "songs/bad.wav").touch()
    files.append("bad.wav")
  assert models[0] == models[1]


def test_few_bad_files_bring_no_warning_and_none_no_list(tmp_path, capsys):
  path = write_songs(tmp_path / "songs") / "bad.wav"
  path.touch()
  flags = dict(skip_bad=True, warn_share=0.2)
  code, _, lines = prepare(capsys, tmp_path, **flags)
  assert code == 0 and lines[-1].endswith("/rejects.jsonl")
  path.unlink()
  code, _, lines = prepare(capsys, tmp_path, **flags, data_dir=tmp_path / "whole")
  assert code == 0 and len(lines) == 1
  assert not (tmp_path / "whole/folder/1.0.0/rejects.jsonl").exists()


def test_silent_clips_are_left_out_by_name(tmp_path, capsys):
  songs = write_songs(tmp_path / "songs")
  gap = np.concatenate([tone(0.5), np.zeros(2 * RATE), tone(0.5)])
  soundfile.write(songs / "gap.wav", gap, RATE)
  code, out, lines = prepare(capsys, tmp_path)
  assert code == 0 and ": 18 clips" in out
  assert lines[1:] == ["prepare: left out 4 silent clips: gap.wav (4)"]
  for row in itertools.chain(*read(tmp_path).values()):
    assert np.abs(row["waveform"]).max() > 1000
    assert not row["id"].startswith(b"gap") or row["id"] in (b"gap.wav#0000", b"gap.wav#0005")


@pytest.mark.parametrize(
  ("flags", "line"),
  [
    (dict(shares="(0.9, 0.1)"), "shares: wanted a share of 0 to 1 for each of train, validation,"),
    (dict(shares="(0.5, 0.5, 0.5)"), "shares: wanted a share of 0 to 1"),
    (dict(shares="(0.0, 0.5, 0.5)"), "shares: train gets 0 of 8 files and no clip of 0.5 s"),
    (dict(shares="(0.98, 0.01, 0.01)"), "shares: test gets 0 of 8 files and no clip"),
    (dict(clip_seconds=2.0), "shares: train gets 4 of 8 files and no clip of 2 s; choose other"),
    (dict(clip_seconds=1e-6), "clip_seconds: wanted more than 0 s at more than 0 Hz, got 1e-06 at"),
    (dict(audio_dir="/nowhere"), "'/nowhere': No such file or directory"),
    (dict(captions="/no.csv"), "'/no.csv': No such file or directory"),
  ],
)
def test_a_wrong_setting_is_one_line_with_its_name(tmp_path, capsys, flags, line):
  write_songs(tmp_path / "songs")
  assert refused(capsys, tmp_path, **flags).startswith(line)


@pytest.mark.parametrize(
  "flag",
  [dict(shares="(1.1, -0.1, 0.0)"), dict(clip_seconds=0.0), dict(sample_rate=0), dict(workers=0)],
)
def test_a_number_out_of_its_range_is_refused_before_anything_is_read(tmp_path, capsys, flag):
  ((name, value),) = flag.items()
  line = refused(capsys, tmp_path, code=2, **flag)
  assert line.startswith(f"--{name}: ") and f"got {value}" in line


def test_the_estimated_length_of_an_mp3_without_a_table_is_not_trusted(tmp_path, capsys):
  """Its first half is silent, which makes the estimate too long."""
  (tmp_path / "songs").mkdir()
  path = tmp_path / "songs/a.mp3"
  waveform = np.random.default_rng(0).normal(0, 0.2, 96000) * (np.arange(96000) > 48000)
  soundfile.write(path, waveform, RATE, bitrate_mode="VARIABLE", compression_level=0.2)
  content = path.read_bytes()
  path.write_bytes(content[content.index(content[:2], content.index(b"Xing")) :])
  assert soundfile.info(path).duration > 5 > soundfile.read(path)[0].size / RATE
  line = refused(capsys, tmp_path, clip_seconds=5.0, shares="(1.0, 0.0, 0.0)")
  assert line.startswith("shares: train gets 1 of 1 files and no clip")


@pytest.mark.slow
def test_a_killed_worker_is_one_line_and_leaves_nothing(tmp_path):
  """In a process of its own, whose first worker is killed as soon as there is one."""
  write_songs(tmp_path / "songs", count=200)
  flags = SETTINGS | dict(audio_dir=tmp_path / "songs", data_dir=tmp_path / "out", workers=2)
  words = [f"--{name}={value}" for name, value in flags.items()]
  command = [sys.executable, "-m", "musiclm_jax", "prepare", "data/folder", *words]
  parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  children = pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children")

  def workers():
    found = children.read_text().split() if children.exists() else []
    return [
      pid for pid in found if b"spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    ]

  while parent.poll() is None and not workers():
    time.sleep(0.02)
  os.kill(int(workers()[0]), signal.SIGKILL)
  out, err = parent.communicate(timeout=60)
  assert parent.returncode == 1 and out == ""
  assert err.startswith("musiclm: a worker process was killed or crashed, at one of: album 0/")
  assert len(err.splitlines()) == 1
  assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_by_default_there_is_a_process_for_each_cpu(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(os, "cpu_count", lambda: 1)
  write_songs(tmp_path / "songs")
  assert prepare(capsys, tmp_path, workers=None)[0] == 0


def test_a_split_without_a_share_is_left_out(tmp_path, capsys):
  write_songs(tmp_path / "songs")
  assert prepare(capsys, tmp_path, shares="(0.6, 0.4, 0.0)")[0] == 0
  assert set(read(tmp_path)) == {"train", "validation"}


def test_flags_of_the_built_in_corpus_are_refused(tmp_path, capsys):
  code, _, lines = prepare(capsys, tmp_path, size="demo")
  assert code == 2 and lines[0].startswith("musiclm: --size: this run does not use SIZE;")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A folder of songs and its data set."""
  path = tmp_path_factory.mktemp("made")
  write_songs(path / "songs")
  files = [f"album {i % 2}/song {i}.wav" for i in range(8)]
  settings = dict(audio_dir=str(path / "songs"), data_dir=str(path / "out"), convert=False)
  table = caption_table.Captions(str(captions(path / "x.csv", files)), (0.5, 0.25, 0.25))
  settings |= dict(table=table, clip_seconds=0.5, workers=1, sample_rate=RATE, vocab_size=400)
  settings |= dict(skip_bad=False, warn_share=0.1)
  folder_builder.prepare(**settings)
  return settings


def changed(made, *, path=None, shares=None, **changes):
  """The settings with changes, also of the fields of their table."""
  own = {name: value for name, value in dict(path=path, shares=shares).items() if value is not None}
  return made | dict(table=dataclasses.replace(made["table"], **own)) | changes


def test_the_second_run_builds_nothing(made, capsys):
  before = {path: path.stat().st_mtime_ns for path in pathlib.Path(made["data_dir"]).rglob("*")}
  directory = folder_builder.prepare(**made)
  after = {path: path.stat().st_mtime_ns for path in pathlib.Path(made["data_dir"]).rglob("*")}
  assert before == after
  out, err = capsys.readouterr()
  assert out.startswith(f"{directory}: 16 clips") and out.endswith("; already there\n")
  assert err == ""


@pytest.mark.parametrize(
  ("changes", "difference"),
  [
    (dict(clip_seconds=0.4), "the data set has clip_seconds 0.5 instead of 0.4"),
    (dict(shares=(1.0, 0.0, 0.0)), "has shares [0.5, 0.25, 0.25] instead of [1.0, 0.0, 0.0]"),
    (dict(path=""), "has captions, vocab_size, which this run has not"),
    (dict(convert=True), "has convert False instead of True"),
    (dict(vocab_size=300), "has vocab_size 400 instead of 300"),
  ],
)
def test_other_settings_do_not_reuse_the_data_set(made, changes, difference):
  with pytest.raises(ValueError) as caught:
    folder_builder.prepare(**changed(made, **changes))
  assert difference in str(caught.value) and "choose another DATA_DIR" in str(caught.value)


def test_another_folder_does_not_reuse_the_data_set(made, tmp_path, capsys):
  songs = write_songs(tmp_path / "songs", count=9)
  soundfile.write(songs / "album 0/song 0.wav", tone(0.7), RATE)
  (songs / "album 1/song 1.wav").rename(songs / "one.wav")
  with pytest.raises(ValueError) as caught:
    folder_builder.prepare(**changed(made, audio_dir=str(songs), path=""))
  line = str(caught.value)
  assert "the data set lacks album 0/song 8.wav, one.wav;" in line
  assert "has album 1/song 1.wav, captions" in line
  assert "has album 0/song 0.wav 52844 bytes instead of 33644 bytes" in line


def test_moved_with_its_files_the_folder_is_the_same(made, tmp_path, capsys):
  write_songs(tmp_path / "songs")
  folder_builder.prepare(**(made | dict(audio_dir=str(tmp_path / "songs"))))
  assert "already there" in capsys.readouterr().out


def test_a_text_model_that_is_too_small_is_one_line(tmp_path, capsys):
  write_songs(tmp_path / "songs")
  files = [f"album {i % 2}/song {i}.wav" for i in range(8)]
  csv = captions(tmp_path / "x.csv", files)
  line = refused(capsys, tmp_path, captions=csv, vocab_size=100)
  assert line.startswith("vocab_size: 100 is too small for these captions: ")


def test_a_stopped_build_leaves_no_data_set(made, tmp_path, monkeypatch):
  def stop(job):
    raise KeyboardInterrupt

  monkeypatch.setattr(audio_folder, "cut", stop)
  with pytest.raises(KeyboardInterrupt):
    folder_builder.prepare(**(made | dict(data_dir=str(tmp_path / "out"))))
  assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_same_bytes_on_any_number_of_workers(tmp_path):
  write_songs(tmp_path / "songs", count=12)
  for workers in (1, 3):
    words = [f"--{name}={value}" for name, value in (SETTINGS | dict(workers=workers)).items()]
    words += [f"--audio_dir={tmp_path}/songs", f"--data_dir={tmp_path}/{workers}"]
    command = [sys.executable, "-m", "musiclm_jax", "prepare", "data/folder", *words]
    subprocess.run(command, check=True)
  files = [sorted(path for path in (tmp_path / n).rglob("*") if path.is_file()) for n in "13"]
  assert len(files[0]) == len(files[1]) == 6
  for one, two in zip(*files):
    assert one.name == two.name and one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_tensorflow_is_not_imported(made, tmp_path):
  program = (
    "import sys; from musiclm_jax.datasets import caption_table, folder_builder; "
    "Captions = caption_table.Captions; "
    f"folder_builder.prepare(**{made | dict(data_dir=str(tmp_path))!r}); "
    "assert not {'tensorflow', 'torch', 'seqio'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_trainings_read_it_and_refuse_what_it_lacks(made, tmp_path):
  from musiclm_jax.training import audio_examples, input_pipeline, orders

  def batch(directory, examples, order=orders.shuffled):
    settings = dict(split="train", batch_size=4, seed=0, parts={})
    data = input_pipeline.Dataset(
      directory=str(directory), examples=examples, order=order, **settings
    )
    return next(data.batches(0))

  with_captions = pathlib.Path(made["data_dir"], "folder/1.0.0")
  without = folder_builder.prepare(**changed(made, data_dir=str(tmp_path), path=""))
  crop = dict(crop_seconds=0.25, sample_rate=RATE)
  waveforms = audio_examples.Waveforms(**crop)
  assert batch(without, waveforms)["waveform"].shape == (4, 6000)
  captioned = audio_examples.Captioned(
    **crop,
    text_model=str(with_captions / "captions.model"),
    text_length=8,
    text="caption",
    vocab_size=400,
  )
  assert batch(with_captions, captioned)["text"].any(axis=1).all()
  with pytest.raises(ValueError, match="records of train have no captions to train on"):
    batch(without, captioned)
  melodies = audio_examples.Melodies(**crop)
  with pytest.raises(ValueError, match="no melody of train has two renditions to pair"):
    batch(without, melodies, orders.melody_pairs)
