"""Embedders from SavedModels, which are called in the ways of those of TensorFlow Hub."""

import numpy as np
import pytest

from musiclm_jax.embedders import embedder
from musiclm_jax.embedders.saved_model import SavedModel

HOP = 400  # samples
SETTINGS = dict(sample_rate=16000, window_seconds=0.025, hop_seconds=0.025)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """{kind: folder} of models that frame samples and multiply the frames by fixed numbers."""
  import tensorflow as tf

  kernel = np.random.default_rng(0).normal(size=(HOP, 5)).astype(np.float32)
  vector, batch = (tf.TensorSpec(shape, tf.float32) for shape in ([None], [None, None]))

  class Model(tf.Module):
    def __init__(self):
      super().__init__()
      self.kernel = tf.Variable(kernel)

    def frames(self, samples):
      return tf.signal.frame(samples, HOP, HOP) @ self.kernel

  class VGGish(Model):
    @tf.function(input_signature=[vector])
    def __call__(self, samples):
      return self.frames(samples)

  class Trill(Model):
    @tf.function
    def __call__(self, samples, sample_rate):
      frames = self.frames(samples) * tf.cast(sample_rate, tf.float32) / 16000
      return {"embedding": frames, "layer19": frames[..., :2]}

  class YamNet(Model):
    @tf.function(input_signature=[vector])
    def __call__(self, waveform):
      frames = self.frames(waveform)
      return tf.nn.softmax(frames), frames + 1, frames[:, None]

  made = {"vggish": VGGish(), "trill": Trill(), "yamnet": YamNet()}
  rate = tf.TensorSpec([], tf.int32)
  made["trill"].__call__.get_concrete_function(samples=batch, sample_rate=rate)
  folders = {kind: str(tmp_path_factory.mktemp(kind)) for kind in made}
  for kind, model in made.items():
    tf.saved_model.save(model, folders[kind])
  return folders, kernel


@pytest.fixture
def waveforms(rng):
  return rng.normal(size=(3, 3 * HOP + 100)).astype(np.float32)


@pytest.mark.parametrize(
  ("kind", "output", "arguments", "added"),
  [
    ("vggish", "", {}, 0),
    ("trill", "embedding", {"sample_rate": 16000}, 0),
    ("yamnet", "1", {}, 1),
  ],
)
def test_a_model_is_called_as_its_publisher_does(kind, output, arguments, added, models, waveforms):
  folders, kernel = models
  model = SavedModel(folders[kind], output, **SETTINGS, arguments=arguments)
  assert isinstance(model, embedder.Embedder)
  found = model.embed(waveforms)
  wanted = waveforms[:, : 3 * HOP].reshape(3, 3, HOP) @ kernel + added
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_the_spec_has_all_settings_and_the_weights(models):
  (folders, _), settings = models, dict(**SETTINGS, arguments={"sample_rate": 16000})
  spec = SavedModel(folders["trill"], "embedding", **settings).spec
  assert {name: spec[name] for name in SETTINGS} == SETTINGS
  assert (spec["output"], spec["argument sample_rate"]) == ("embedding", 16000)
  assert (
    len({SavedModel(folder, "", **SETTINGS).spec["weights"] for folder in folders.values()}) == 3
  )


@pytest.mark.parametrize(
  ("kind", "output", "wrong"),
  [
    ("vggish", "embedding", "no output 'embedding'; it has ''"),
    ("yamnet", "", "no output ''; it has '0', '1', '2'"),
    ("yamnet", "2", r"wanted embeddings \[patches, dim\] as output '2', found \[3, 1, 5\]"),
    ("trill", "embedding", "cannot be called with .* and nothing else: "),
  ],
)
def test_another_output_than_it_has_is_an_error(kind, output, wrong, models, waveforms):
  with pytest.raises(ValueError, match=wrong) as caught:
    SavedModel(models[0][kind], output, **SETTINGS).embed(waveforms)
  assert "\n" not in str(caught.value) and models[0][kind] in str(caught.value)


def test_short_clips_and_other_folders_are_errors(models, waveforms, tmp_path):
  with pytest.raises(ValueError, match="wanted clips of 0.025 s or more, found 0.01 s"):
    SavedModel(models[0]["vggish"], "", **SETTINGS).embed(waveforms[:, :160])
  shorter = SETTINGS | {"window_seconds": 0.01}
  with pytest.raises(ValueError, match="gives no embedding of 160 samples"):
    SavedModel(models[0]["vggish"], "", **shorter).embed(waveforms[:, :160])
  with pytest.raises(ValueError, match="no SavedModel here"):
    SavedModel(str(tmp_path), "", **SETTINGS)
