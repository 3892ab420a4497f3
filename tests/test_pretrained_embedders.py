"""Classifiers and imported parts of transformers as embedders, and weights that torch writes."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from musiclm_jax.embedders import embedder, torch_file
from musiclm_jax.embedders.part import PartEmbedder, PartJoint
from musiclm_jax.embedders.torch_classifier import TorchClassifier
from musiclm_jax.text import Tokenizer
from musiclm_jax.tokenizers import frozen, importing
from tests import published
from tests.test_text import roberta

RATE, SECONDS = 16000, 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A small AST with random weights, as transformers saves it."""
  torch.manual_seed(0)
  config = transformers.ASTConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_length=64,
    num_mel_bins=32,
    id2label={0: "Music", 1: "Speech", 2: "Harp"},
  )
  model = transformers.ASTForAudioClassification(config)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.3 * torch.randn_like(parameter))
  path = tmp_path_factory.mktemp("ast")
  model.save_pretrained(path)
  transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=32).save_pretrained(path)
  return path


@pytest.fixture
def waveforms(rng):
  """Two clips of two windows and a rest."""
  return (0.1 * rng.normal(size=(2, int(2.3 * SECONDS * RATE)))).astype(np.float32)


def test_a_classifier_gives_what_transformers_gives_of_each_window(folder, waveforms):
  model = TorchClassifier(str(folder), SECONDS)
  assert isinstance(model, embedder.Embedder) and isinstance(model, embedder.Classifier)
  windows = waveforms[:, : int(2 * SECONDS * RATE)].reshape(4, -1)
  network = transformers.AutoModelForAudioClassification.from_pretrained(folder).eval()
  extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
  features = extractor(list(windows), sampling_rate=RATE, return_tensors="pt")
  with torch.no_grad():
    hidden = network.audio_spectrogram_transformer(**features).last_hidden_state
    shares = network(**features).logits.double().softmax(dim=-1).reshape(2, 2, 3)
  found = model.embed(waveforms)
  assert found.shape == (2, 2, 16) and found.dtype == np.float32
  np.testing.assert_allclose(found.reshape(4, 16), hidden.mean(dim=1), rtol=0, atol=1e-5)
  found = model.classify(waveforms)
  assert found.shape == (2, 3) and found.dtype == np.float64
  np.testing.assert_allclose(found, shares.mean(dim=1), rtol=0, atol=1e-5)
  np.testing.assert_allclose(found.sum(axis=1), 1, rtol=0, atol=1e-12)
  assert model.labels == ["Music", "Speech", "Harp"]


def test_the_spec_says_what_the_output_depends_on(folder, tmp_path):
  spec = TorchClassifier(str(folder), SECONDS).spec
  named = ("embedder", "sample_rate", "window_seconds", "hop_seconds")
  assert [spec[n] for n in named] == ["audio-spectrogram-transformer", RATE, SECONDS, SECONDS]
  other = shutil.copytree(folder, tmp_path / "other")
  _rewrite(other / "preprocessor_config.json", mean=0.0)
  assert TorchClassifier(str(other), SECONDS).spec["weights"] != spec["weights"]


def test_what_does_not_fit_is_named(folder, waveforms, tmp_path):
  with pytest.raises(ValueError, match="wanted clips of 8000 samples or more, found 7999"):
    TorchClassifier(str(folder), SECONDS).embed(waveforms[:, :7999])
  with pytest.raises(ValueError, match="reads at most 0.64 s, found 0.65 s"):
    TorchClassifier(str(folder), 0.65)
  with pytest.raises(ValueError, match=r"no classifier here \(preprocessor_config.json"):
    TorchClassifier(str(tmp_path), SECONDS)
  other = shutil.copytree(folder, tmp_path / "other")
  extractor = json.loads((other / "preprocessor_config.json").read_text())
  del extractor["sampling_rate"]
  (tmp_path / "preprocessor_config.json").write_text(json.dumps(extractor))
  (tmp_path / "model.safetensors").touch()
  with pytest.raises(ValueError, match="states no sampling_rate: not one of audio"):
    TorchClassifier(str(tmp_path), SECONDS)
  tensors = load_file(other / "model.safetensors")
  del tensors["classifier.dense.weight"]
  save_file(tensors | {"more": torch.zeros(1)}, other / "model.safetensors", {"format": "pt"})
  with pytest.raises(ValueError, match="other: does not fit .* lacks classifier.* and 1 more"):
    TorchClassifier(str(other), SECONDS).classify(waveforms)
  _rewrite(other / "config.json", model_type="vits")
  with pytest.raises(ValueError, match="renamed: no audio classifier of this transformers"):
    TorchClassifier(str(other.rename(tmp_path / "renamed")), SECONDS).classify(waveforms)
  (tmp_path / "renamed" / "model.safetensors").unlink()
  with pytest.raises(ValueError, match="renamed: no weights here"):
    TorchClassifier(str(tmp_path / "renamed"), SECONDS)


def adopt(source, model_dir):
  importing.import_checkpoint(
    source=str(source),
    model_dir=str(model_dir),
    sample_rate=published.RATE,
    levels=0,
    licence="",
    accept_noncommercial=False,
  )
  return str(model_dir)


def test_an_imported_clap_is_a_joint_embedding(rng, tmp_path):
  folder = published.save("clap", tmp_path / "clap")
  text_model = roberta(folder / "tokenizer.json")
  directory = adopt(folder, tmp_path / "part")
  model, part = PartJoint(directory, text_model, 20, 1.0), frozen.load(directory)
  assert isinstance(model, embedder.Joint) and model.spec["embedder"] == "TorchJoint"
  clips = (0.1 * rng.normal(size=(3, 2 * published.RATE))).astype(np.float32)
  windows = part("embed_audio", clips.reshape(6, -1)).reshape(3, 2, -1).mean(axis=1)
  windows /= np.linalg.norm(windows, axis=1, keepdims=True)
  np.testing.assert_allclose(model.embed_clips(clips), windows, rtol=0, atol=1e-5)
  texts = ["a slow flute", "drums"]
  wanted = part("embed_text", Tokenizer(text_model).rows(texts, 20))
  np.testing.assert_allclose(model.embed_texts(texts), wanted, rtol=0, atol=1e-5)


def test_an_imported_hubert_is_an_embedder_of_any_layer(rng, tmp_path):
  directory = adopt(published.save("hubert", tmp_path / "hubert"), tmp_path / "part")
  clips = (0.1 * rng.normal(size=(2, 2 * published.RATE))).astype(np.float32)
  found = PartEmbedder(directory, 2, 1.0).embed(clips)
  wanted = frozen.load(directory)("embed", clips.reshape(4, -1), layer=2).mean(axis=1)
  assert found.shape == (2, 2, 16)
  np.testing.assert_allclose(found.reshape(4, 16), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("archive", [True, False])
def test_what_torch_saves_is_read_without_it(archive, tmp_path):
  torch.manual_seed(0)
  network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Linear(3, 4).half())
  path = tmp_path / "network.pth"
  torch.save(network.state_dict(), path, _use_new_zipfile_serialization=archive)
  found = torch_file.load(str(path))
  wanted = {name: x.numpy() for name, x in network.state_dict().items()}
  assert list(found) == list(wanted)
  for name, array in wanted.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)


def _rewrite(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
