"""A stage trains from token arrays on a machine that has jax, flax, optax, orbax and gin alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from musiclm_jax.datasets import arrays
from tests.records import write_records

pytestmark = pytest.mark.slow

# What the package uses elsewhere. safetensors stays: finished weights are written with it.
MISSING = {
  "apache_beam",
  "array_record",
  "librosa",
  "matplotlib",
  "music21",
  "pretty_midi",
  "seqio",
  "sentencepiece",
  "sklearn",
  "soundfile",
  "soxr",
  "symusic",
  "tensorboardX",
  "tensorflow",
  "tensorflow_datasets",
  "tokenizers",
  "torch",
  "tqdm",
}
PROGRAM = """
import sys
class Without:
  def __init__(self, finder):
    self.finder = finder
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] not in {missing}:
      return self.finder.find_spec(name, path, target)
  def __getattr__(self, name):
    return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
from musiclm_jax.main import entry
entry()
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
  """Token shards of 12 levels of random acoustic codes."""
  directory, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
  rows = [
    {"id": f"clip{i}", "acoustic": rng.integers(0, 32, (50 + i, 12)).astype(np.uint16)}
    for i in range(20)
  ]
  features = {
    "id": tfds.features.Text(),
    "acoustic": tfds.features.Tensor(shape=(None, 12), dtype=np.uint16),
  }
  write_records(directory, {"train": rows[:14], "validation": rows[14:]}, features)
  entry = {"encoder": "c0dec", "frame_rate": 50.0, "width": 12, "codebook_size": 32}
  (directory / "manifest.json").write_text(json.dumps({"sources": {"acoustic": entry}}))
  return directory


def losses(program, data_dir, model_dir):
  """The loss of each step, and what was printed."""
  words = ["train", "tiny/fine", f"--data_dir={data_dir}", f"--model_dir={model_dir}"]
  words += ["--total_steps=10", "--log_period=1", "--checkpoint_period=5"]
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  result = subprocess.run([*program, *words], env=environment, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
  return [line["loss"] for line in lines if line["split"] == "train"], result.stderr


def test_the_losses_are_those_of_a_training_through_seqio(shards, tmp_path):
  arrays.convert(data_dir=str(shards), output_dir=str(tmp_path / "arrays"))
  light = [sys.executable, "-c", PROGRAM.format(missing=MISSING)]
  found, printed = losses(light, tmp_path / "arrays", tmp_path / "light")
  assert "tensorboardX is not installed" in printed  # nothing is left out without a line
  whole = [sys.executable, "-m", "musiclm_jax"]
  wanted, _ = losses(whole, shards, tmp_path / "seqio")
  assert len(wanted) == 10 and found == wanted
