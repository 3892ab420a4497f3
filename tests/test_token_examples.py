"""Examples of token shards and of audio: the worked example, crops at one instant, padding."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from musiclm_jax import main, part_files
from musiclm_jax.datasets import arrays
from musiclm_jax.datasets.captions import train_text_model
from musiclm_jax.sources import MeanQuantized
from musiclm_jax.text import Tokenizer
from musiclm_jax.tokenizers.quantizer import EmbeddingQuantizer, ResidualQuantizer, quantize
from musiclm_jax.tokens import Stage, Stream, Vocabulary, unflatten
from musiclm_jax.training import audio_examples, input_pipeline, orders, token_examples
from tests.records import AUDIO_FEATURES, audio_row, write_records

MULAN = Stream("mulan", "mulan", 0.0, 0, 2, 8, MeanQuantized("mulan_rvq"))
SEMANTIC = Stream("semantic", "semantic", 25.0, 0, 1, 512)
COARSE = Stream("coarse", "acoustic", 50.0, 0, 2, 1024)
FINE = Stream("fine", "acoustic", 50.0, 2, 1, 1024)
VOCABULARY = Vocabulary((MULAN, SEMANTIC, COARSE, FINE))
FEATURES = {
  "id": tfds.features.Text(),
  "acoustic": tfds.features.Tensor(shape=(None, 3), dtype=np.uint16),
  "semantic": tfds.features.Tensor(shape=(None, 1), dtype=np.uint16),
  "mulan": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
}


def token_row(index, seconds):
  """Codes that say their own frame: semantic s = frame, acoustic level q = frame + 300 q."""
  frames = np.arange(round(50 * seconds))[:, None]
  embeddings = np.random.default_rng(index).standard_normal((max(1, int(seconds)), 4))
  return {
    "id": f"clip{index}",
    "acoustic": (frames + 300 * np.arange(3)).astype(np.uint16),
    "semantic": np.arange(round(25 * seconds))[:, None].astype(np.uint16),
    "mulan": (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32),
  }


@pytest.fixture(scope="module")
def quantizer(tmp_path_factory):
  directory = str(tmp_path_factory.mktemp("mulan_rvq"))
  module = EmbeddingQuantizer(
    ResidualQuantizer(2, 8, 4, 0.9, 1.0, None, 5, False), standardise=False
  )
  batch = {"embeddings": np.random.default_rng(0).standard_normal((4, 8, 4)).astype(np.float32)}
  variables = module.init(jax.random.key(0), batch, train=False)
  _, updates = module.apply(
    variables,
    batch,
    train=True,
    rngs={"dropout": jax.random.key(1)},
    mutable=list(variables),
  )
  part_files.describe_run(directory, module, {"sources": {}, "parts": {}})
  part_files.write_weights(directory, {**variables, **updates})
  return directory


MANIFEST = {
  "acoustic": {"encoder": "c0dec", "frame_rate": 50.0, "width": 3, "codebook_size": 1024},
  "semantic": {"encoder": "w2v", "frame_rate": 25.0, "width": 1, "codebook_size": 512},
  "mulan": {"encoder": "joint", "width": 4, "window_seconds": 2.0, "hop_seconds": 1.0},
}


def data(directory, examples, features, rows, batch_size=8, parts=None):
  write_records(directory, {"train": rows}, features)
  if features is FEATURES:
    (pathlib.Path(directory) / "manifest.json").write_text(json.dumps({"sources": MANIFEST}))
  return input_pipeline.Dataset(
    directory=str(directory),
    split="train",
    examples=examples,
    order=orders.shuffled,
    batch_size=batch_size,
    seed=0,
    parts=parts or {},
  )


def batches(directory, examples, features, rows):
  return data(directory, examples, features, rows).batches(0)


def token_batch(directory, stage, rows=None, **parts):
  examples = token_examples.Tokens(stage=stage, vocabulary=VOCABULARY)
  rows = rows or [token_row(i, 4.0) for i in range(8)]
  return next(data(directory, examples, FEATURES, rows, parts=parts).batches(0))


def test_the_worked_example(tmp_path):
  stage = Stage("coarse", (SEMANTIC,), COARSE, 0.04)  # 1 condition token, 2 frames of 2 levels
  batch = token_batch(tmp_path, stage)
  semantic = batch["decoder_target_tokens"][:, 0] - VOCABULARY.offsets(SEMANTIC)[0]
  first = 2 * semantic  # the acoustic frame of the same instant
  offsets = VOCABULARY.offsets(COARSE)
  wanted = np.stack(
    [
      semantic + VOCABULARY.offsets(SEMANTIC)[0],
      first + offsets[0],
      first + 300 + offsets[1],
      first + 1 + offsets[0],
      first + 301 + offsets[1],
    ],
    axis=1,
  )
  np.testing.assert_array_equal(batch["decoder_target_tokens"], wanted)
  np.testing.assert_array_equal(
    batch["decoder_input_tokens"], np.pad(wanted, ((0, 0), (1, 0)))[:, :-1]
  )
  np.testing.assert_array_equal(batch["decoder_loss_weights"], [[0, 1, 1, 1, 1]] * 8)
  assert len(set(semantic)) > 3  # crops from different places


def test_streams_are_cropped_at_one_instant(tmp_path):
  stage = Stage("coarse", (SEMANTIC,), COARSE, 1.0)
  batch = token_batch(tmp_path, stage)
  tokens = batch["decoder_target_tokens"]
  semantic = tokens[:, :25] - VOCABULARY.offsets(SEMANTIC)[0]
  acoustic = unflatten(tokens[:, 25:], VOCABULARY.offsets(COARSE))
  np.testing.assert_array_equal(np.diff(semantic, axis=1), 1)
  np.testing.assert_array_equal(acoustic[:, :, 0], 2 * semantic[:, :1] + np.arange(50))
  np.testing.assert_array_equal(acoustic[:, :, 1], acoustic[:, :, 0] + 300)


def test_fine_takes_the_upper_levels(tmp_path):
  batch = token_batch(tmp_path, Stage("fine", (COARSE,), FINE, 0.5))
  tokens = batch["decoder_target_tokens"]
  coarse = unflatten(tokens[:, :50], VOCABULARY.offsets(COARSE))
  fine = unflatten(tokens[:, 50:], VOCABULARY.offsets(FINE))
  np.testing.assert_array_equal(fine[:, :, 0], coarse[:, :, 0] + 600)


def test_a_stage_trains_on_a_mixture_too(tmp_path):
  examples = token_examples.Tokens(Stage("semantic", (), SEMANTIC, 2.0), VOCABULARY)
  settings = dict(examples=examples, features=FEATURES, batch_size=6)
  long = data(tmp_path / "long", rows=[token_row(i, 4.0) for i in range(8)], **settings)
  short = data(tmp_path / "short", rows=[token_row(i, 1.0) for i in range(8)], **settings)
  made = input_pipeline.Mixture(datasets=(long, short), rates=(2, 1), seed=0).batches(3)
  batch = next(made)
  assert sorted(batch) == ["decoder_input_tokens", "decoder_loss_weights", "decoder_target_tokens"]
  assert {x.shape for x in batch.values()} == {(6, 50)}
  assert sorted(batch["decoder_loss_weights"].sum(axis=1)) == [25, 25, 50, 50, 50, 50]


def test_a_short_clip_is_followed_by_nulls_and_by_targets_without_loss(tmp_path):
  stage = Stage("coarse", (SEMANTIC,), COARSE, 2.0)
  batch = token_batch(tmp_path, stage, rows=[token_row(i, 1.2) for i in range(8)])
  tokens, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
  assert tokens.shape == (8, 50 + 200)
  assert (tokens[:, 30:50] == VOCABULARY.null(SEMANTIC)).all()
  assert (tokens[:, 50 + 120 :] == 0).all()
  np.testing.assert_array_equal(weights.sum(axis=1), [120] * 8)
  assert (weights[:, 50:170] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"num_quantizers": 3}, {"codebook_size": 4}])
def test_a_stream_of_other_mulan_codes_is_refused(quantizer, changes):
  stream = dataclasses.replace(MULAN, **changes)
  with pytest.raises(ValueError, match="mulan_rvq.*has 2 levels of 8 codes, stream mulan wants"):
    stream.made.open(stream, MANIFEST, {"mulan_rvq": quantizer})


@pytest.mark.slow
def test_mulan_windows_are_averaged_over_the_crop_and_quantised(tmp_path, quantizer):
  stage = Stage("semantic", (MULAN,), SEMANTIC, 4.0)  # windows at 0, 1 and 2 s lie inside
  rows = [token_row(i, 4.0) for i in range(8)]
  batch = token_batch(tmp_path, stage, rows, mulan_rvq=quantizer)
  found = unflatten(batch["decoder_target_tokens"][:, :2], VOCABULARY.offsets(MULAN))[:, 0]
  means = np.stack([row["mulan"][:3].mean(axis=0) for row in rows])
  means /= np.linalg.norm(means, axis=1, keepdims=True)
  codebooks = part_files.read_weights(quantizer)["codebooks"]["quantizer"]["vectors"]
  wanted, _ = quantize(means.astype(np.float32), codebooks)
  assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, wanted.tolist()))


def text_makers(quantizer, **changes):
  """make(record, rng) of a source, and the codes of any vectors, both as lists of codes."""
  source = dataclasses.replace(MeanQuantized("mulan_rvq", "mulan_text"), **changes)
  stream = dataclasses.replace(MULAN, made=source)
  entries = MANIFEST | {"mulan_text": {"encoder": "joint", "width": 4}}
  source.check(stream, entries)
  made = source.open(stream, entries, {"mulan_rvq": quantizer})
  codebooks = part_files.read_weights(quantizer)["codebooks"]["quantizer"]["vectors"]

  def codes(vectors):
    return [tuple(each) for each in quantize(np.asarray(vectors, np.float32), codebooks)[0]]

  return lambda record, rng: tuple(made(record, 0.0, 4.0, rng)[0]), codes


@pytest.mark.slow
def test_a_share_of_the_examples_has_the_codes_of_a_text(quantizer):
  record = token_row(0, 4.0)
  record["mulan_text"] = -record["mulan"][1:3]
  make, codes = text_makers(quantizer, text_share=0.25)
  texts, mean = codes(record["mulan_text"]), make(record, None)
  assert mean not in texts and len(set(texts)) == 2
  drawn = [make(record, np.random.default_rng(i)) for i in range(400)]
  assert set(drawn) == {mean, *texts}
  assert 60 < sum(each in texts for each in drawn) < 140
  assert drawn[:9] == [make(record, np.random.default_rng(i)) for i in range(9)]


@pytest.mark.slow
def test_a_source_of_texts_has_the_first_where_nothing_is_random(quantizer):
  record = token_row(0, 4.0)
  record["mulan_text"] = -record["mulan"][1:3]
  source = MeanQuantized("mulan_rvq", "mulan_text").of_text()
  make, codes = text_makers(quantizer, text_share=source.text_share)
  assert make(record, None) == codes(record["mulan_text"])[0]
  assert {make(record, np.random.default_rng(i)) for i in range(20)} == set(
    codes(record["mulan_text"])
  )


@pytest.mark.slow
def test_noise_moves_the_codes_in_training_alone(quantizer):
  record = token_row(0, 4.0)
  still, _ = text_makers(quantizer)
  shares = []
  for noise in (0.0, 0.3, 3.0):
    make, _ = text_makers(quantizer, noise=noise)
    assert make(record, None) == still(record, None)
    drawn = [make(record, np.random.default_rng(i)) for i in range(200)]
    shares.append(sum(each == still(record, None) for each in drawn) / 200)
  assert shares[0] == 1 and 1 > shares[1] > shares[2]


def test_texts_of_another_encoder_and_a_share_of_none_are_refused():
  source = MeanQuantized("mulan_rvq", "mulan_text", text_share=0.5)
  entries = MANIFEST | {"mulan_text": {"encoder": "other", "width": 4}}
  with pytest.raises(ValueError, match="mulan_text is of another encoder than mulan"):
    source.check(MULAN, entries)
  with pytest.raises(ValueError, match="text_share: 0.5 of the codes want embeddings `text`"):
    MeanQuantized("mulan_rvq", text_share=0.5)


@pytest.mark.slow
def test_arrays_give_the_examples_of_the_shards(tmp_path, quantizer):
  """Without TensorFlow: the same batches in the same order, for whichever rows a host reads."""
  stage = Stage("coarse", (MULAN, SEMANTIC), COARSE, 1.0)
  examples = token_examples.Tokens(stage, VOCABULARY)
  rows = [token_row(i, 2.0 + i / 5) for i in range(9)]
  parts = {"mulan_rvq": quantizer}
  shards = data(tmp_path / "shards", examples, FEATURES, rows, parts=parts)
  assert arrays.convert(data_dir=str(tmp_path / "shards"), output_dir=str(tmp_path / "arrays")) == {
    "train": 9
  }
  read = input_pipeline.Dataset(
    directory=str(tmp_path / "arrays"),
    split="train",
    examples=examples,
    order=orders.shuffled,
    batch_size=8,
    seed=0,
    parts=parts,
  )
  assert read.provenance == shards.provenance
  for chosen in (None, np.array([1, 6])):
    pairs = zip(shards.batches(3, chosen), read.batches(3, chosen), range(4))
    for wanted, found, _ in pairs:
      assert sorted(wanted) == sorted(found)
      for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("text", ["caption", "aspect_list", None])
def test_arrays_give_the_examples_of_audio_records(tmp_path, text):
  examples = captioned("", text=text) if text else audio_examples.Waveforms(1.0, 16)
  rows = [audio_row(i, 40 + i) | ({"aspect_list": []} if i == 5 else {}) for i in range(9)]
  records = data(tmp_path / "records", examples, AUDIO_FEATURES, rows)
  folder = str(tmp_path / "arrays")
  assert arrays.convert(data_dir=str(tmp_path / "records"), output_dir=folder) == {"train": 9}
  settings = dict(split="train", order=orders.shuffled, batch_size=8, seed=0, parts={})
  read = input_pipeline.Dataset(directory=folder, examples=examples, **settings)
  for wanted, found, _ in zip(records.batches(3), read.batches(3), range(4)):
    assert sorted(wanted) == sorted(found)
    for name, value in wanted.items():
      np.testing.assert_array_equal(found[name], value)


def test_arrays_are_made_by_a_command_and_refused_by_name_where_not_whole(tmp_path):
  rows = [token_row(i, 2.0) for i in range(4)]
  examples = token_examples.Tokens(Stage("semantic", (), SEMANTIC, 1.0), VOCABULARY)
  data(tmp_path / "shards", examples, FEATURES, rows)
  settings = dict(data_dir=str(tmp_path / "shards"), output_dir=str(tmp_path / "arrays"))
  flags = [f"--{name}={value}" for name, value in settings.items()]
  assert main.main(["extract", "data/arrays", *flags]) == 0
  arrays.convert(**settings)  # again, instead of the first
  with pytest.raises(ValueError, match="arrays: no split 'test'; it has train"):
    arrays.Arrays(settings["output_dir"], "test")
  path = tmp_path / "arrays" / "train" / "semantic.npy"
  path.write_bytes(path.read_bytes()[:150])
  with pytest.raises(ValueError, match="semantic.npy: not a whole array"):
    arrays.Arrays(settings["output_dir"], "train")
  path.unlink()
  with pytest.raises(ValueError, match="semantic.npy: is missing"):
    arrays.Arrays(settings["output_dir"], "train")
  with pytest.raises(ValueError, match="exists and holds no arrays"):
    arrays.convert(**settings | {"output_dir": str(tmp_path / "shards")})


def captioned(text_model, **changes):
  fields = dict(crop_seconds=1.0, sample_rate=16, text_length=20, vocab_size=300, text="caption")
  return audio_examples.Captioned(text_model=str(text_model), **fields | changes)


def texts_of(made, texts, tokenizer):
  """Which of the texts 48 examples have."""
  known = {tuple(row): t for t in texts for row in tokenizer.rows([t], 20)}
  return [known[tuple(ids)] for _ in range(6) for ids in next(made)["text"]]


def test_captions_become_rows_of_the_text_model(tmp_path):
  model = tmp_path / "text.model"
  train_text_model(
    ["a slow flute", "a caption of clip 1 2 3 4 5 6 7 0", "slow", "flute"], model, 300
  )
  rows = [audio_row(i, 48) for i in range(8)]
  made = batches(tmp_path / "data", captioned(model), AUDIO_FEATURES, rows)
  texts = {row["caption"] for row in rows}
  assert set(texts_of(made, texts, Tokenizer(str(model)))) == texts


def test_one_of_several_captions_is_drawn(tmp_path):
  features = AUDIO_FEATURES | {"captions": tfds.features.Sequence(tfds.features.Text())}
  several = ["slow", "a slow flute", "flute"]
  rows = [audio_row(i, 48) | {"captions": several if i else []} for i in range(8)]
  made = batches(tmp_path / "data", captioned(""), features, rows)
  found = texts_of(made, [*several, rows[0]["caption"]], Tokenizer(""))
  assert set(found) == {*several, rows[0]["caption"]}
  assert found.count(rows[0]["caption"]) == 6  # once in each of 6 passes


def test_aspects_are_some_of_the_list_in_any_order(tmp_path):
  rows = [audio_row(i, 48) for i in range(8)]
  examples = captioned("", text="aspect_list")
  made = batches(tmp_path / "data", examples, AUDIO_FEATURES, rows)
  texts = {"slow", "flute", "slow, flute", "flute, slow"}
  assert set(texts_of(made, texts, Tokenizer(""))) == texts


def test_a_record_without_aspects_has_its_caption_and_that_is_said(tmp_path, capsys):
  rows = [audio_row(i, 48) | ({"aspect_list": []} if i < 3 else {}) for i in range(8)]
  examples = captioned("", text="aspect_list", text_length=24)
  made = batches(tmp_path / "data", examples, AUDIO_FEATURES, rows)
  captions = {tuple(row) for row in Tokenizer("").rows([r["caption"] for r in rows[:3]], 24)}
  assert captions < {tuple(ids) for ids in next(made)["text"]}
  said = "3 of 8 records of train have no aspect_list; their captions are read\n"
  assert capsys.readouterr().err == f"{tmp_path}/data: {said}"


def test_what_is_no_text_of_a_record_is_refused():
  with pytest.raises(ValueError, match="text: wanted caption or aspect_list, got 'title'"):
    captioned("", text="title")


def test_a_text_model_larger_than_the_table_is_refused():
  with pytest.raises(ValueError, match="bytes: has 258 pieces, the text tower 100 rows"):
    captioned("", vocab_size=100).open(records=None, parts={}, seed=0)


@pytest.mark.parametrize("text", ["caption", "aspect_list"])
def test_records_without_captions_are_refused(tmp_path, text):
  rows = [audio_row(i, 48) | {"caption": "", "aspect_list": []} for i in range(8)]
  with pytest.raises(ValueError, match="data: records of train have no captions to train on"):
    batches(tmp_path / "data", captioned("", text=text), AUDIO_FEATURES, rows)


def test_texts_that_are_cut_are_counted_once(tmp_path, capsys):
  rows = [audio_row(i, 48) for i in range(12)]  # "a caption of clip 10" and 11 are longer
  made = batches(tmp_path / "data", captioned("", text_length=21), AUDIO_FEATURES, rows)
  assert next(made)["text"].shape == (8, 21) and capsys.readouterr().err == ""
  next(batches(tmp_path / "data", captioned("", text_length=20), AUDIO_FEATURES, rows))
  said = "2 of 12 captions of train are longer than TEXT_LENGTH=20 tokens and are cut\n"
  assert capsys.readouterr().err == f"{tmp_path}/data: {said}"
  examples = captioned("", text_length=11, text="aspect_list")  # "slow, flute" is one longer
  batches(tmp_path / "data", examples, AUDIO_FEATURES, rows)
  assert "12 of 12 aspect lists of train are longer than TEXT_LENGTH=11" in capsys.readouterr().err


def test_embeddings_are_random_rows_or_all_of_them_and_padding(tmp_path):
  rows = [token_row(i, 4.0) for i in range(8)]
  some = token_examples.Embeddings(("mulan",), 2, 4)
  batch = next(batches(tmp_path / "a", some, FEATURES, rows))
  assert batch["embeddings"].shape == (8, 2, 4) and (batch["weights"] == 1).all()
  known = np.concatenate([row["mulan"] for row in rows])
  distances = np.abs(batch["embeddings"].reshape(-1, 1, 4) - known).max(axis=-1).min(axis=1)
  np.testing.assert_allclose(distances, 0, atol=1e-6)
  every = token_examples.Embeddings(("mulan",), 6, 4)
  batch = next(batches(tmp_path / "b", every, FEATURES, rows))
  np.testing.assert_array_equal(batch["weights"], [[1, 1, 1, 1, 0, 0]] * 8)


def test_embeddings_of_two_names_come_from_each_alike(tmp_path):
  features = FEATURES | {"mulan_text": FEATURES["mulan"]}
  rows = [token_row(i, 4.0) for i in range(8)]
  rows = [row | {"mulan_text": -row["mulan"][:1]} for row in rows]
  directory = write_records(tmp_path, {"train": rows}, features)
  entries = MANIFEST | {"mulan_text": {"encoder": "joint", "width": 4}}
  (tmp_path / "manifest.json").write_text(json.dumps({"sources": entries}))
  dataset = input_pipeline.Dataset(
    directory=directory,
    split="train",
    examples=token_examples.Embeddings(("mulan", "mulan_text"), 2, 4),
    order=orders.shuffled,
    batch_size=8,
    seed=0,
    parts={},
  )
  assert sorted(dataset.provenance["sources"]) == ["mulan", "mulan_text"]
  batch = next(dataset.batches(0))
  assert batch["embeddings"].shape == (8, 4, 4)
  np.testing.assert_array_equal(batch["weights"], [[1, 1, 1, 0]] * 8)
  known = np.stack([row["mulan_text"][0] for row in rows])
  np.testing.assert_allclose(
    np.sort(batch["embeddings"][:, 2], axis=0), np.sort(known, axis=0), atol=1e-6
  )


def test_melodies_have_one_label_for_all_renditions(tmp_path):
  rows = [audio_row(i, 48, melody=f"tune{i // 2}") for i in range(8)]
  examples = audio_examples.Melodies(crop_seconds=2.0, sample_rate=16)
  batch = next(batches(tmp_path, examples, AUDIO_FEATURES, rows))
  assert batch["waveform"].shape == (8, 32)
  assert len(set(batch["melody"])) == 4
