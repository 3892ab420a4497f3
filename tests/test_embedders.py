"""The embedders as gin files bind them, and what is common to all of them."""

import numpy as np
import pytest

from musiclm_jax import checks, configuration
from musiclm_jax.embedders import batches, embedder
from musiclm_jax.embedders.musicnn import Musicnn
from musiclm_jax.embedders.part import PartJoint

NEEDED = {
  "musicnn.Musicnn": set(),
  "vggish.VGGish": {"VGGISH_WEIGHTS"},
  "vggish_hub/saved_model.SavedModel": {"VGGISH_HUB"},
  "trill/saved_model.SavedModel": {"TRILL"},
  "yamnet/saved_model.SavedModel": {"YAMNET"},
  "torch_classifier.TorchClassifier": {"AUDIO_CLASSIFIER"},
  "part.PartJoint": set(),
  "clap/part.PartJoint": {"CLAP", "CLAP_TEXT_MODEL"},
  "part.PartEmbedder": set(),
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_binding_needs_the_files_of_its_own_embedder_alone(name, tmp_path):
  module = name.rpartition("/")[2].split(".")[0]
  lines = (
    "from __gin__ import dynamic_registration",
    "from musiclm_jax import main",
    f"from musiclm_jax.embedders import {module}",
    'include "data/embedders.gin"',
    f"main.run.job = @{name}",
  )
  (tmp_path / "job.gin").write_text("\n".join(lines) + "\n")
  config = configuration.Configuration([tmp_path / "job.gin"])
  checks.import_modules(config)
  assert set(checks.missing(config)) == NEEDED[name]
  for macro in NEEDED[name]:
    config.add_flag(f"--{macro}", macro, "'somewhere'")
  checks.check(config)
  checks.check_values(config)


def test_the_listed_embedders_are_those_of_the_file():
  text = (configuration.FOLDER / "data/embedders.gin").read_text()
  assert {name for name in NEEDED if f"@{name}() " in text} == set(NEEDED)


def test_musicnn_gives_embeddings_and_shares(rng):
  model = Musicnn()
  assert isinstance(model, embedder.Embedder) and isinstance(model, embedder.Classifier)
  clips = 0.1 * rng.normal(size=(2, 50000)).astype(np.float32)
  shares = model.classify(clips)
  assert shares.shape == (2, 50) and shares.dtype == np.float64
  np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=0, atol=1e-12)
  assert model.embed(clips).shape == (2, 1, 200)


def test_the_released_bundle_is_a_joint_embedding_by_its_name():
  spec = PartJoint("small").spec
  assert (spec["window_seconds"], spec["sample_rate"], spec["text_length"]) == (10.0, 24000, 64)


def test_all_batches_have_one_shape():
  sizes = []

  def double(rows):
    sizes.append(len(rows))
    return 2 * rows

  rows = np.arange(14, dtype=np.float32).reshape(7, 2)
  np.testing.assert_array_equal(batches.in_batches(double, rows, 3), 2 * rows)
  assert sizes == [3, 3, 3]
