"""Bundles: what is in one, and which parts belong together, whatever their folders are called."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from musiclm_jax import part_files
from musiclm_jax.export import bundle
from musiclm_jax.lm.token_lm import TokenLM
from musiclm_jax.tokenizers import quantizer
from tests import bundles

RVQ = quantizer.EmbeddingQuantizer(
  quantizer.ResidualQuantizer(2, 8, 8, 0.9, 1.0, None, 2, False), standardise=False
)


def write(directory, module, sources=None, parts=None, value=0):
  """A part with one weight, which no export looks at; its fingerprint."""
  provenance = {"sources": sources or {}, "parts": parts or {}}
  part_files.describe_run(str(directory), module, provenance)
  part_files.write_weights(str(directory), {"params": {"x": np.full(1, value, np.float32)}})
  return part_files.fingerprint(str(directory))


def stage(number):
  return TokenLM(bundles.STAGES[number], bundles.VOCABULARY, bundles.transformer(), 0.0, 0.0)


@pytest.fixture
def runs(tmp_path):
  """{name: directory} of parts in folders whose names do not tell what they are."""
  root = tmp_path / "runs"
  names = ("soundstream", "mulan", "mulan_rvq", "semantic", "coarse", "fine")
  found = {name: str(root / f"{index}" / "model") for index, name in enumerate(names)}
  codec = write(found["soundstream"], bundles.codec())
  joint = write(found["mulan"], bundles.joint())
  mulan = {"mulan": {"encoder": joint, "window_seconds": 1.0, "hop_seconds": 0.5}}
  rvq = write(found["mulan_rvq"], RVQ, mulan)
  semantic = {"semantic": {"encoder": "aaa", "quantizer": "bbb", "window_seconds": 0.0}}
  acoustic = {"acoustic": {"encoder": codec}}
  write(found["semantic"], stage(0), mulan | semantic, {"mulan_rvq": rvq})
  write(found["coarse"], stage(1), mulan | semantic | acoustic, {"mulan_rvq": rvq})
  write(found["fine"], stage(2), acoustic)
  return found


def export(runs, output_dir):
  return bundles.export(runs, "", output_dir)


def again(runs, name, tmp_path, **changes):
  """The runs with another part of a name: its provenance changed, in a folder of any name."""
  module, _, provenance = part_files.read_part(runs[name])
  directory = str(tmp_path / "other")
  write(directory, module, value=1, **provenance | changes)
  return runs | {name: directory}


def test_a_bundle_states_its_stages_their_sampling_and_the_windows_of_sources(runs, tmp_path):
  path = pathlib.Path(export(runs, tmp_path / "bundle"))
  description = json.loads((path / "bundle.json").read_text())
  settings = {"temperature": 1.0, "guidance": 0.0, "stride_fraction": 0.5, "top_k": 0, "top_p": 1.0}
  assert description["format"] == bundle.FORMAT
  assert description["stages"] == ["semantic", "coarse", "fine"]
  assert description["sampling"] == dict.fromkeys(description["stages"], settings)
  assert description["sources"] == {"mulan": {"window_seconds": 1.0, "hop_seconds": 0.5}}
  assert bundle.load_description(str(path)) == description


def test_three_stages_in_folders_of_one_name_are_three_parts(runs, tmp_path):
  path = pathlib.Path(export(runs, tmp_path / "bundle"))
  for name, directory in runs.items():
    for file in ("model.json", "weights.safetensors"):
      wanted = pathlib.Path(directory, file).read_bytes()
      assert (path / name / file).read_bytes() == wanted


@pytest.mark.parametrize("form", ["relative", "dot", "slash", "dots"])
def test_how_a_path_is_written_changes_nothing(runs, tmp_path, monkeypatch, form):
  monkeypatch.chdir(tmp_path)

  def written(path):
    relative = os.path.relpath(path, tmp_path)
    forms = {"relative": relative, "dot": f"./{relative}", "slash": f"{path}/"}
    return forms.get(form, f"{path}/../{pathlib.Path(path).name}")

  wanted = pathlib.Path(export(runs, tmp_path / "wanted"), "bundle.json").read_bytes()
  export({name: written(path) for name, path in runs.items()}, written(str(tmp_path / "found")))
  assert (tmp_path / "found" / "bundle.json").read_bytes() == wanted
  assert sorted(path.name for path in tmp_path.iterdir()) == ["found", "runs", "wanted"]


def test_a_stage_of_another_quantizer_is_refused_in_a_folder_of_any_name(runs, tmp_path):
  changed = again(runs, "semantic", tmp_path, parts={"mulan_rvq": "zzz"})
  with pytest.raises(
    ValueError, match="other: was trained on tokens of mulan_rvq zzz, .*2/model is"
  ):
    export(changed, tmp_path / "bundle")


def test_a_quantizer_of_another_encoder_is_refused(runs, tmp_path):
  changed = again(runs, "mulan_rvq", tmp_path, sources={"mulan": {"encoder": "zzz"}})
  with pytest.raises(ValueError, match="other: was trained on tokens of mulan zzz, .*1/model is"):
    export(changed, tmp_path / "bundle")


def test_stages_of_different_quantizers_that_no_bundle_holds_are_refused(runs, tmp_path):
  _, _, made = part_files.read_part(runs["coarse"])
  made["sources"]["semantic"]["quantizer"] = "zzz"
  changed = again(runs, "coarse", tmp_path, sources=made["sources"])
  message = "other: was trained on tokens of kmeans zzz, .*3/model was on those of bbb"
  with pytest.raises(ValueError, match=message):
    export(changed, tmp_path / "bundle")


def test_stages_of_different_windows_are_refused(runs, tmp_path):
  _, _, made = part_files.read_part(runs["coarse"])
  made["sources"]["mulan"]["window_seconds"] = 2.0
  changed = again(runs, "coarse", tmp_path, sources=made["sources"])
  with pytest.raises(ValueError, match="other: was trained on mulan in windows of .* 2.0"):
    export(changed, tmp_path / "bundle")


def test_a_stage_without_sampling_settings_is_refused(runs, tmp_path, monkeypatch):
  monkeypatch.setattr(bundles, "SAMPLINGS", bundles.SAMPLINGS[:2])
  with pytest.raises(ValueError, match="5/model: stage fine has no sampling settings"):
    export(runs, tmp_path / "bundle")


@pytest.mark.parametrize(
  ("name", "other", "message"),
  [
    ("soundstream", "mulan", "wanted the kind Codec, found MuLan"),
    ("mulan_rvq", "semantic", "wanted the kind Quantizer, found TokenLM"),
    ("semantic", "soundstream", "wanted the kind StageModel, found SoundStream"),
    ("semantic", "coarse", "is stage coarse, as .* is"),
  ],
)
def test_a_part_in_the_place_of_another_is_refused(runs, tmp_path, name, other, message):
  with pytest.raises(ValueError, match=message):
    export(runs | {name: runs[other]}, tmp_path / "bundle")
  assert not (tmp_path / "bundle").exists()


def test_a_bundle_is_replaced_and_nothing_else(runs, tmp_path):
  export(runs, tmp_path / "bundle")
  shutil.rmtree(tmp_path / "bundle" / "fine")
  export(runs, tmp_path / "bundle")
  assert bundle.load_description(str(tmp_path / "bundle"))["stages"][2] == "fine"
  (tmp_path / "taken").mkdir()
  with pytest.raises(ValueError, match="taken: exists and is no bundle"):
    export(runs, tmp_path / "taken")
  assert not list((tmp_path / "taken").iterdir())
