"""The whole evaluation on a small corpus of tones and models with random weights."""

import dataclasses
import json
import math
import pathlib
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from musiclm_jax import checkpointing
from musiclm_jax.datasets import captions
from musiclm_jax.evaluation import encoders, generated, held_out, report, retrieval, stages
from musiclm_jax.evaluation.evaluate import evaluate
from musiclm_jax.export import bundle
from musiclm_jax.lm.generation import Sampling
from musiclm_jax.lm.token_lm import TokenLM
from musiclm_jax.tokenizers import (
  conformer,
  convolutions,
  discriminators,
  melody,
  mulan,
  soundstream,
  w2v_bert,
)
from musiclm_jax.tokenizers import quantizer as quantizers
from musiclm_jax.tokens import Stage, Stream, Vocabulary, flatten
from musiclm_jax.transformer import Transformer

pytestmark = pytest.mark.slow

RATE, SECONDS, CODES = 24000, 2.0, 8
STREAMS = {
  "mulan": Stream("mulan", "mulan", 0.0, 0, 2, CODES),
  "semantic": Stream("semantic", "semantic", 25.0, 0, 1, CODES),
  "coarse": Stream("coarse", "acoustic", 50.0, 0, 2, CODES),
  "fine": Stream("fine", "acoustic", 50.0, 2, 1, CODES),
}
STAGES = (
  Stage("semantic", (STREAMS["mulan"],), STREAMS["semantic"], 0.4),
  Stage("coarse", (STREAMS["mulan"], STREAMS["semantic"]), STREAMS["coarse"], 0.4),
  Stage("fine", (STREAMS["coarse"],), STREAMS["fine"], 0.4),
)


def transformer(**fields):
  shape = dict(num_layers=1, num_heads=2, head_dim=4, embed_dim=8, mlp_dim=8, dropout_rate=0.0)
  rest = dict(num_buckets=8, max_distance=32, query_block=32, remat="none", unroll=True)
  return Transformer(**shape, **rest, dtype="float32", **fields)


def residual(levels: int, dim: int):
  return quantizers.ResidualQuantizer(levels, CODES, dim, 0.9, 0.1, 2, False)


def codec():
  convolution = dict(channels=4, strides=(4, 3), kernel=3, dilations=(1,), patch=40)
  return soundstream.SoundStream(
    sample_rate=RATE,
    encoder=convolutions.Encoder(**convolution, dim=6, dtype="float32"),
    quantizer=residual(3, 6),
    decoder=convolutions.Decoder(**convolution, dtype="float32"),
    discriminators=discriminators.Discriminators(
      stft=discriminators.StftDiscriminator(256, 64, 2, (1, 2), "float32"),
      wave=discriminators.WaveDiscriminator(2, 4, 2, (4,), "float32"),
      scales=(1,),
    ),
    reconstruction_weight=1.0,
    adversarial_weight=1.0,
    feature_weight=1.0,
    commitment_weight=1.0,
    adversarial_samples=2400,
    unquantized=0.0,
  )


def self_supervised():
  layers = dict(num_layers=1, num_heads=2, head_dim=4, mlp_dim=8, kernel_size=3)
  rest = dict(dropout_rate=0.0, num_buckets=8, max_distance=32, remat=False, unroll=True)
  stack = conformer.Conformer(**layers, **rest, dtype="float32")
  return w2v_bert.W2vBert(
    front_end=w2v_bert.FrontEnd(RATE, 600, 240, 16, 2, 8, "float32"),
    contrastive=stack,
    masked=stack.clone(),
    codebook=w2v_bert.Codebook(CODES, 4, 1.0),
    start_rate=0.1,
    span=5,
    num_distractors=10,
    temperature=0.1,
    diversity_weight=0.1,
  )


def joint():
  return mulan.MuLan(
    log_mel=mulan.LogMel(RATE, 1200, 600, 16, 30.0, 11000.0),
    augment=mulan.SpecAugment(0, 1, 0, 1),
    audio_tower=mulan.ResNet((1,), 4, 1, "float32"),
    text_tower=mulan.TextTower(1000, transformer(causal=False)),
    embed_dim=6,
    initial_temperature=0.1,
    min_temperature=0.02,
  )


def melodies():
  return melody.MelodyEncoder(
    log_pitch=melody.LogPitch(RATE, 2048, 960, 24, 12, 220.0),
    tower=mulan.SpectrogramTransformer(4, 24, transformer(causal=False)),
    embed_dim=6,
    margin=0.2,
    max_shift=0,
  )


