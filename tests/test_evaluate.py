"""The whole evaluation on a small corpus of tones and models with random weights."""

import dataclasses
import functools
import importlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import soundfile

from musiclm_jax.evaluation import (
  codec,
  detector,
  families,
  generated,
  held_out,
  joint_embedding,
  layers,
  memorization,
  metrics,
  prompted,
  report,
  resynthesis,
  retrieval,
  round_trip,
  semantic,
  stages,
)
from musiclm_jax.evaluation.evaluate import evaluate
from musiclm_jax.lm.sampling import UNCHANGED
from musiclm_jax.sources import MeanQuantized
from musiclm_jax.tokens import flatten
from tests.small_world import CODES, RATE, SECONDS, STAGES, STREAMS, build

pytestmark = pytest.mark.slow


measure = functools.partial(evaluate, split="test")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Directories of all that an evaluation takes: {runs_dir, data_dir, tokens_dir, bundle}."""
  return build(tmp_path_factory.mktemp("world"))


STAGE_WANTED = {
  "nats_over_unigram": "<= 0.95",
  "own_condition_gain_nats": "> 0",
  "own_condition_p": "< 0.01",
}
FAMILIES = families.Families(clips=24, seconds=0.4, batch_size=6)


def sections():
  return (
    codec.Codec(clips=4, seconds=1.0, levels=(1, 2, 3, 4, 12), opus_kbps=(6, 24), batch_size=3),
    round_trip.RoundTrip(
      clips=8,
      seconds=1.0,
      levels=2,
      opus_kbps=12,
      families=FAMILIES,
      wanted={"notes_share": ">= 0.8", "log_mel_over_opus": "< 1"},
      batch_size=4,
    ),
    semantic.W2vBert(
      clips=8,
      seconds=1.0,
      shuffles=20,
      folds=2,
      wanted={"codes_used": "> 0.9", "pitch_class": ">= 0.1", "masked_accuracy_0": ">= 2"},
      batch_size=4,
      seed=0,
    ),
    retrieval.MuLan(batch_size=8, wanted={}),
    joint_embedding.Codes(batch_size=8, wanted={"level_1_agreement": ">= 0.5"}),
    joint_embedding.Probes(
      train_clips=24, penalty=1.0, batch_size=8, wanted={"family_from_text": ">= 0.8"}
    ),
    retrieval.Melody(hums={"hummed_melody": (1.0, 0), "higher": (1.25, 3)}, batch_size=8),
    *(
      stages.StageLoss(stage=stage, swapped=swapped, clips=9, wanted=STAGE_WANTED, batch_size=4)
      for stage, swapped in (("semantic", "mulan"), ("coarse", "semantic"), ("fine", "coarse"))
    ),
    generated.Generation(
      num_prompts=9,
      num_shown=2,
      stated="It is in {key}.",
      changes=UNCHANGED,
      best_of=1,
      seconds=0.4,
      families=FAMILIES,
      detector=detector.Training(folds=3, penalty=0.1),
      wanted={"family_of_real": ">= 0.6"},
      permutations=100,
      batch_size=6,
      seed=0,
    ),
    resynthesis.Resynthesis(
      stage="coarse",
      swapped="semantic",
      clips=9,
      wanted={"chroma_correlation": ">= 0.3"},
      batch_size=4,
      seed=0,
    ),
    memorization.Memorization(
      stage="semantic",
      quantizer="kmeans",
      clips=9,
      prompt_seconds=(0.0, 0.4),
      seconds=0.4,
      false_positives=0.1,
      wanted={"exact_share": "< 0.5"},
      batch_size=4,
      seed=0,
    ),
    layers.Layers(
      clips=12, seconds=1.0, triples=20, codebook_size=4, folds=2, batch_size=4, seed=0
    ),
  )


def named(*names: str):
  """The sections of these names."""
  found = {section.name: section for section in sections()}
  return tuple(found[name] for name in names)


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
  """(directory, results) of one evaluation of everything."""
  out = tmp_path_factory.mktemp("out")
  return out, measure(**world, out_dir=str(out), sections=sections())


TARGETS = {
  "codec": {
    "log_mel_ratio": "<= 0.6",
    "perplexity_share_of_first_levels": ">= 0.1",
    "largest_step_up_to_4_levels": "< 0",
  },
  "round_trip": {"notes_share": ">= 0.8", "log_mel_over_opus": "< 1"},
  "w2v_bert": {
    "masked_accuracy_0_over_most_frequent": ">= 2",
    "kmeans_codes_used": "> 0.9",
    "probe_pitch_class": ">= 0.1",
    "information_pitch_class_z": "> 5",
    "information_instrument_z": "> 5",
  },
  "mulan": {
    "clips": ">= 200",
    "text_to_audio_recall_at_10_over_chance": ">= 4",
    "audio_to_text_recall_at_10_over_chance": ">= 4",
  },
  "mulan_codes": {"level_1_agreement": ">= 0.5"},
  "mulan_probes": {"family_from_text": ">= 0.8"},
  "melody": {},
  **dict.fromkeys(("semantic", "coarse", "fine"), STAGE_WANTED),
  "generation": {
    "prompts": ">= 8",
    "share_finite": ">= 1",
    "share_of_exact_length": ">= 1",
    "quietest_dbfs": "> -60",
    "most_clipped_samples_share": "<= 0.001",
    "adherence_best_p_corrected": "< 0.05",
    "adherence_family_of_real": ">= 0.6",
  },
  "resynthesis": {"chroma_correlation": ">= 0.3"},
  "memorization": {"exact_share_after_0_s": "< 0.5", "exact_share_after_0.4_s": "< 0.5"},
  "layers": {},
}


def test_everything_is_measured_against_its_targets_and_written(done):
  out, results = done
  assert list(results) == [section.name for section in sections()]
  assert json.loads((out / "metrics.json").read_text()) == results
  figures = {name: result["figures"] for name, result in results.items()}
  wanted = {
    section: {name: figure["wanted"] for name, figure in each.items() if figure["wanted"]}
    for section, each in figures.items()
  }
  assert wanted == TARGETS
  marked = [name for each in figures.values() for name, f in each.items() if f["too_few"]]
  assert marked == ["frechet_distance"] * 2  # 8 and 9 patches for 200 dimensions


def test_audio_files_have_exactly_the_length_that_was_asked_for(done):
  out, results = done
  for kind, count in (("generated", 9), ("real", 9), ("roundtrip", 2)):
    files = sorted((out / "audio").glob(f"{kind}/*.wav"))
    assert len(files) == count
    assert all(soundfile.info(file).frames == round(0.4 * RATE) for file in files)
  assert results["generation"]["figures"]["share_of_exact_length"]["met"]


def test_the_report_shows_every_section_on_one_page(done, world, tmp_path):
  out, _ = done
  path = report.report(out_dir=str(out), runs_dir=world["runs_dir"], progress="none", title="Test")
  text = pathlib.Path(path).read_text()
  assert text.count("<article>") == 2 and text.count("Losses of") == 10
  for title in (
    "Codec",
    "What is heard after the codec",
    "Semantic codes",
    "MuLan: text and audio",
    "Melodies",
    "Fine stage",
  ):
    assert f"<h2>{title}</h2>" in text


def test_a_second_run_measures_nothing_again_wherever_everything_is(
  done, world, tmp_path, monkeypatch
):
  """Neither under other paths, nor where data and models were moved."""
  out, results = done
  before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
  monkeypatch.chdir(tmp_path)
  moved = {
    name: f"./{shutil.copytree(path, pathlib.Path(path).name)}/" for name, path in world.items()
  }
  assert measure(**moved, out_dir=f"{out}/.", sections=sections()) == results
  assert {p: p.stat().st_mtime_ns for p in before} == before


def test_tokens_of_the_same_size_but_other_content_are_other_data(world, tmp_path):
  tokens = pathlib.Path(shutil.copytree(world["tokens_dir"], tmp_path / "tokens"))
  before = held_out.HeldOut(**world).data_fingerprint
  other = world | {"tokens_dir": str(tokens)}
  assert held_out.HeldOut(**other).data_fingerprint == before
  shard = next(tokens.glob("*test*"))
  content = bytearray(shard.read_bytes())
  content[-1] ^= 1
  shard.write_bytes(content)
  assert held_out.HeldOut(**other).data_fingerprint != before


def test_the_section_in_the_documentation_measures_and_shows(world, tmp_path, monkeypatch):
  document = (pathlib.Path(__file__).parent.parent / "docs" / "extend.md").read_text()
  (code,) = [
    block.split("```")[0] for block in document.split("```python\n") if "class Loudness" in block
  ]
  (tmp_path / "loudness_section.py").write_text(code)
  monkeypatch.syspath_prepend(str(tmp_path))
  section = importlib.import_module("loudness_section").Loudness(4, 0.5, 2)
  out = str(tmp_path / "out")
  results = measure(**world, out_dir=out, sections=(section,))["loudness"]
  ratios = results["by_clip"]
  assert len(ratios) == 4 and results["figures"]["rms_ratio"]["value"] == pytest.approx(
    np.mean(ratios)
  )
  path = report.report(out_dir=out, runs_dir=world["runs_dir"], progress="none", title="Test")
  assert "<h2>Loudness</h2>" in pathlib.Path(path).read_text()


def test_every_figure_of_a_round_trip_stands_beside_real_clips(done):
  result = done[1]["round_trip"]
  assert result["levels"] == [2, 3] and set(result["distances"]) == {"real", "2 levels", "3 levels"}
  figures = result["figures"]
  assert set(result["rows"][0]) <= set(figures)
  for name in ("note_f_measure", "chroma_correlation", "mulan_cosine", "persistence_of_level_1"):
    low, high = figures[name]["interval"]
    assert low <= figures[name]["value"] <= high
  assert 0 <= figures["note_f_measure"]["value"] < 0.5  # random weights
  assert figures["parameters"]["value"] > 100 and figures["seconds_decoded_per_second"]["value"] > 0


def test_every_set_of_generated_music_is_heard_and_measures_have_their_accuracy(done):
  result = done[1]["generation"]
  kinds = {"real", "roundtrip", "generated"}
  assert set(result["notes_at_once"]) == set(result["distances"]) == kinds
  for name in ("family_accuracy", "tempo_accuracy", "key_score", "key_exact"):
    figure = done[1]["round_trip"]["figures"][f"{name}_on_real_clips"]
    assert 0 <= figure["interval"][0] <= figure["value"] <= figure["interval"][1] <= 1


def test_a_stage_of_random_weights_writes_no_music_of_its_conditions(done):
  result = done[1]["resynthesis"]
  assert set(result["rows"]) == {"own", "swapped", "round_trip"}
  figure = result["figures"]["chroma_correlation"]
  assert abs(figure["value"] - figure["baseline"]) < 0.2  # the codec's own sound
  assert figure["baseline"] == result["rows"]["swapped"]["chroma_correlation"]["value"]


def test_a_target_of_no_figure_is_named_before_anything_is_measured():
  for section in named("round_trip", "resynthesis"):
    with pytest.raises(ValueError, match="no figure 'note_share'; nearest notes_share"):
      dataclasses.replace(section, wanted={"note_share": ">= 0.8"})


def test_every_figure_that_may_have_a_target_is_measured(done):
  assert set(round_trip.TARGETS) <= set(done[1]["round_trip"]["figures"])
  heard = done[1]["generation"]["figures"]
  assert {f"adherence_{name}" for name in prompted.wanted_names()} <= set(heard)
  assert {"notes_share", "kernel_over_round_trip"} <= set(heard)
  assert heard["adherence_family_of_real"]["wanted"] == ">= 0.6"
  assert heard["adherence_family"]["interval"] is not None


def test_two_sections_of_one_name_are_refused(world, tmp_path):
  with pytest.raises(ValueError, match="each name may occur once, found codec, codec"):
    measure(**world, out_dir=str(tmp_path), sections=named("codec", "codec"))


def test_what_changed_and_what_was_deleted_is_measured_again(done, world, tmp_path):
  copy = tmp_path / "out"
  shutil.copytree(done[0], copy)
  some = [dataclasses.replace(*named("codec"), clips=3), *named("melody", "semantic")]
  kept = (copy / "metrics" / "melody.json").stat().st_mtime_ns
  (copy / "metrics" / "semantic.json").unlink()
  results = measure(**world, out_dir=str(copy), sections=tuple(some))
  assert results["codec"]["key"] != done[1]["codec"]["key"]
  assert (copy / "metrics" / "melody.json").stat().st_mtime_ns == kept
  old = done[1]["semantic"]
  assert {k: v for k, v in results["semantic"].items() if k != "took_seconds"} == {
    k: v for k, v in old.items() if k != "took_seconds"
  }


def test_stage_losses_are_those_of_the_model_itself_also_of_short_clips(world):
  material = held_out.HeldOut(**world)
  for row in material.shards[:6]:
    row["acoustic"], row["semantic"] = row["acoustic"][:9], row["semantic"][:4]
  found = stages.StageLoss(stage="coarse", swapped="semantic", clips=12, wanted={}, batch_size=5)(
    material, ""
  )
  part = material.part("coarse")
  stage, vocabulary = part.module.stage, part.module.vocabulary
  targets = np.zeros((12, stage.length), int)
  mulan, semantic_tokens, target = (vocabulary.offsets(s) for s in stage.streams)
  for row, shard in zip(targets, material.shards):
    mean = metrics.unit(shard["mulan"][:1].mean(axis=0))
    row[:2] = flatten(np.asarray(material.part("mulan_rvq")("encode", mean[None, None])[0]), mulan)
    row[2:12] = vocabulary.null(stage.conditions[1])
    for first, codes, offsets in (
      (2, shard["semantic"][:10], semantic_tokens),
      (12, shard["acoustic"][:20, :2], target),
    ):
      row[first : first + codes.size] = flatten(codes.astype(int), offsets)
  batch = {
    "decoder_target_tokens": targets,
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_loss_weights": (np.arange(stage.length) >= stage.condition_length) & (targets > 0),
  }
  loss, _ = jax.jit(functools.partial(part.module.apply, train=False))(part.variables, batch)
  assert found["figures"]["nats_per_token"]["value"] == pytest.approx(float(loss), abs=1e-5)


def test_tokens_are_in_the_order_of_the_clips(world):
  material = held_out.HeldOut(**world)
  assert [row["id"].decode() for row in material.shards] == [c["id"] for c in material.clips]
  assert material.waveforms(0.5, 3).shape == (3, RATE // 2)
  assert np.abs(material.waveforms(0.5, 3)).max() <= 1
  assert not material.waveforms(3.0, 2)[:, round(SECONDS * RATE) :].any()  # zeros after the end
  with pytest.raises(ValueError, match="data: 13 clips wanted, split 'test' has 12"):
    material.waveforms(0.5, 13)


def test_labels_follow_the_melody(world):
  material = held_out.HeldOut(**world)
  pitch, instrument = semantic.labels(material, 50)
  clip = material.clips[0]
  assert pitch[0, 0] == round(clip["onsets"][0, 1]) % 12
  assert pitch[0, -1] == round(clip["onsets"][clip["onsets"][:, 0] < 1.98][-1, 1]) % 12
  assert (instrument == instrument[:, :1]).all() and set(instrument[:, 0]) == {0, 1}


def test_codes_that_follow_the_melody_have_information_about_it(world):
  material = held_out.HeldOut(**world)
  pitch, _ = semantic.labels(material, 50)
  for row, codes in zip(material.shards, pitch):
    row["semantic"] = codes[:, None].astype(np.uint16) % CODES
  section = semantic.W2vBert(
    clips=4, seconds=1.0, shuffles=50, folds=2, wanted={}, batch_size=4, seed=0
  )
  found = section(material, "")
  assert found["information"]["pitch_class"]["z"] > 5
  assert found["information"]["pitch_class_in_time"]["z"] > 5


def test_melodies_are_shuffled_whole():
  shuffle = semantic.other_melodies(["b", "a", "b", "c", "a", "c"])
  rows = np.array([20, 10, 21, 30, 11, 31])
  for seed in range(8):
    shuffled = shuffle(rows, np.random.default_rng(seed))
    assert sorted(shuffled) == sorted(rows)
    for pair in ((0, 2), (1, 4), (3, 5)):
      assert len(set(shuffled[list(pair)] // 10)) == 1


def test_prompts_vary_and_too_many_are_refused(world):
  clips = held_out.HeldOut(**world).clips
  chosen = [clips[i] for i in generated.choose_prompts(clips, 6, seed=0)]
  assert len({(c["family"], c["tempo_word"]) for c in chosen}) == 6
  assert len({c["work"] for c in chosen[:3]}) == 3
  with pytest.raises(ValueError, match="13 prompts wanted, there are 12"):
    generated.choose_prompts(clips, 13, seed=0)


def test_the_lent_condition_is_of_another_work(world):
  clips = held_out.HeldOut(**world).clips
  partner = stages.other_work(clips)
  assert sorted(partner) == list(range(12))
  assert all(clips[i]["work"] != clips[j]["work"] for i, j in enumerate(partner))
  with pytest.raises(ValueError, match="of one work"):
    stages.other_work([{"work": "a"}] * 3)


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
    (_without("melody"), "melody", "runs/melody: model.json is missing"),
    (_unfinished, "fine", "runs/fine: weights.safetensors is missing; its training has not ended"),
    (_no_test, "codec", "tokens: no split 'test'"),
    (_no_shard, "codec", "shard is missing"),
    (_other_tokenizer, "fine", "its acoustic is of encoder xyz"),
    (
      lambda w: pathlib.Path(w["bundle"], "bundle.json").unlink(),
      "mulan",
      "bundle: no bundle here",
    ),
    (lambda w: shutil.rmtree(w["data_dir"]), "codec", "data: no data set here"),
    (lambda w: shutil.rmtree(w["tokens_dir"]), "codec", "tokens: no token shards here"),
  ],
)
def test_what_is_missing_is_one_line_that_names_it(world, tmp_path, damage, section, message):
  copy = {}
  for name, directory in world.items():
    copy[name] = str(shutil.copytree(directory, tmp_path / pathlib.Path(directory).name))
  damage(copy)
  with pytest.raises(ValueError) as caught:
    measure(**copy, out_dir=str(tmp_path / "out"), sections=named(section))
  assert message in str(caught.value) and "\n" not in str(caught.value)


def test_codes_of_texts_take_the_place_of_one_condition():
  mulan = dataclasses.replace(STREAMS["mulan"], made=MeanQuantized("mulan_rvq", "mulan_text"))
  stage = dataclasses.replace(STAGES[1], conditions=(mulan, STREAMS["semantic"]))
  found = stages.of_text(stage, "mulan")
  assert found.conditions[0].made == MeanQuantized("mulan_rvq", "mulan_text", text_share=1.0)
  assert found.conditions[1:] == stage.conditions[1:]
  assert stages.of_text(stage, "semantic") == stage
  assert stages.of_text(STAGES[1], "mulan") == STAGES[1]  # its shards have no texts


def test_a_condition_that_a_stage_has_not_is_named(world, tmp_path):
  section = stages.StageLoss(stage="fine", swapped="melody", clips=4, wanted={}, batch_size=4)
  with pytest.raises(ValueError, match="no condition 'melody'"):
    measure(**world, out_dir=str(tmp_path), sections=(section,))
