"""The embedders as gin files bind them, and what is common to all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax import audio, checks, configuration
from musiclm_jax.embedders import batches, embedder, musicnn
from musiclm_jax.embedders.musicnn import Musicnn
from musiclm_jax.embedders.part import PartJoint
from musiclm_jax.scoring import clips

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
  waveforms = 0.1 * rng.normal(size=(2, 50000)).astype(np.float32)
  shares = model.classify(waveforms)
  assert shares.shape == (2, 50) and shares.dtype == np.float64
  np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=0, atol=1e-12)
  assert model.embed(waveforms).shape == (2, 1, 200)


def test_the_methods_of_one_network_share_its_pass(rng, tmp_path, monkeypatch):
  path = tmp_path / "a.wav"
  audio.write(str(path), 0.1 * rng.normal(size=50000), 16000)
  found, passes, run = Musicnn(), [], musicnn.embed
  monkeypatch.setattr(musicnn, "embed", lambda *x: passes.append(1) or run(*x))
  some, read = clips.Clips((str(path),), 3.0), audio.read(str(path), 16000)[None, :48000]
  for method in ("embed", "classify"):
    shared = clips.features(some, found, method)
    np.testing.assert_array_equal(shared, getattr(found, method)(read))
  assert len(passes) == 3, "features ran the network once, each method by itself once"


def test_rows_are_split_over_the_devices_and_give_the_same(rng):
  weights = batches.Weights({"kernel": rng.normal(size=(3, 2)).astype(np.float32)})
  devices = []

  def network(arrays, x):
    devices.append(len(jnp.asarray(x).sharding.device_set))
    return x @ arrays["kernel"]

  rows = rng.normal(size=(41, 3)).astype(np.float32)
  wanted = rows @ np.asarray(weights.alone["kernel"])
  np.testing.assert_allclose(batches.on_devices(network, weights, rows, 2), wanted, atol=1e-5)
  assert devices == [jax.device_count()] * 3  # 16 rows at a time
  np.testing.assert_allclose(
    batches.on_devices(network, weights, rows[:2], 2), wanted[:2], atol=1e-5
  )
  assert devices[3:] == [1]


def test_musicnn_gives_on_all_devices_what_it_gives_on_one(rng):
  waveforms = 0.1 * rng.normal(size=(5, 96300)).astype(np.float32)  # 10 patches, 8 at a time
  together = musicnn.embed(waveforms, 16000)
  apart = [np.concatenate(x) for x in zip(*(musicnn.embed(x[None], 16000) for x in waveforms))]
  for found, wanted in zip(together, apart):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


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