def write_part(directory: pathlib.Path, module, batch: dict, provenance: dict) -> str:
  """A finished part with random weights and codebooks; its fingerprint."""
  shapes = jax.eval_shape(lambda: nn.unbox(module.init(jax.random.key(0), batch, train=False)))
  draw = np.random.default_rng(0).normal
  variables = jax.tree.map(lambda x: (0.3 * draw(size=x.shape)).astype(x.dtype), dict(shapes))
  checkpointing.describe_run(directory, module, provenance)
  checkpointing.write_weights(directory, variables)
  lines = [dict(step=s, split="train", loss=3.0 / s, chance=3.0) for s in (1, 2, 3)]
  lines.append(dict(step=3, split="eval", loss=1.5, chance=3.0))
  (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  return checkpointing.fingerprint(directory)


def write_records(directory: pathlib.Path, name: str, features, splits: dict[str, list]) -> None:
  """A TFDS directory."""
  directory.mkdir(parents=True)
  infos = []
  for split, rows in splits.items():
    path = directory / f"{name}-{split}.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
      writer.write(features.serialize_example(row))
    writer.close()
    template = tfds.core.ShardedFileTemplate(
      dataset_name=name, split=split, data_dir=directory, filetype_suffix="array_record"
    )
    infos.append(
      tfds.core.SplitInfo(
        name=split, shard_lengths=[len(rows)], num_bytes=0, filename_template=template
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=directory, features=features, split_infos=infos, check_data=False
  )


def tone(index: int) -> dict:
  """A clip of the corpus: notes of two families, three works, three tempi."""
  rng = np.random.default_rng(index)
  bpm = (60.0, 100.0, 150.0)[index % 3]
  time = np.arange(round(SECONDS * RATE)) / RATE
  pitch = 60 + np.floor(time * bpm / 60).astype(int) % 5 + index % 4
  waveform = 0.3 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time)
  waveform *= np.exp(-4 * ((time * bpm / 60) % 1))
  if index % 2:
    waveform += 0.02 * rng.normal(size=time.shape)
  starts = np.arange(0, SECONDS, 60 / bpm)
  onsets = np.stack([starts, 60 + np.arange(len(starts)) % 5 + index % 4], axis=1)
  family = ("brass", "keyboard")[index % 2]
  word = {60.0: "slow", 100.0: "moderate", 150.0: "fast"}[bpm]
  return {
    "id": f"clip-{index}",
    "waveform": (waveform * 20000).astype(np.int16),
    "caption": f"A {word} march number {index} played by a {family} instrument.",
    "work": f"work {index // 4}",
    "melody": f"melody {index // 2}",
    "bpm": np.float32(bpm),
    "key": "C major",
    "instruments": [family],
    "onsets": onsets.astype(np.float32),
    "tempo_word": word,
    "family": family,
  }


CLIP_FEATURES = tfds.features.FeaturesDict(
  {
    name: tfds.features.Text()
    for name in ("id", "caption", "work", "melody", "key", "tempo_word", "family")
  }
  | {
    "waveform": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
    "bpm": np.float32,
    "instruments": tfds.features.Sequence(tfds.features.Text()),
    "onsets": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
  }
)


def token_row(clip: dict) -> dict:
  rng = np.random.default_rng(len(clip["caption"]) + int(clip["bpm"]))

  def draw(frames, levels):
    return rng.integers(0, CODES, (frames, levels)).astype(np.uint16)

  return {
    "id": clip["id"],
    "acoustic": draw(round(SECONDS * 50), 3),
    "semantic": draw(round(SECONDS * 25), 1),
    "melody": draw(1, 2),
    "mulan": retrieval.unit(rng.normal(size=(2, 6))).astype(np.float32),
  }


TOKEN_FEATURES = tfds.features.FeaturesDict(
  {
    "id": tfds.features.Text(),
    "acoustic": tfds.features.Tensor(shape=(None, 3), dtype=np.uint16),
    "semantic": tfds.features.Tensor(shape=(None, 1), dtype=np.uint16),
    "melody": tfds.features.Tensor(shape=(None, 2), dtype=np.uint16),
    "mulan": tfds.features.Tensor(shape=(None, 6), dtype=np.float32),
  }
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Directories of all that an evaluation takes: {runs_dir, data_dir, tokens_dir, bundle}."""
  root = tmp_path_factory.mktemp("world")
  runs = root / "runs"
  wave = {"waveform": np.zeros((2, 7200), np.float32)}
  nothing = {"sources": {}, "parts": {}}
  prints = {
    "soundstream": write_part(runs / "soundstream", codec(), wave, nothing),
    "w2v_bert": write_part(runs / "w2v_bert", self_supervised(), wave, nothing),
    "mulan": write_part(
      runs / "mulan", joint(), wave | {"text": np.ones((2, 16), np.int32)}, nothing
    ),
    "melody": write_part(
      runs / "melody", melodies(), wave | {"melody": np.zeros(2, np.int32)}, nothing
    ),
  }
  for name, levels, dim, encoder in (
    ("kmeans", 1, 8, "w2v_bert"),
    ("mulan_rvq", 2, 6, "mulan"),
    ("melody_rvq", 2, 6, "melody"),
  ):
    made = {"sources": {encoder: {"encoder": prints[encoder]}}, "parts": {}}
    module = quantizers.EmbeddingQuantizer(residual(levels, dim), standardise=False)
    batch = {"embeddings": np.zeros((2, 3, dim), np.float32)}
    prints[name] = write_part(runs / name, module, batch, made)
  made = {
    "acoustic": {"encoder": prints["soundstream"]},
    "semantic": {"encoder": prints["w2v_bert"], "quantizer": prints["kmeans"]},
    "mulan": {"encoder": prints["mulan"]},
  }
  for stage in STAGES:
    model = TokenLM(stage, Vocabulary(tuple(STREAMS.values())), transformer(causal=True), 0.1)
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
    batch = {name: np.zeros((2, stage.length), np.int32) for name in names}
    write_part(runs / stage.name, model, batch, {"sources": made, "parts": {}})
  train, test = [tone(i) for i in range(100, 124)], [tone(i) for i in range(12)]
  write_records(root / "data", "tones", CLIP_FEATURES, {"train": train, "test": test})
  rows = {"train": [token_row(c) for c in train], "test": [token_row(c) for c in reversed(test)]}
  write_records(root / "tokens", "tokens", TOKEN_FEATURES, rows)
  sources = made | {"melody": {"encoder": prints["melody"], "quantizer": prints["melody_rvq"]}}
  manifest = {
    "sample_rate": RATE,
    "records": {"train": len(train), "test": len(test)},
    "sources": {
      name: entry
      | {
        "codebook_size": CODES,
        "frame_rate": 25.0 if name == "semantic" else 50.0,
        "window_seconds": 1.0 if name in ("mulan", "melody") else 0.0,
      }
      for name, entry in sources.items()
    },
  }
  (root / "tokens" / "manifest.json").write_text(json.dumps(manifest))
  captions.train_text_model([c["caption"] for c in train + test], root / "text.model", 300)
  bundle.export(
    output_dir=str(root / "bundle"),
    stages=tuple(str(runs / stage.name) for stage in STAGES),
    tokenizers={n: str(runs / n) for n in ("soundstream", "mulan", "mulan_rvq")},
    text=bundle.Text(str(root / "text.model"), 16),
    sample_rate=RATE,
    to="bundle",
  )
  return {
    "runs_dir": str(runs),
    "data_dir": str(root / "data"),
    "tokens_dir": str(root / "tokens"),
    "bundle": str(root / "bundle"),
  }


def sections():
  return (
    encoders.Codec(clips=4, seconds=1.0, levels=(1, 2, 3, 4, 12), batch_size=4),
    encoders.W2vBert(clips=6, seconds=1.0, shuffles=20, batch_size=4, seed=0),
    retrieval.MuLan(batch_size=8),
    retrieval.Melody(batch_size=8),
    stages.StageLoss(stage="semantic", swapped="mulan", clips=9, batch_size=4),
    stages.StageLoss(stage="coarse", swapped="semantic", clips=9, batch_size=4),
    stages.StageLoss(stage="fine", swapped="coarse", clips=9, batch_size=4),
    generated.Generation(
      samplings=tuple(Sampling(s.name, 1.0, 0.0, 0.4) for s in STAGES),
      num_prompts=9,
      num_shown=2,
      seconds=0.4,
      train_clips=24,
      permutations=100,
      batch_size=6,
      seed=0,
    ),
  )


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
  """(directory, results) of one evaluation of everything."""
  out = tmp_path_factory.mktemp("out")
  return out, evaluate(**world, out_dir=str(out), sections=sections())


def test_everything_is_measured_and_every_figure_says_what_was_wanted(done):
  out, results = done
  assert list(results) == [section.name for section in sections()]
  assert json.loads((out / "metrics.json").read_text()) == results
  for result in results.values():
    for name, figure in result["figures"].items():
      assert set(figure) == {"value", "baseline", "baseline_is", "wanted", "met"}, name
      assert math.isfinite(figure["value"])
      assert (figure["met"] is None) == (not figure["wanted"])


def test_the_audio_is_there_and_as_long_as_was_asked(done):
  out, results = done
  for kind, count in (("generated", 9), ("real", 2), ("roundtrip", 2)):
    files = sorted((out / "audio").glob(f"*_{kind}.wav"))
    assert len(files) == count
    assert all(soundfile.info(file).frames == round(0.4 * RATE) for file in files)
  assert results["generation"]["figures"]["share_of_exact_length"]["met"]


def test_the_report_of_it_is_one_page(done, world, tmp_path):
  out, _ = done
  path = report.report(out_dir=str(out), runs_dir=world["runs_dir"], progress="none", title="Test")
  text = pathlib.Path(path).read_text()
  assert text.count("<article>") == 2 and text.count("Losses of") == 10


def test_a_second_run_measures_nothing_again(done, world):
  out, results = done
  before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
  assert evaluate(**world, out_dir=str(out), sections=sections()) == results
  assert {p: p.stat().st_mtime_ns for p in before} == before


def test_what_changed_and_what_was_deleted_is_measured_again(done, world, tmp_path):
  copy = tmp_path / "out"
  shutil.copytree(done[0], copy)
  some = [dataclasses.replace(sections()[0], clips=3), *sections()[3:5]]
  kept = (copy / "metrics" / "melody.json").stat().st_mtime_ns
  (copy / "metrics" / "semantic.json").unlink()
  results = evaluate(**world, out_dir=str(copy), sections=tuple(some))
  assert results["codec"]["key"] != done[1]["codec"]["key"]
  assert (copy / "metrics" / "melody.json").stat().st_mtime_ns == kept
  old = done[1]["semantic"]
  assert {k: v for k, v in results["semantic"].items() if k != "took_seconds"} == {
    k: v for k, v in old.items() if k != "took_seconds"
  }


def test_stage_losses_are_those_of_the_model_itself(world):
  material = held_out.HeldOut(**world)
  section = stages.StageLoss(stage="coarse", swapped="semantic", clips=12, batch_size=5)
  found = section(material, "")
  part = material.part("coarse")
  stage, vocabulary = part.module.stage, part.module.vocabulary
  rows = []
  for shard in material.shards:
    mean = retrieval.unit(shard["mulan"][:1].mean(axis=0))
    codes = material.part("mulan_rvq")("encode", mean[None, None])[0]
    streams = [np.asarray(codes), shard["semantic"][:10], shard["acoustic"][:20, :2]]
    plan = (*stage.conditions, stage.target)
    pairs = zip(streams, plan)
    rows.append(np.concatenate([flatten(c.astype(int), vocabulary.offsets(s)) for c, s in pairs]))
  targets = np.array(rows)
  batch = {
    "decoder_target_tokens": targets,
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_loss_weights": np.arange(stage.length)[None] >= stage.condition_length,
  }
  batch["decoder_loss_weights"] = np.repeat(batch["decoder_loss_weights"], 12, axis=0)
  loss, _ = part.module.apply(part.variables, batch, train=False)
  assert found["figures"]["nats_per_token"]["value"] == pytest.approx(float(loss), abs=1e-5)


def test_short_clips_are_padded_without_loss(world):
  material = held_out.HeldOut(**world)
  for row in material.shards[:6]:
    row["acoustic"], row["semantic"] = row["acoustic"][:9], row["semantic"][:4]
  section = stages.StageLoss(stage="coarse", swapped="semantic", clips=12, batch_size=4)
  assert 1 < section(material, "")["figures"]["nats_per_token"]["value"] < 4
  codes, known = stages._targets(material, STAGES[1], 12)
  assert known.sum(axis=1).tolist() == [9] * 6 + [20] * 6 and not codes[0, 9:].any()


def test_tokens_stand_in_the_order_of_the_clips(world):
  material = held_out.HeldOut(**world)
  assert [row["id"].decode() for row in material.shards] == [c["id"] for c in material.clips]
  assert material.waveforms(0.5, 3).shape == (3, RATE // 2)
  assert np.abs(material.waveforms(0.5, 3)).max() <= 1
  assert not material.waveforms(3.0, 2)[:, round(SECONDS * RATE) :].any()  # silence behind the end


def test_labels_follow_the_melody(world):
  material = held_out.HeldOut(**world)
  pitch, instrument = encoders.labels(material, 50)
  clip = material.clips[0]
  assert pitch[0, 0] == round(clip["onsets"][0, 1]) % 12
  assert pitch[0, -1] == round(clip["onsets"][clip["onsets"][:, 0] < 1.98][-1, 1]) % 12
  assert (instrument == instrument[:, :1]).all() and set(instrument[:, 0]) == {0, 1}


def test_codes_that_follow_the_melody_have_information_about_it(world):
  material = held_out.HeldOut(**world)
  pitch, _ = encoders.labels(material, 50)
  for row, codes in zip(material.shards, pitch):
    row["semantic"] = codes[:, None].astype(np.uint16) % CODES
  found = encoders.W2vBert(clips=4, seconds=1.0, shuffles=50, batch_size=4, seed=0)(material, "")
  assert found["information"]["pitch_class"]["z"] > 5
  assert found["information"]["pitch_class_in_time"]["z"] > 5


def test_prompts_vary_and_too_many_are_refused(world):
  clips = held_out.HeldOut(**world).clips
  chosen = [clips[i] for i in generated.choose_prompts(clips, 6, seed=0)]
  assert len({(c["family"], c["tempo_word"]) for c in chosen}) == 6
  assert len({c["work"] for c in chosen[:3]}) == 3
  with pytest.raises(ValueError, match="13 prompts wanted, there are 12"):
    generated.choose_prompts(clips, 13, seed=0)


def test_the_lent_condition_is_of_another_work(world):
  clips = held_out.HeldOut(**world).clips
  partner = stages._other_work(clips)
  assert sorted(partner) == list(range(12))
  assert all(clips[i]["work"] != clips[j]["work"] for i, j in enumerate(partner))
  with pytest.raises(ValueError, match="of one work"):
    stages._other_work([{"work": "a"}] * 3)


def _without(name):
  return lambda w: shutil.rmtree(pathlib.Path(w["runs_dir"], name))


def _unfinished(w):
  pathlib.Path(w["runs_dir"], "fine", "weights.safetensors").unlink()


def _no_test(w):
  path = pathlib.Path(w["tokens_dir"], "manifest.json")
  manifest = json.loads(path.read_text())
  del manifest["records"]["test"]
  path.write_text(json.dumps(manifest))


def _no_shard(w):
  next(pathlib.Path(w["tokens_dir"]).glob("*test*")).unlink()


def _other_tokenizer(w):
  path = pathlib.Path(w["tokens_dir"], "manifest.json")
  manifest = json.loads(path.read_text())
  manifest["sources"]["acoustic"]["encoder"] = "xyz"
  path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
  ("damage", "section", "message"),
  [
    (_without("melody"), 3, "runs/melody: model.json is missing"),
    (_unfinished, 6, "runs/fine: weights.safetensors is missing; its training has not ended"),
    (_no_test, 0, "tokens: no split 'test'"),
    (_no_shard, 0, "shard is missing"),
    (_other_tokenizer, 6, "its acoustic is of encoder xyz"),
    (lambda w: pathlib.Path(w["bundle"], "bundle.json").unlink(), 2, "bundle: no bundle here"),
    (lambda w: shutil.rmtree(w["data_dir"]), 0, "data: no data set here"),
    (lambda w: shutil.rmtree(w["tokens_dir"]), 0, "tokens: no token shards here"),
  ],
)
def test_what_is_missing_is_one_line_that_names_it(world, tmp_path, damage, section, message):
  copy = {}
  for name, directory in world.items():
    copy[name] = str(shutil.copytree(directory, tmp_path / pathlib.Path(directory).name))
  damage(copy)
  with pytest.raises(ValueError) as caught:
    evaluate(**copy, out_dir=str(tmp_path / "out"), sections=sections()[section : section + 1])
  assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_condition_that_a_stage_has_not_is_named(world, tmp_path):
  section = stages.StageLoss(stage="fine", swapped="melody", clips=4, batch_size=4)
  with pytest.raises(ValueError, match="no condition 'melody'"):
    evaluate(**world, out_dir=str(tmp_path), sections=(section,))
