"""The model card says what the files of a bundle, its trainings and its evaluation say."""

import json
import pathlib
import re

import numpy as np
import pytest
import yaml

from musiclm_jax import part_files
from musiclm_jax.evaluation import metrics
from musiclm_jax.evaluation.card import card
from tests import small_world

FIGURES = {
  "notes": metrics.figure(
    0.5, ">= 0.8", baseline=1.0, baseline_is="real clips", interval=(0.4, 0.6)
  ),
  "key": metrics.figure(0.9, ">= 0.8"),
  "no_target": metrics.figure(0.123),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("card")
  made = small_world.build(root / "world")
  bundle = made["bundle"]
  for role in json.loads(pathlib.Path(bundle, "bundle.json").read_text())["parts"]:
    log = [
      {"step": 5, "split": "train", "loss": 4.0, "chance": 4.2, "seconds": 1800.0},
      {"step": 10, "split": "train", "loss": 3.0, "chance": 4.2, "seconds": 1800.0},
      {"step": 10, "split": "eval", "loss": 3.5, "chance": 4.2},
    ]
    (root / "runs" / role).mkdir(parents=True)
    (root / "runs" / role / "metrics.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in log))
    (root / "runs" / role / "config.gin").write_text("BATCH_SIZE = 16\nSEED = 7\n")
  (root / "out").mkdir()
  results = {"heard": {"section": "x.y", "figures": FIGURES, "took_seconds": 1.0}}
  (root / "out" / "metrics.json").write_text(json.dumps(results))
  (root / "out" / "detector.json").write_text("{}")
  (root / "about.md").write_text("# A model\n\nIts limits.\n")
  return {
    "bundle": bundle,
    "runs_dir": str(root / "runs"),
    "tokens_dir": made["tokens_dir"],
    "out_dir": str(root / "out"),
    "about": str(root / "about.md"),
    "hardware": "one core",
    "licence": "apache-2.0",
  }


def test_a_card_tells_of_parts_data_settings_and_figures(world):
  text = pathlib.Path(card(**world)).read_text()
  _, front, body = text.split("---\n", 2)
  assert yaml.safe_load(front)["license"] == "apache-2.0"
  assert body.strip().startswith("# A model\n\nIts limits.\n\n## Parts\n\nTrained on one core.")
  values = sum(
    np.size(x) for x in part_files.read_weights(f"{world['bundle']}/coarse")["params"]["table"]
  )
  row = re.search(r"\| coarse \| TokenLM \| ([\d,]+) \| .*", body)
  assert int(row[1].replace(",", "")) > values
  assert row[0].endswith("| F32 | 10 | 16 | 7 | 1.00 | 3.5 (chance 4.2) |")
  assert re.search(r"\| test \| 12 \| 0\.\d\d \|", body)
  assert "| heard | notes | 0.5 (0.4 to 0.6) | 1 real clips | >= 0.8 | **missed** |" in body
  assert "1 of 2 targets met" in body and "no target" not in body
  logs = sorted(path.stem for path in pathlib.Path(world["bundle"], "logs").iterdir())
  assert logs == sorted(
    json.loads(pathlib.Path(world["bundle"], "bundle.json").read_text())["parts"]
  )
  assert json.loads(pathlib.Path(world["bundle"], "metrics.json").read_text())["heard"]
  assert pathlib.Path(world["bundle"], "detector.json").read_text() == "{}"


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("about", "nowhere.md", "nowhere.md: no such file"),
    ("bundle", "nowhere", "nowhere: no bundle here"),
    ("out_dir", "nowhere", "nowhere/metrics.json: missing"),
    ("runs_dir", "nowhere", "nowhere: no run with a metrics.jsonl"),
    ("tokens_dir", "nowhere", "nowhere: no token shards here"),
  ],
)
def test_what_a_card_misses_is_one_line_that_names_it(world, name, value, message):
  with pytest.raises(ValueError, match=message):
    card(**world | {name: value})


def test_a_part_without_its_training_is_named(world, tmp_path):
  (tmp_path / "coarse").mkdir()
  log = pathlib.Path(world["runs_dir"], "coarse", "metrics.jsonl").read_text()
  (tmp_path / "coarse" / "metrics.jsonl").write_text(log)
  with pytest.raises(ValueError, match="no training of soundstream"):
    card(**world | {"runs_dir": str(tmp_path)})
