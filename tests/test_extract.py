"""Extraction: windows, what encoders are asserted to give, and shards after a kill."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from musiclm_jax import sources
from musiclm_jax.datasets import arrays, captions, extract, features
from musiclm_jax.datasets.tfds_reader import Records
from musiclm_jax.text import Tokenizer
from musiclm_jax.tokenizers import frozen
from musiclm_jax.tokenizers.quantizer import EmbeddingQuantizer
from musiclm_jax.tokens import Stage, Stream, Vocabulary
from musiclm_jax.training import input_pipeline, orders, token_examples
from tests import small_world
from tests.records import write_records

RATE = small_world.RATE


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  """Directories of a codec, a joint embedding, and its quantizer."""
  root = tmp_path_factory.mktemp("parts")
  nothing = {"sources": {}, "parts": {}}
  wave = {"waveform": np.zeros((2, 7200), np.float32)}
  small_world.write_part(root / "soundstream", small_world.codec(), wave, nothing)
  text = wave | {"text": np.ones((2, 16), np.int32)}
  joint = small_world.write_part(root / "mulan", small_world.joint(), text, nothing)
  for name, encoder in (("mulan_rvq", joint), ("other_rvq", "feedfeedfeed")):
    module = EmbeddingQuantizer(small_world.residual(2, 6), standardise=False)
    batch = {"embeddings": np.zeros((2, 3, 6), np.float32)}
    made = {"sources": {"mulan": {"encoder": encoder}}, "parts": {}}
    small_world.write_part(root / name, module, batch, made)
  return {path.name: str(path) for path in root.iterdir()}


def acoustic(parts, **changes):
  fields = dict(name="acoustic", encoder=parts["soundstream"], method="encode", layer=None)
  fields |= dict(window_seconds=0.0, hop_seconds=0.0, quantizer="", frame_rate=50.0)
  return features.Feature(**(fields | changes))


def joint(parts, **changes):
  fields = dict(name="mulan", encoder=parts["mulan"], method="embed_audio", layer=None)
  fields |= dict(window_seconds=1.0, hop_seconds=0.5, quantizer="", frame_rate=2.0)
  return features.Feature(**(fields | changes))


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
  """A data set of seven clips of 1.2 s and 0.8 s in train, and two in test."""
  clips = [small_world.tone(i) for i in range(9)]
  for i, clip in enumerate(clips):
    clip["waveform"] = clip["waveform"][: round((0.8 if i % 3 == 1 else 1.2) * RATE)]
  splits = {"train": clips[:7], "test": clips[7:]}
  return write_records(tmp_path_factory.mktemp("audio"), splits, small_world.CLIP_FEATURES)


def run(parts, audio, output_dir, **changes):
  """The manifest of an extraction with three shards a split."""
  settings = dict(data_dir=audio, output_dir=str(output_dir), splits=("train", "test"))
  settings |= dict(sources=(acoustic(parts), joint(parts)), sample_rate=RATE, batch_size=4)
  options = ("--runner=DirectRunner", "--direct_running_mode=in_memory")
  settings |= dict(num_shards=3, labels=(), beam_options=(*options, "--direct_num_workers=1"))
  return extract.extract(**(settings | changes))


@pytest.fixture(scope="module")
def shards(parts, audio, tmp_path_factory):
  """A whole extraction's directory."""
  directory = tmp_path_factory.mktemp("shards")
  run(parts, audio, directory)
  return directory


def test_windows_reach_past_the_end_into_silence(parts):
  encoder = features.Encoder(joint(parts), RATE)
  waveforms = np.stack([small_world.tone(i)["waveform"][:43200] for i in (0, 1)]) / 32768
  waveforms = waveforms.astype(np.float32)  # 1.8 s: windows at 0, 0.5 and 1 s
  windows = encoder._windows(waveforms).reshape(2, 3, 24000)
  np.testing.assert_array_equal(windows[:, 1], waveforms[:, 12000:36000])
  np.testing.assert_array_equal(windows[:, 2, :19200], waveforms[:, 24000:])
  assert not windows[:, 2, 19200:].any()
  found = encoder(waveforms)
  assert found.shape == (2, 3, 6) and found.dtype == np.float32
  alone = frozen.load(parts["mulan"])("embed_audio", windows[1])
  np.testing.assert_allclose(found[1], alone, rtol=1e-4, atol=1e-5)


def test_a_clip_shorter_than_the_window_is_one_window(parts):
  found = features.Encoder(joint(parts), RATE)(np.ones((3, 12000), np.float32))
  assert found.shape == (3, 1, 6)


@pytest.mark.parametrize("source", [acoustic, joint])
def test_an_encoder_of_another_rate_is_refused(parts, source):
  with pytest.raises(ValueError, match="wants 24000 Hz, the records are 16000 Hz"):
    features.Encoder(source(parts), 16000)


