"""The built-in corpus: its records, its errors, and the same bytes on any number of workers."""

import itertools
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from musiclm_jax import audio
from musiclm_jax.datasets import (
  arrays,
  corpus_builder,
  corpus_clips,
  corpus_sizes,
  instruments,
  passages,
  rendered_arrays,
  soundfonts,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Directory of the tiny corpus, built by two processes."""
  return corpus_builder.prepare(str(tmp_path_factory.mktemp("corpus")), "tiny", seed=0, workers=2)


@pytest.fixture(scope="module")
def splits(corpus):
  """Records of each split, read without the package."""
  builder = tfds.builder_from_directory(corpus)
  return {split: list(builder.as_data_source(split)) for split in builder.info.splits}


def test_corpus_has_the_size_that_was_asked_for(splits):
  assert set(splits) == set(corpus_sizes.SPLITS)
  assert 60 <= sum(map(len, splits.values())) <= 80
  assert len(splits["test"]) >= 8
  for record in itertools.chain(*splits.values()):
    assert record["waveform"].dtype == np.int16 and record["waveform"].shape == (96_000,)


def test_rendered_arrays_and_converted_records_are_the_same(corpus, splits, tmp_path):
  settings = dict(size="tiny", hours=None, seed=0, workers=2, soundfont="", scores="")
  counts = rendered_arrays.prepare(output_dir=str(tmp_path / "rendered"), **settings)
  assert counts == {split: len(splits[split]) for split in ("train", "validation")}
  arrays.convert(data_dir=str(corpus), output_dir=str(tmp_path / "converted"))
  for split in counts:
    wanted = {record["id"]: record for record in splits[split]}
    for folder in ("rendered", "converted"):
      found = arrays.Arrays(str(tmp_path / folder), split)
      assert set(found.features) == set(next(iter(wanted.values())))
      for record in map(found.record, range(len(found))):
        for name, value in wanted[record["id"]].items():
          assert np.shape(record[name]) == np.shape(value), name
          np.testing.assert_array_equal(record[name], np.asarray(value, record[name].dtype))


def test_hours_bound_each_split(tmp_path):
  size = rendered_arrays.within(corpus_sizes.SIZES["small"], 0.1)
  assert size.works == (3, 3, 3, 3) and size.clip_seconds == 30.0
  with pytest.raises(ValueError, match="size: wanted one of tiny, .*, got 'smal'"):
    rendered_arrays.prepare(
      output_dir=str(tmp_path), size="smal", hours=1, seed=0, workers=1, soundfont="", scores=""
    )


def test_clips_are_no_silence_and_not_clipped(splits):
  for record in itertools.chain(*splits.values()):
    waveform = audio.from_int16(record["waveform"])
    assert abs(waveform.mean()) < 1e-3 and 0.02 < waveform.std() < 0.2
    assert np.abs(waveform).max() < 0.96
    silent = [np.abs(part).max() < 0.003 for part in np.array_split(waveform, 100)]
    assert np.mean(silent) < 0.5, record["id"]


def test_splits_share_no_work_and_pair_every_melody(splits):
  works = {split: {record["work"] for record in records} for split, records in splits.items()}
  assert not works["train"] & (works["test"] | works["validation"])
  assert not works["test"] & works["validation"]
  assert works["combinations"] <= works["train"]
  for records in splits.values():
    melodies = [record["melody"] for record in records]
    assert min(melodies.count(melody) for melody in melodies) >= 2


def test_held_out_pairs_never_occur_in_train(splits):
  held_out = {(each.program, each.held_out) for each in instruments.instruments() if each.held_out}
  for split, records in splits.items():
    for record in records:
      pairs = {(int(program), record["tempo_word"].decode()) for program in record["programs"]}
      assert bool(pairs & held_out) == (split == "combinations")


def test_truth_is_within_the_clip(splits):
  for record in itertools.chain(*splits.values()):
    onsets = record["onsets"]
    assert onsets.dtype == np.float32 and len(onsets) >= 2
    assert np.all((onsets[:, 0] >= 0) & (onsets[:, 0] < 4.0) & (onsets[:, 1] > 20))
    low, high = passages.TEMPI[record["tempo_word"].decode()]
    assert low <= record["bpm"] <= high and record["start_s"] >= 0
    assert (record["place"] == b"beginning") == (record["start_s"] == 0)
    assert (record["place"] == b"ending") == ("-end-" in record["id"].decode())
    assert set(record["instruments"]) <= set(record["aspect_list"])


def test_every_clip_has_several_captions(splits):
  for record in itertools.chain(*splits.values()):
    texts = [text.decode() for text in record["captions"]]
    assert len(set(texts)) == len(texts) >= 3 and texts[0] == record["caption"].decode()


def test_second_call_builds_nothing(corpus, capsys):
  before = {path: path.stat().st_mtime_ns for path in corpus.iterdir()}
  assert corpus_builder.prepare(str(corpus.parents[2]), "tiny", seed=0, workers=1) == corpus
  assert {path: path.stat().st_mtime_ns for path in corpus.iterdir()} == before
  assert capsys.readouterr().out.endswith("already there\n")
  assert (corpus.parents[2] / "captions.model").exists()


def test_works_do_not_depend_on_each_other(splits, tmp_path):
  """Alone and in another order they are what the build made."""
  records = {record["id"].decode(): record for record in splits["train"]}
  soundfont = soundfonts.write_corrected("", tmp_path)
  made = dict(seed=0, soundfont=soundfont, scores="")
  for job in corpus_sizes.jobs(corpus_sizes.SIZES["tiny"], "train", **made)[5::-1]:
    for example in corpus_clips.render_work(job):
      record = records[example["id"]]
      assert example["waveform"].tobytes() == record["waveform"].tobytes()
      assert example["caption"] == record["caption"].decode()


def test_stopped_build_leaves_no_data_set(tmp_path, monkeypatch):
  def stop(job):
    raise KeyboardInterrupt

  monkeypatch.setattr(corpus_clips, "render_work", stop)
  with pytest.raises(KeyboardInterrupt):
    corpus_builder.prepare(str(tmp_path), "tiny", seed=0, workers=1)
  assert not list(tmp_path.glob("rendered/tiny/*")) and not list(tmp_path.rglob("*.array_record*"))


def test_same_bytes_from_one_process_that_imports_no_tensorflow(corpus, tmp_path):
  program = (
    "import sys; from musiclm_jax.datasets import corpus_builder; "
    f"corpus_builder.prepare({str(tmp_path)!r}, 'tiny', seed=0, workers=1); "
    "assert not {'tensorflow', 'torch', 'jax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", program], check=True)
  folders = (corpus.parents[2], tmp_path)
  files = [sorted(path.relative_to(f) for path in f.rglob("*") if path.is_file()) for f in folders]
  assert files[0] == files[1]
  assert sum(".array_record" in file.name for file in files[0]) == 4
  for file in files[0]:
    assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file


@pytest.mark.parametrize("size, hours", [("small", 60), ("full", 200)])
def test_sizes_have_all_works_of_train_and_enough_of_test(size, hours):
  size = corpus_sizes.SIZES[size]
  made = dict(seed=0, soundfont="", scores="")
  works = {split: corpus_sizes.jobs(size, split, **made) for split in corpus_sizes.SPLITS}
  clips = size.passages * size.renditions
  assert corpus_sizes.clip_count(size) * size.clip_seconds / 3600 > hours
  assert len(works["train"]) == 2663
  assert len(works["test"]) >= 76 and len(works["test"]) * clips >= 228


def test_the_plan_is_printed_and_a_small_disk_is_refused(tmp_path, monkeypatch):
  size = corpus_sizes.SIZES["small"]
  free = 40e9

  def usage(path):
    assert path.exists()
    return types.SimpleNamespace(free=free)

  monkeypatch.setattr(shutil, "disk_usage", usage)
  line = corpus_builder.forecast(size, tmp_path / "rendered/small/1.0.0")
  assert "11316 clips, 94.30 h; at most 16.3 GB stay on disk, 32.6 GB while it is built" in line
  assert line.endswith("40.0 GB are free")
  free = 30e9
  with pytest.raises(ValueError, match="wanted 32.6 GB while it is built and 16.3 GB afterwards"):
    corpus_builder.prepare(str(tmp_path), "small", seed=0, workers=1)
  assert not list(tmp_path.rglob("*.array_record*"))


def test_wrong_requests_are_one_line(tmp_path):
  with pytest.raises(ValueError, match="size: wanted one of tiny, demo, small, full, got 'huge'"):
    corpus_builder.prepare(str(tmp_path), "huge", seed=0, workers=1)
  with pytest.raises(ValueError, match="workers: wanted at least 1, got 0"):
    corpus_builder.prepare(str(tmp_path), "tiny", seed=0, workers=0)
  with pytest.raises(ValueError, match="soundfont: wanted an .sf2 file"):
    corpus_builder.prepare(str(tmp_path), "tiny", seed=0, workers=1, soundfont="/no/such.sf2")


def test_beats_and_the_end_are_where_the_record_says(splits):
  """Onsets are near beats more often than a quarter of a beat away; an ending ends in its clip."""
  near, far = 0, 0
  for record in (record for records in splits.values() for record in records):
    beats = (record["onsets"][:, 0] - record["beat_s"]) * record["bpm"] / 60
    distance = np.abs(beats - np.round(beats))
    near, far = near + (distance < 0.1).sum(), far + (np.abs(distance - 0.25) < 0.1).sum()
    seconds = len(record["waveform"]) / 24000
    assert (record["end_s"] < seconds + 0.01) == (record["place"] == b"ending")
    assert 0 <= record["beat_s"] < 60 / record["bpm"]
  assert near > 2 * far
