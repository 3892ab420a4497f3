"""Batches are a function of (seed, step) on any number of hosts; bad shards are refused by name."""

import dataclasses
import itertools
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from musiclm_jax import partitioning
from musiclm_jax.datasets import manifest
from musiclm_jax.datasets.tfds_reader import Records
from musiclm_jax.tokens import Stream
from musiclm_jax.training import audio_examples, input_pipeline, orders
from tests.records import AUDIO_FEATURES, audio_row, write_manifest, write_records


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  rows = [audio_row(i, 48, melody=f"tune{i // 3}") for i in range(10)]
  path = tmp_path_factory.mktemp("audio")
  return write_records(path, {"train": rows, "validation": rows[:3]}, AUDIO_FEATURES)


def dataset(directory, *, seed=0, order=orders.shuffled, split="train", batch_size=4):
  examples = audio_examples.Waveforms(crop_seconds=2.0, sample_rate=16)
  return input_pipeline.Dataset(
    directory=directory,
    split=split,
    examples=examples,
    order=order,
    batch_size=batch_size,
    seed=seed,
    parts={},
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
def test_hosts_share_the_global_batch_in_order(directory, hosts):
  whole = take(dataset(directory).batches(0), 3)
  parts = [take(dataset(directory).batches(0, rows), 3) for rows in np.split(np.arange(4), hosts)]
  for step in range(3):
    np.testing.assert_array_equal(np.concatenate([p[step] for p in parts]), whole[step])


@pytest.fixture(scope="module")
def others(tmp_path_factory):
  """Two more directories, whose clips have other numbers."""
  made = []
  for first, count in ((100, 7), (200, 3)):
    path = tmp_path_factory.mktemp(f"from_{first}")
    rows = [audio_row(first + i, 48) for i in range(count)]
    made.append(write_records(path, {"train": rows}, AUDIO_FEATURES))
  return made


def mixture(directories, rates=(2, 2, 1), batch_size=4, **changes):
  datasets = tuple(dataset(each, batch_size=batch_size) for each in directories)
  return input_pipeline.Mixture(**dict(datasets=datasets, rates=rates, seed=0) | changes)


def test_a_mixture_has_each_dataset_at_its_rate_in_every_block(directory, others):
  seen = clip_numbers(take(mixture([directory, *others]).batches(0), 25)).reshape(20, 5) // 100
  for block in seen:
    assert sorted(block) == [0, 0, 1, 1, 2]
  assert len({tuple(block) for block in seen}) > 10


def test_a_mixture_shows_each_dataset_in_its_own_order(directory, others):
  seen = clip_numbers(take(mixture([directory, *others]).batches(0), 25))
  for number, count in enumerate((10, 7, 3)):
    own = seen[seen // 100 == number] % 100
    passes = own[: len(own) // count * count].reshape(-1, count)
    assert len(passes) >= 4
    for each in passes:
      assert sorted(each) == list(range(count))
    assert len({tuple(each) for each in passes}) > 1


def test_a_mixture_starts_anywhere_as_if_it_had_run_from_the_beginning(directory, others):
  data = mixture([directory, *others])
  whole = take(data.batches(0), 8)
  np.testing.assert_array_equal(np.stack(whole[5:]), np.stack(take(data.batches(5), 3)))
  other = take(mixture([directory, *others], seed=1).batches(0), 8)
  assert (np.stack(whole) != np.stack(other)).any()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batches_of_a_mixture_in_order(directory, others, hosts):
  data = mixture([directory, *others])
  whole = take(data.batches(2), 4)
  parts = [take(data.batches(2, rows), 4) for rows in np.split(np.arange(4), hosts)]
  for step in range(4):
    np.testing.assert_array_equal(np.concatenate([p[step] for p in parts]), whole[step])


def test_two_datasets_of_one_directory_show_it_in_different_orders(directory):
  data = mixture([directory, directory], rates=(1, 1), batch_size=20)
  which, _ = orders.drawn((1, 1), 0, np.arange(20))
  seen = clip_numbers(take(data.batches(0), 1))
  one, other = seen[which == 0], seen[which == 1]
  assert sorted(one) == sorted(other) == list(range(10)) and (one != other).any()


def test_a_pass_of_a_mixture_shows_every_record(directory, others):
  data = mixture([directory, *others])  # 10 records at rate 2, 7 at 2, 3 at 1
  assert data.num_batches == -(-5 * 5 // 4)
  assert len(set(clip_numbers(take(data.batches(0), data.num_batches)))) == 20


@hypothesis.given(
  rates=st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple),
  seed=st.integers(0, 2**31),
  start=st.integers(0, 200),
  count=st.integers(1, 60),
)
def test_places_in_the_datasets_are_what_counting_from_the_beginning_gives(
  rates, seed, start, count
):
  which, at = orders.drawn(rates, seed, np.arange(start, start + count))
  whole, _ = orders.drawn(rates, seed, np.arange(start + count))
  np.testing.assert_array_equal(which, whole[start:])
  counted = [np.count_nonzero(whole[:p] == whole[p]) for p in range(start, start + count)]
  np.testing.assert_array_equal(at, counted)
  for block in whole[: len(whole) // sum(rates) * sum(rates)].reshape(-1, sum(rates)):
    np.testing.assert_array_equal(np.bincount(block, minlength=len(rates)), rates)


@pytest.mark.parametrize("rates", [(1,), (1, 1, 1), (1, 0), (1, -1), ()])
def test_wrong_rates_are_refused(directory, rates):
  with pytest.raises(ValueError, match="rates: wanted a whole number .* for each of 2 datasets"):
    mixture([directory, directory], rates=rates)


def test_datasets_that_do_not_go_together_are_refused(directory, others):
  def refused(message, *changes):
    with pytest.raises(ValueError, match=message) as caught:
      datasets = tuple(dataset(directory, **each) for each in changes)
      input_pipeline.Mixture(datasets=datasets, rates=(1, 1), seed=0)
    assert str(directory) in str(caught.value) and "\n" not in str(caught.value)

  refused("has batch_size 8, .* 4", {}, {"batch_size": 8})
  refused("has split validation, .* train", {}, {"split": "validation"})
  one, other = dataset(directory), dataset(others[0])
  other.shapes = partitioning.batched(audio_examples.Waveforms(1.0, 16).shapes, 4)
  with pytest.raises(ValueError, match=r"has examples .*4, ?16.*, .*4, ?32"):
    input_pipeline.Mixture(datasets=(one, other), rates=(1, 1), seed=0)
  other = dataset(others[0])
  one.provenance = {"sources": {"mulan": {"encoder": "aaa"}}, "parts": {}}
  other.provenance = {"sources": {"mulan": {"encoder": "bbb"}}, "parts": {}}
  with pytest.raises(ValueError, match=f"{others[0]}: its mulan is .*bbb.*, another has .*aaa"):
    input_pipeline.Mixture(datasets=(one, other), rates=(1, 1), seed=0)


def test_evaluation_is_one_pass_in_order(directory):
  data = dataset(directory, split="validation", order=orders.sequential, batch_size=2)
  assert data.num_batches == 2
  records = Records(directory, "validation")
  ids = [i.decode() for i in records.column("id")]
  wanted = [int(i.removeprefix("clip")) for i in ids]
  np.testing.assert_array_equal(clip_numbers(take(data.batches(0), 2)), [*wanted, wanted[0]])


def test_pairs_are_two_renditions_of_one_melody(directory):
  records = Records(directory, "train")
  melodies = records.column("melody")
  order = orders.melody_pairs(records, seed=3)
  found = order(np.arange(60)).reshape(30, 2)
  assert all(melodies[a] == melodies[b] and a != b for a, b in found)
  assert len({melodies[a] for a, _ in found}) == 3  # tune3 has one rendition alone


def test_data_without_pairs_is_refused(tmp_path):
  write_records(tmp_path, {"train": [audio_row(i, 48) for i in range(4)]}, AUDIO_FEATURES)
  records = Records(str(tmp_path), "train")
  with pytest.raises(ValueError, match="no melody of train has two renditions"):
    orders.melody_pairs(records, 0)


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
  found = manifest.provenance(directory, ("mulan",), {})
  assert found == {"sources": {"mulan": {"encoder": "aaa"}}, "parts": {}}
  with pytest.raises(ValueError, match="no source 'acoustic'; the shards hold mulan, semantic"):
    manifest.provenance(directory, ("acoustic",), {})


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
  assert manifest.provenance(str(tmp_path), (stream,), {})["sources"] == {"acoustic": made}
  stream = dataclasses.replace(stream, **changes)
  with pytest.raises(ValueError, match=f"manifest.json: .*{message}"):
    manifest.provenance(str(tmp_path), (stream,), {})


def test_shards_of_another_tokenizer_are_refused_by_name(tmp_path, directory):
  from tests.test_part_files import make_part

  write_manifest(directory, {"mulan": "aaa"})
  part = str(tmp_path / "rvq")
  make_part(part, provenance={"sources": {"mulan": {"encoder": "zzz"}}, "parts": {}})
  with pytest.raises(ValueError, match="its mulan is of encoder aaa.*on that of zzz"):
    manifest.provenance(directory, ("mulan",), {"mulan_rvq": part})