@pytest.mark.parametrize("dtype, shape", [(np.float32, (None,)), (np.int16, (None, 2))])
def test_a_record_that_is_not_int16_and_mono_is_refused(parts, tmp_path, dtype, shape):
  features = {
    "id": tfds.features.Text(),
    "waveform": tfds.features.Tensor(shape=shape, dtype=dtype),
  }
  record = {"id": "a", "waveform": np.ones((9600, *shape[1:]), dtype)}
  data = write_records(tmp_path / "data", {"train": [record, record]}, features)
  job = extract.Job(data, str(tmp_path), (acoustic(parts),), RATE, 2, 1, "", ())
  with pytest.raises(ValueError, match=f"record a: wanted int16 .*, found {dtype.__name__} .9600"):
    extract.extract_shard(job, "train", 0)


def test_another_frame_rate_than_the_declared_is_refused(parts):
  encoder = features.Encoder(acoustic(parts, frame_rate=40.0), RATE)
  message = "source acoustic: 40.0 Hz would give 40 frames, .*soundstream gave 50"
  with pytest.raises(ValueError, match=message):
    encoder(np.zeros((1, RATE), np.float32))


def test_a_quantizer_of_another_encoder_is_refused(parts):
  message = "source mulan: quantizer .*other_rvq was trained on .* feedfeedfeed, not of .*mulan"
  with pytest.raises(ValueError, match=message):
    features.Encoder(joint(parts, quantizer=parts["other_rvq"]), RATE)


def words(parts, text_model, **changes):
  fields = dict(name="mulan_text", encoder=parts["mulan"], text_model=text_model, text_length=16)
  return features.TextFeature(**(fields | changes))


def test_captions_are_embedded_beside_the_audio(parts, audio, tmp_path):
  manifest = run(parts, audio, tmp_path, sources=(joint(parts), words(parts, "")))
  entry = manifest["sources"]["mulan_text"]
  assert entry == {"width": 6, "encoder": manifest["sources"]["mulan"]["encoder"]}
  clips = Records(audio, "train").rows(("id", "caption"), 7)
  captions = {clip["id"]: clip["caption"].decode() for clip in clips}
  found = list(Records(str(tmp_path), "train").rows(("id", "mulan_text"), 7))
  rows = Tokenizer("").rows([captions[row["id"]] for row in found], 16)
  wanted = frozen.load(parts["mulan"])("embed_text", rows)
  np.testing.assert_allclose([row["mulan_text"][0] for row in found], wanted, atol=1e-6)


def test_each_of_several_captions_is_embedded(parts):
  clips = [{"captions": [b"slow", b"a fast march"]}, {"caption": b"slow", "captions": []}]
  found = words(parts, "").open(RATE).encode(clips, 4)
  assert [each.shape for each in found] == [(2, 6), (1, 6)]
  np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)


def test_another_text_model_than_that_of_the_training_is_refused(parts, tmp_path):
  captions.train_text_model(["a slow flute plays"] * 3, tmp_path / "text.model", 300)
  with pytest.raises(ValueError, match="mulan was trained with text model bytes, found .*text.mod"):
    words(parts, str(tmp_path / "text.model")).open(RATE)


def test_a_quantizer_makes_codes_of_embeddings(parts):
  source = joint(parts, quantizer=parts["mulan_rvq"])
  encoder = features.Encoder(source, RATE)
  waveforms = small_world.tone(0)["waveform"][None].astype(np.float32) / 32768
  codes = encoder(waveforms)
  assert codes.dtype == np.uint16 and codes.max() < small_world.CODES
  embeddings = features.Encoder(joint(parts), RATE)(waveforms)
  wanted = frozen.load(parts["mulan_rvq"])("encode", embeddings)
  np.testing.assert_array_equal(codes, wanted)
  entry = encoder.describe(codes[0])
  assert (entry["width"], entry["codebook_size"]) == (2, small_world.CODES)
  assert entry["quantizer"] == frozen.load(parts["mulan_rvq"]).fingerprint


def test_shards_hold_each_clip_once_as_the_encoders_give_it(parts, audio, shards):
  clips = tfds.builder_from_directory(audio).as_data_source("train")
  clips = {clip["id"]: clip["waveform"].astype(np.float32) / 32768 for clip in clips}
  rows = list(tfds.builder_from_directory(str(shards)).as_data_source("train"))
  assert sorted(row["id"] for row in rows) == sorted(clips)
  encoders = [features.Encoder(source(parts), RATE) for source in (acoustic, joint)]
  for row in rows:
    for encoder in encoders:
      alone = encoder(clips[row["id"]][None])[0]  # whatever else was in its batch
      np.testing.assert_allclose(row[encoder.source.name], alone, rtol=1e-4, atol=1e-5)


def test_the_manifest_says_what_the_shards_hold(parts, shards):
  manifest = json.loads((shards / "manifest.json").read_text())
  assert manifest["records"] == {"train": 7, "test": 2} and manifest["sample_rate"] == RATE
  entry = manifest["sources"]["acoustic"]
  assert (entry["width"], entry["frame_rate"]) == (3, 50.0)
  assert entry["encoder"] == frozen.load(parts["soundstream"]).fingerprint


def test_fewer_clips_than_shards_leave_an_empty_one_that_reads(shards):
  records = Records(str(shards), "test")
  assert len(records) == 2 and len(records.paths) == 3
  assert all(records.column("id"))


