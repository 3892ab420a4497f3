"""Parts as embedders: windows, texts and what is refused."""

import numpy as np
import pytest

from musiclm_jax import part_files
from musiclm_jax.embedders import embedder
from musiclm_jax.embedders.part import PartEmbedder, PartJoint
from musiclm_jax.text import Tokenizer
from musiclm_jax.tokenizers import frozen
from tests import bundles, small_world

RATE = bundles.SAMPLE_RATE
TEXTS = ["a slow calm flute", "drums"]


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
  """(runs, text model, bundle) of a small MusicLM; its MuLan has windows of 1 s in the bundle."""
  root = tmp_path_factory.mktemp("runs")
  runs, text = bundles.make_runs(root)
  return runs, text, bundles.export(runs, text, root / "bundle")


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
  """The directory of a frame encoder at 24 kHz."""
  directory = tmp_path_factory.mktemp("w2v_bert")
  batch = {"waveform": np.zeros((2, 7200), np.float32)}
  small_world.write_part(
    directory, small_world.self_supervised(), batch, {"sources": {}, "parts": {}}
  )
  return str(directory)


def test_a_clip_is_the_mean_of_its_windows_and_a_text_is_that_of_the_text_tower(joint, rng):
  runs, text, _ = joint
  model, part = PartJoint(runs["mulan"], text, 12, 0.5), frozen.load(runs["mulan"])
  assert isinstance(model, embedder.Joint) and model.sample_rate == RATE
  # two windows and 60 % of a third, which is filled with zeros
  clips = rng.normal(size=(9, int(1.3 * RATE))).astype(np.float32)
  rows = np.pad(clips, ((0, 0), (0, int(0.2 * RATE)))).reshape(27, RATE // 2)
  means = np.asarray(part("embed_audio", rows)).reshape(9, 3, -1).mean(axis=1)
  found = model.embed_clips(clips)
  assert found.dtype == np.float32
  np.testing.assert_allclose(
    found, means / np.linalg.norm(means, axis=1, keepdims=True), rtol=0, atol=1e-5
  )
  short = np.pad(clips[:, :600], ((0, 0), (0, 600)))
  np.testing.assert_allclose(
    model.embed_clips(clips[:, :600]), part("embed_audio", short), rtol=0, atol=1e-5
  )
  wanted = part("embed_text", Tokenizer(text).rows(TEXTS, 12))
  np.testing.assert_allclose(model.embed_texts(TEXTS), wanted, rtol=0, atol=1e-5)


def test_a_bundle_states_its_own_settings(joint, rng):
  runs, text, bundle = joint
  model, same = PartJoint(bundle), PartJoint(runs["mulan"], text, 16, 1.0)
  clips = rng.normal(size=(2, 2 * RATE)).astype(np.float32)
  np.testing.assert_allclose(model.embed_clips(clips), same.embed_clips(clips), rtol=0, atol=1e-6)
  np.testing.assert_allclose(model.embed_texts(TEXTS), same.embed_texts(TEXTS), rtol=0, atol=1e-6)
  assert model.spec == same.spec
  assert model.spec == {
    "embedder": "MuLan",
    "weights": part_files.fingerprint(runs["mulan"]),
    "text_model": part_files.fingerprint(text),
    "text_length": 16,
    "sample_rate": RATE,
    "window_seconds": 1.0,
    "hop_seconds": 1.0,
  }
  with pytest.raises(ValueError, match="bundle: a bundle states its text_model"):
    PartJoint(bundle, text_model=text)


def test_a_joint_embedding_needs_the_text_model_of_its_training(joint, tmp_path):
  runs, text, _ = joint
  with pytest.raises(ValueError, match="mulan: was trained with the text model .* is bytes"):
    PartJoint(runs["mulan"], "", 16, 1.0)
  with pytest.raises(ValueError, match="wants text_model, text_length and window_seconds"):
    PartJoint(runs["mulan"], text)
  with pytest.raises(ValueError, match="wanted the kind JointEncoder, found SoundStream"):
    PartJoint(runs["soundstream"], text, 16, 1.0)
  with pytest.raises(ValueError, match="model.json is missing"):
    PartJoint(str(tmp_path), text, 16, 1.0)
  # a text is cut to what the tower reads
  assert PartJoint(runs["mulan"], text, 1000, 1.0).spec["text_length"] == 64


def test_a_patch_is_the_mean_over_the_frames_of_a_window(frames, rng):
  part, clips = frozen.load(frames), rng.normal(size=(5, 17000)).astype(np.float32)
  for layer in (None, 1):
    model = PartEmbedder(frames, layer, 0.3)
    assert isinstance(model, embedder.Embedder) and model.sample_rate == 24000
    found = model.embed(clips)
    windows = clips[:, :14400].reshape(10, 7200)
    wanted = np.asarray(part("embed", windows, layer=layer)).mean(axis=1)
    assert found.shape[:2] == (5, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found.reshape(10, -1), wanted, rtol=0, atol=1e-5)
  assert (model.spec["embedder"], model.spec["layer"]) == ("W2vBert", "1")
  assert model.spec["weights"] == part_files.fingerprint(frames)


def test_layers_and_parts_that_are_not_there_are_refused(frames, joint, rng):
  with pytest.raises(ValueError, match="has no layer 2; it has None, 0, 1"):
    PartEmbedder(frames, 2, 0.3)
  with pytest.raises(ValueError, match="wanted the kind FrameEncoder, found MuLan"):
    PartEmbedder(joint[0]["mulan"], 0, 0.3)
  with pytest.raises(ValueError, match="w2v_bert: model.json is missing"):
    PartEmbedder(joint[2], 0, 0.3)
  with pytest.raises(ValueError, match="wanted clips of 7200 samples or more, found 7199"):
    PartEmbedder(frames, 0, 0.3).embed(np.zeros((1, 7199), np.float32))
