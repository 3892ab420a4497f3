"""musicnn and basic-pitch against outputs of their packages' own code, tests/golden/embedders/."""

import librosa
import numpy as np
import pytest

from musiclm_jax.embedders import musicnn
from musiclm_jax.evaluation import transcriber
from tests import golden_listeners as golden

MEL = librosa.feature.melspectrogram
ADVANCE = 142 * 256 - 36164  # samples by which our windows of basic-pitch are farther apart


def embed() -> tuple[dict[str, np.ndarray], np.ndarray]:
  """The figures of the two patches' embeddings, and their tags [2, 50]."""
  embeddings, tags = musicnn.embed(golden.signal("musicnn")[None], musicnn.SAMPLE_RATE)
  return golden.embedding_figures(embeddings[0]), tags[0]


@pytest.mark.parametrize(
  ("version", "pad_mode"), [("0.9.2", "constant"), ("0.8.1", "reflect")], ids=["0.9.2", "0.8.1"]
)
def test_with_the_packages_rounding_and_ends_musicnn_is_the_package(version, pad_mode, monkeypatch):
  def rounded(**arguments):
    return MEL(pad_mode=pad_mode, **arguments).astype(np.float16).astype(np.float32)

  monkeypatch.setattr(librosa.feature, "melspectrogram", rounded)
  wanted = golden.read("musicnn", version)
  found, tags = embed()
  np.testing.assert_allclose(tags, wanted["tags"], rtol=0, atol=3e-6)
  for name, value in found.items():
    np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-5, err_msg=name)


def test_without_the_rounding_musicnn_is_the_package_to_half_precision():
  wanted = golden.read("musicnn")
  found, tags = embed()
  np.testing.assert_allclose(tags, wanted["tags"], rtol=0, atol=3e-5)
  for name, value in found.items():
    np.testing.assert_allclose(value, wanted[name], rtol=0, atol=2e-4, err_msg=name)


def test_an_older_librosa_changes_the_patch_at_the_beginning_alone():
  wanted = golden.read("musicnn", "0.8.1")
  found, tags = embed()
  np.testing.assert_allclose(tags[1], wanted["tags"][1], rtol=0, atol=3e-5)
  np.testing.assert_allclose(found["columns"][1], wanted["columns"][1], rtol=0, atol=2e-4)
  assert 1e-3 < np.abs(tags[0] - wanted["tags"][0]).max() < 0.02
  assert 1e-2 < np.abs(found["columns"][0] - wanted["columns"][0]).max() < 0.1


@pytest.fixture(scope="module")
def heard() -> dict[str, np.ndarray]:
  """{the package's name: [344, columns]} of its three windows, each heard where it has it.

  Window i is 188 i samples later here, so the signal is moved by as much for it.
  """
  signal, windows = golden.signal("basic_pitch"), []
  frames = len(signal) * 86 // 22050
  for i in range(-(-frames // golden.WINDOW)):
    moved = np.pad(signal, (ADVANCE * i, 0))[None]
    found = transcriber.outputs(moved, golden.RATES["basic_pitch"], tuple(golden.OUTPUTS.values()))
    first = golden.WINDOW * i
    windows.append([x[0, first : min(first + golden.WINDOW, frames)] for x in found])
  return dict(zip(golden.OUTPUTS, (np.concatenate(parts) for parts in zip(*windows))))


@pytest.mark.parametrize("name", golden.OUTPUTS)
def test_a_window_of_basic_pitch_is_the_packages(name, heard):
  wanted = golden.read("basic_pitch")[name]
  assert list(heard[name].shape) == wanted["shape"]
  np.testing.assert_allclose(
    golden.window_means(heard[name]), wanted["means"], rtol=0, atol=2e-6, err_msg="means"
  )
  rows, columns, values = zip(*wanted["drawn"])
  np.testing.assert_allclose(heard[name][rows, columns], values, rtol=0, atol=5e-6)