def files(directory):
  return {path.name: path.stat().st_mtime_ns for path in directory.glob("*.array_record*")}


def test_the_second_run_touches_nothing(parts, audio, shards, capsys):
  before = files(shards)
  manifest = run(parts, audio, shards)
  assert files(shards) == before and "already extracted" in capsys.readouterr().err
  assert manifest == json.loads((shards / "manifest.json").read_text())


def test_a_killed_extraction_continues_with_the_missing_shards(
  parts, audio, shards, tmp_path, monkeypatch
):
  class Killed(extract.ArrayRecordWriter):
    """Dies at the second record of the second shard."""

    written = 0

    def write(self, record):
      Killed.written += 1
      if Killed.written == 5:
        raise KeyboardInterrupt
      return super().write(record)

  sources = (acoustic(parts), joint(parts))
  job = extract.Job(audio, str(tmp_path), sources, RATE, 4, 3, "", ())
  with monkeypatch.context() as patch:
    patch.setattr(extract, "ArrayRecordWriter", Killed)
    assert extract.extract_shard(job, "train", 0) == ("train", 0, 3)
    with pytest.raises(KeyboardInterrupt):
      extract.extract_shard(job, "train", 1)
  assert not job.shard_path("train", 1).exists()
  with pytest.raises(ValueError, match="no data set here"):
    Records(str(tmp_path), "train")
  before = files(tmp_path)
  run(parts, audio, tmp_path)
  after = files(tmp_path)
  done = job.shard_path("train", 0).name
  assert after[done] == before[done] and len(Records(str(tmp_path), "train")) == 7
  for name in after:
    assert (tmp_path / name).read_bytes() == (shards / name).read_bytes()


def test_shards_of_other_tokenizers_are_refused(parts, audio, shards):
  message = "holds shards of other tokenizers or audio .* choose another directory"
  with pytest.raises(ValueError, match=message):
    run(parts, audio, shards, sources=(acoustic(parts),))


def test_shards_of_other_audio_in_the_same_place_are_refused(parts, tmp_path):
  clips = [small_world.tone(i) for i in range(4)]
  settings = dict(splits=("train",), sources=(acoustic(parts),))
  for count in (3, 4):
    splits = {"train": clips[:count]}
    audio = write_records(tmp_path / "audio", splits, small_world.CLIP_FEATURES)
    if count == 3:
      run(parts, audio, tmp_path / "shards", **settings)
  with pytest.raises(ValueError, match="holds shards of other tokenizers or audio"):
    run(parts, audio, tmp_path / "shards", **settings)


def test_audio_that_is_not_there_is_named(parts, tmp_path):
  with pytest.raises(FileNotFoundError, match="/nowhere/dataset_info.json"):
    run(parts, "/nowhere", tmp_path)


@pytest.mark.parametrize("harm", ["truncated", "removed"])
def test_a_shard_that_went_bad_is_refused_by_name_and_made_again(parts, audio, tmp_path, harm):
  run(parts, audio, tmp_path)
  path = tmp_path / "tokens-train.array_record-00001-of-00003"
  content = path.read_bytes()
  if harm == "truncated":
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{path}: corrupt shard"):
      Records(str(tmp_path), "train")
  path.unlink()
  with pytest.raises(ValueError, match=f"{path}: shard is missing"):
    Records(str(tmp_path), "train")
  run(parts, audio, tmp_path)
  assert path.read_bytes() == content and len(Records(str(tmp_path), "train")) == 7


def test_labels_of_the_records_reach_a_stage_through_shards_and_arrays(parts, audio, tmp_path):
  """A stage reads codes and a text of the record; the same of either loader."""
  run(parts, audio, tmp_path / "shards", splits=("train",), labels=("caption",))
  arrays.convert(data_dir=str(tmp_path / "shards"), output_dir=str(tmp_path / "arrays"))
  captions = sorted(
    {row["caption"].decode() for row in Records(audio, "train").rows(("caption",), 9)}
  )
  label = sources.Label("caption", tuple(captions))
  words = Stream("words", "words", 0.0, 0, 1, len(captions) + 1, label)
  acoustic = Stream("acoustic", "acoustic", 50.0, 0, 3, small_world.CODES)
  stage = Stage("labelled", (words,), acoustic, 0.4)
  found = []
  for directory in ("shards", "arrays"):
    data = input_pipeline.Dataset(
      directory=str(tmp_path / directory),
      split="train",
      examples=token_examples.Tokens(stage, Vocabulary((words, acoustic))),
      order=orders.sequential,
      batch_size=7,
      seed=0,
      parts={},
    )
    found.append(next(data.batches(0)))
  for name, value in found[0].items():
    np.testing.assert_array_equal(found[1][name], value)
  codes = found[0]["decoder_target_tokens"][:, 0] - Vocabulary((words, acoustic)).first_id(words)
  order = [
    r["caption"].decode() for r in Records(str(tmp_path / "shards"), "train").rows(("caption",), 7)
  ]
  assert [captions[code - 1] for code in codes] == order
  with pytest.raises(ValueError, match="no label 'tempo'; the records have .*caption"):
    run(parts, audio, tmp_path / "other", labels=("tempo",))
