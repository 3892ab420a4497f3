"""The built-in corpus: what a build holds, that it is the same on any number of workers, and its
errors."""

import itertools
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from musiclm_jax.datasets import corpus_builder, corpus_clips, parallel_build, soundfonts, synthesis

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Directory of the tiny corpus, built by one process."""
  return corpus_builder.prepare(str(tmp_path_factory.mktemp("corpus")), "tiny", seed=0, workers=1)


@pytest.fixture(scope="module")
def splits(corpus):
  """Records of each split, read without the package."""
  builder = tfds.builder_from_directory(corpus)
  return {split: list(builder.as_data_source(split)) for split in builder.info.splits}


def test_corpus_has_the_size_that_was_asked_for(splits):
  assert set(splits) == set(corpus_builder.SPLITS)
  assert 60 <= sum(map(len, splits.values())) <= 80
  assert len(splits["test"]) >= 8
  for record in itertools.chain(*splits.values()):
    assert record["waveform"].dtype == np.int16 and record["waveform"].shape == (96_000,)


def test_clips_sound(splits):
  for record in itertools.chain(*splits.values()):
    waveform = record["waveform"] / 32767
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
  held_out = {(each.program, each.held_out) for each in synthesis.instruments() if each.held_out}
  for split, records in splits.items():
    for record in records:
      pairs = {(int(program), record["tempo_word"].decode()) for program in record["programs"]}
      assert bool(pairs & held_out) == (split == "combinations")


def test_truth_is_within_the_clip(splits):
  for record in itertools.chain(*splits.values()):
    onsets = record["onsets"]
    assert onsets.dtype == np.float32 and len(onsets) >= 2
    assert np.all((onsets[:, 0] >= 0) & (onsets[:, 0] < 4.0) & (onsets[:, 1] > 20))
    low, high = synthesis.TEMPI[record["tempo_word"].decode()]
    assert low <= record["bpm"] <= high and record["start_s"] >= 0
    assert set(record["instruments"]) <= set(record["aspect_list"])


def test_second_call_builds_nothing(corpus, capsys):
  before = {path: path.stat().st_mtime_ns for path in corpus.iterdir()}
  assert corpus_builder.prepare(str(corpus.parents[2]), "tiny", seed=0, workers=1) == corpus
  assert {path: path.stat().st_mtime_ns for path in corpus.iterdir()} == before
  assert capsys.readouterr().out.endswith("already there\n")
  assert (corpus.parents[2] / "captions.model").exists()


def test_works_do_not_depend_on_each_other(tmp_path):
  soundfont = soundfonts.write_corrected("", tmp_path)
  jobs = corpus_builder.split_jobs(
    corpus_builder.Rendered.builder_configs["tiny"], "train", soundfont
  )[:6]
  forth = [example for job in jobs for example in corpus_clips.render_work(job)]
  back = {example["id"]: example for job in jobs[::-1] for example in corpus_clips.render_work(job)}
  for one in forth:
    two = back[one["id"]]
    assert one["waveform"].tobytes() == two["waveform"].tobytes()
    assert one["caption"] == two["caption"]


def test_stopped_build_leaves_no_data_set(tmp_path):
  def stop(function, jobs):
    yield function(jobs[0])
    raise KeyboardInterrupt

  builder = corpus_builder.Rendered(config="tiny", data_dir=tmp_path)
  builder.map = stop
  with pytest.raises(KeyboardInterrupt):
    parallel_build.build(builder, 1)
  assert not pathlib.Path(builder.data_dir).exists()


def test_same_bytes_on_any_number_of_workers(tmp_path):
  """Each number in a process of its own."""
  for workers in (1, 2):
    program = (
      "import dataclasses; from musiclm_jax.datasets import corpus_builder, parallel_build; "
      "small = corpus_builder.size_config('tiny', seed=3, soundfont=''); "
      "small = dataclasses.replace(small, works=(3, 1, 2, 1)); "
      f"data_dir = {str(tmp_path / str(workers))!r}; "
      "builder = corpus_builder.Rendered(config=small, data_dir=data_dir); "
      f"parallel_build.build(builder, {workers})"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
  files = [sorted((tmp_path / str(n)).rglob("*.array_record*")) for n in (1, 2)]
  assert len(files[0]) == len(files[1]) == 4
  for one, two in zip(*files):
    assert one.name == two.name and one.read_bytes() == two.read_bytes()


def test_full_size_is_more_than_200_hours():
  config = corpus_builder.Rendered.builder_configs["full"]
  works = sum(len(corpus_builder.split_jobs(config, split, "")) for split in corpus_builder.SPLITS)
  assert works * config.passages * config.renditions * config.clip_seconds / 3600 > 200


def test_wrong_requests_are_one_line(tmp_path):
  with pytest.raises(ValueError, match="size: wanted one of tiny, demo, full, got 'huge'"):
    corpus_builder.prepare(str(tmp_path), "huge", seed=0, workers=1)
  with pytest.raises(ValueError, match="workers: wanted at least 1, got 0"):
    corpus_builder.prepare(str(tmp_path), "tiny", seed=0, workers=0)
  with pytest.raises(ValueError, match="soundfont: wanted an .sf2 file"):
    corpus_builder.prepare(str(tmp_path), "tiny", seed=0, workers=1, soundfont="/no/such.sf2")


def test_tensorflow_is_not_imported(tmp_path):
  """Neither to import nor to build."""
  program = (
    "import dataclasses, sys; from musiclm_jax.datasets import corpus_builder, parallel_build; "
    "small = corpus_builder.size_config('tiny', seed=1, soundfont=''); "
    "small = dataclasses.replace(small, works=(1, 1, 1, 1)); "
    f"builder = corpus_builder.Rendered(config=small, data_dir={str(tmp_path)!r}); "
    "parallel_build.build(builder, 1); "
    "assert len(parallel_build.read_captions(builder, 'train')) == 3; "
    "assert not {'tensorflow', 'torch', 'jax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", program], check=True)
