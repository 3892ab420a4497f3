"""VGGish against recorded outputs of torchvggish, and the three kinds of files of its weights."""

import base64
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from musiclm_jax import storage
from musiclm_jax.embedders import embedder, torch_file, vggish
from tests import vggish_golden

TORCH_FILES = vggish_golden.GOLDEN.with_name("torch_files.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder for files of 290 MB, which are removed at once."""
  folder = tmp_path_factory.mktemp("vggish")
  yield folder
  for path in folder.iterdir():
    path.unlink()
  vggish._weights.cache_clear()


@pytest.fixture(scope="module")
def exported(folder):
  """The weights as a safetensors file with the names of torchvggish."""
  save_file(vggish_golden.torch_weights(), folder / "vggish.safetensors")
  return str(folder / "vggish.safetensors")


def write_checkpoint(path, tensors, version=1):
  """A checkpoint of TensorFlow; version 1, one file, is that of the published one."""
  import tensorflow.compat.v1 as tf

  with tf.Graph().as_default(), tf.Session() as session:
    shapes = {name: tf.placeholder(x.dtype, x.shape) for name, x in tensors.items()}
    variables = [tf.Variable(x, name=name) for name, x in shapes.items()]
    feed = {shapes[name]: x for name, x in tensors.items()}
    session.run(tf.global_variables_initializer(), feed)
    tf.train.Saver(variables, write_version=version).save(
      session, str(path), write_meta_graph=False
    )
  path.with_name("checkpoint").unlink()
  return str(path)


def test_the_log_mel_is_the_published_one():
  patches = vggish.log_mel_patches(vggish_golden.signal())
  assert patches.shape == (2, 96, 64) and patches.dtype == np.float32
  wanted = vggish_golden.read()["log_mel"]
  np.testing.assert_allclose(patches[:, vggish_golden.FRAMES], wanted, rtol=0, atol=1e-5)


def test_the_embeddings_are_those_of_torchvggish_before_its_last_relu(exported):
  model = vggish.VGGish(exported)
  signal = vggish_golden.signal()
  found = model.embed(np.stack([signal, np.zeros_like(signal)]))
  assert found.shape == (2, 2, vggish.EMBED_DIM) and found.dtype == np.float32
  wanted = vggish_golden.read()["embeddings"]
  np.testing.assert_allclose(found[0], wanted, rtol=0, atol=1e-4)
  assert (found[0] < 0).any(), "there is no ReLU behind the embedding"
  np.testing.assert_allclose(found[1, 0], found[1, 1], rtol=0, atol=1e-5)
  alone = model.embed(signal[None, :15600])  # another number of patches, the same batch
  np.testing.assert_allclose(alone[0, 0], found[0, 0], rtol=0, atol=1e-5)


def test_a_checkpoint_of_tensorflow_gives_the_same(exported, folder):
  tensors = {f"vggish/{name}": x for name, x in vggish_golden.weights().items()}
  path = write_checkpoint(folder / "vggish_model.ckpt", tensors)
  signal = vggish_golden.signal()[None]
  found, wanted = (vggish.VGGish(weights).embed(signal) for weights in (path, exported))
  np.testing.assert_array_equal(found, wanted)


def test_the_spec_says_what_the_output_depends_on(exported):
  model = vggish.VGGish(exported)
  assert isinstance(model, embedder.Embedder) and model.sample_rate == 16000
  assert model.spec == {
    "embedder": "VGGish",
    "output": "fc2 before ReLU, no PCA",
    "weights": storage.fingerprint([exported]),
    "sample_rate": 16000,
    "window_seconds": 0.96,
    "hop_seconds": 0.96,
  }


def test_what_is_missing_or_too_short_is_named(exported, tmp_path):
  with pytest.raises(ValueError, match="none.ckpt: no weights of VGGish here"):
    vggish.VGGish(str(tmp_path / "none.ckpt"))
  with pytest.raises(ValueError, match="wants 15600 samples at 16 kHz or more, found 15599"):
    vggish.VGGish(exported).embed(np.zeros((1, 15599), np.float32))


@pytest.mark.parametrize("kind", ["safetensors", "checkpoint of version 1", "of version 2"])
def test_other_tensors_are_refused_in_one_line(kind, tmp_path):
  few = {"conv1/weights": np.ones((3, 3, 1, 32), np.float32), "step": np.ones(1, np.float32)}
  path = tmp_path / "few.ckpt"
  if kind == "safetensors":
    path = tmp_path / "few.safetensors"
    save_file({"features.0.weight": np.ones((32, 1, 3, 3), np.float32), "step": few["step"]}, path)
    shapes, name = r"\(32, 1, 3, 3\) instead of \(64, 1, 3, 3\)", "features.0.weight"
  else:
    tensors = {f"vggish/{name}": x for name, x in few.items()}
    write_checkpoint(path, tensors, 1 if kind.endswith("1") else 2)
    shapes, name = r"\(3, 3, 1, 32\) instead of \(3, 3, 1, 64\)", "vggish/conv1/weights"
  with pytest.raises(
    ValueError, match="few.* lacks .* and 12 more; .* has .*step, which"
  ) as caught:
    vggish.VGGish(str(path)).embed(vggish_golden.signal()[None])
  assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match=f"{name} {shapes}"):
    vggish.VGGish(str(path)).embed(vggish_golden.signal()[None])


@pytest.mark.parametrize(
  ("name", "wrong"),
  [
    ("x.safetensors", "no safetensors file"),
    ("x.pth", "no file of tensors by torch"),
    ("x.ckpt", "no TensorFlow checkpoint"),
  ],
)
def test_a_file_of_another_kind_is_named(name, wrong, tmp_path):
  (tmp_path / name).write_bytes(b"not weights at all")
  with pytest.raises(ValueError, match=f"{name}: {wrong}"):
    vggish.VGGish(str(tmp_path / name)).embed(vggish_golden.signal()[None])


@pytest.mark.parametrize("kind", ["archive", "pickles"])
def test_a_file_of_torch_is_read_without_torch(kind, tmp_path):
  content = base64.b64decode("".join(json.loads(TORCH_FILES.read_text())[kind]))
  (tmp_path / "small.pth").write_bytes(content)
  found = torch_file.load(str(tmp_path / "small.pth"))
  assert list(found) == ["a.weight", "a.bias"]
  np.testing.assert_array_equal(found["a.weight"], np.arange(6, dtype=np.float32).reshape(3, 2).T)
  np.testing.assert_array_equal(found["a.bias"], np.array([4, 5], np.float32))
  (tmp_path / "small.pth").write_bytes(content[:-40])
  with pytest.raises(ValueError, match="small.pth: no file of tensors by torch"):
    torch_file.load(str(tmp_path / "small.pth"))


@pytest.mark.parametrize("kind", ["archive code", "pickles code", "list"])
def test_a_file_of_torch_that_holds_more_than_tensors_is_refused(kind, tmp_path):
  content = base64.b64decode("".join(json.loads(TORCH_FILES.read_text())[kind]))
  (tmp_path / "other.pth").write_bytes(content)
  wanted = "wanted a dictionary of tensors" if kind == "list" else "it holds a __builtin__.print"
  with pytest.raises(ValueError, match=f"other.pth: .*{wanted}"):
    torch_file.load(str(tmp_path / "other.pth"))
