"""Batches are a function of (seed, step) on any number of hosts; bad shards are refused by name."""

import dataclasses
import functools
import itertools
import json

import jax
import numpy as np
import pytest

from musiclm_jax.tokens import Stream
from musiclm_jax.training import input_pipeline, tasks
from tests.records import AUDIO_FEATURES, audio_row, write_manifest, write_records


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  rows = [audio_row(i, 48, melody=f"tune{i // 3}") for i in range(10)]
  path = tmp_path_factory.mktemp("audio")
  return write_records(path, {"train": rows, "validation": rows[:3]}, AUDIO_FEATURES)


def dataset(directory, *, seed=0, order=input_pipeline.shuffled, split="train", batch_size=4):
  examples = functools.partial(tasks.waveforms, crop_seconds=2.0, sample_rate=16)
  return input_pipeline.Dataset(
    directory=directory,
    split=split,
    examples=examples,
    order=order,
    batch_size=batch_size,
    seed=seed,
    sources=(),
    parts=(),
  )


def take(batches, count):
  return [batch["waveform"] for batch in itertools.islice(batches, count)]


def clip_numbers(waveforms):
  return (np.concatenate(waveforms)[:, 0] * 32768 // 100).astype(int)


def test_starting_at_a_step_gives_what_a_run_from_the_beginning_has_there(directory):
  data = dataset(directory)
  whole = take(data.batches(0), 9)
  np.testing.assert_array_equal(np.stack(whole[6:]), np.stack(take(data.batches(6), 3)))


def test_each_epoch_is_another_permutation(directory):
  seen = clip_numbers(take(dataset(directory).batches(0), 10)).reshape(4, 10)
  for epoch in seen:
    assert sorted(epoch) == list(range(10))
  assert len({tuple(epoch) for epoch in seen}) == 4
  other = clip_numbers(take(dataset(directory, seed=1).batches(0), 10)).reshape(4, 10)
  assert (seen != other).any()


def test_crops_are_consecutive_samples_from_different_places(directory):
  crops = np.concatenate(take(dataset(directory).batches(0), 5)) * 32768
  assert crops.shape == (20, 32)
  np.testing.assert_array_equal(np.diff(crops, axis=1), 1)
  assert len(set(crops[:, 0] % 100)) > 3


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_global_batch_in_order(directory, hosts, monkeypatch):
  whole = take(dataset(directory).batches(0), 3)
  monkeypatch.setattr(jax, "process_count", lambda: hosts)
  parts = []
  for host in range(hosts):
    monkeypatch.setattr(jax, "process_index", lambda host=host: host)
    parts.append(take(dataset(directory).batches(0), 3))
  for step in range(3):
    np.testing.assert_array_equal(np.concatenate([p[step] for p in parts]), whole[step])


def test_a_batch_that_does_not_divide_among_hosts_is_refused(directory, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  with pytest.raises(ValueError, match="batch_size 4 does not divide among 3 processes"):
    next(dataset(directory).batches(0))


def test_evaluation_is_one_pass_in_order(directory):
  data = dataset(directory, split="validation", order=input_pipeline.sequential, batch_size=2)
  assert data.num_batches == 2
  records = input_pipeline.Records(directory, "validation")
  ids = [i.decode() for i in records.column("id")]
  wanted = [int(i.removeprefix("clip")) for i in ids]
  np.testing.assert_array_equal(clip_numbers(take(data.batches(0), 2)), [*wanted, wanted[0]])


def test_pairs_are_two_renditions_of_one_melody(directory):
  records = input_pipeline.Records(directory, "train")
  melodies = records.column("melody")
  order = input_pipeline.melody_pairs(records, seed=3)
  found = order(np.arange(60)).reshape(30, 2)
  assert all(melodies[a] == melodies[b] and a != b for a, b in found)
  assert len({melodies[a] for a, _ in found}) == 3  # tune3 has one rendition alone


def test_data_without_pairs_is_refused(tmp_path):
  write_records(tmp_path, {"train": [audio_row(i, 48) for i in range(4)]}, AUDIO_FEATURES)
  records = input_pipeline.Records(str(tmp_path), "train")
  with pytest.raises(ValueError, match="no melody of train has two renditions"):
    input_pipeline.melody_pairs(records, 0)


def test_what_is_no_data_set_is_refused(tmp_path, directory):
  with pytest.raises(ValueError, match="no data set here"):
    dataset(str(tmp_path))
  with pytest.raises(ValueError, match="no split 'test'; it has train, validation"):
    dataset(directory, split="test")


@pytest.mark.parametrize("harm", ["truncate", "garbage", "missing"])
def test_a_corrupt_shard_is_one_line_with_its_name(tmp_path, harm):
  rows = [audio_row(i, 4800) for i in range(8)]
  write_records(tmp_path, {"train": rows}, AUDIO_FEATURES)
  path = tmp_path / "tokens-train.array_record-00001-of-00002"
  if harm == "missing":
    path.unlink()
  else:
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] if harm == "truncate" else b"\0" * len(content))
  with pytest.raises(ValueError, match="shard") as caught:
    take(dataset(str(tmp_path)).batches(0), 2)
  assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_sources_and_parts_become_the_provenance(tmp_path, directory):
  write_manifest(directory, {"mulan": "aaa", "semantic": "bbb"})
  found = input_pipeline._provenance(directory, ("mulan",), ())
  assert found == {"sources": {"mulan": {"encoder": "aaa"}}, "parts": {}}
  with pytest.raises(ValueError, match="no source 'acoustic'; the shards hold mulan, semantic"):
    input_pipeline._provenance(directory, ("acoustic",), ())


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"codebook_size": 128}, "acoustic codes have codebook_size 256, stream fine wants 128"),
    ({"frame_rate": 75.0}, "acoustic codes have frame_rate 50, stream fine wants 75"),
    ({"num_quantizers": 9}, "there are 12 levels of acoustic codes, stream fine wants 13"),
  ],
)
def test_codes_that_a_stream_does_not_expect_are_refused(tmp_path, changes, message):
  made = {"encoder": "aaa", "frame_rate": 50, "codebook_size": 256, "width": 12}
  (tmp_path / "manifest.json").write_text(json.dumps({"sources": {"acoustic": made}}))
  stream = Stream("fine", "acoustic", 50.0, 4, 8, 256)
  assert input_pipeline._provenance(str(tmp_path), (stream,), ())["sources"] == {"acoustic": made}
  stream = dataclasses.replace(stream, **changes)
  with pytest.raises(ValueError, match=f"manifest.json: .*{message}"):
    input_pipeline._provenance(str(tmp_path), (stream,), ())


def test_shards_of_another_tokenizer_are_refused_by_name(tmp_path, directory):
  from tests.test_checkpointing import make_part

  write_manifest(directory, {"mulan": "aaa"})
  part = str(tmp_path / "rvq")
  make_part(part, provenance={"sources": {"mulan": {"encoder": "zzz"}}, "parts": {}})
  with pytest.raises(ValueError, match="its mulan is of encoder aaa.*on that of zzz"):
    input_pipeline._provenance(directory, ("mulan",), (part,))
