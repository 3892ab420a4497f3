"""Embeddings and tags of audio by musicnn, a published tagger: independent of our models.

Pons and Serra, "musicnn: Pre-trained convolutional neural networks for music audio tagging" (ISMIR
2019 late-breaking, 1909.06654). The weights, trained on MagnaTagATune, come with the package
musicnn 0.1.0 (ISC); its own code needs TensorFlow 1 and is not used.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import soxr

from musiclm_jax import storage
from musiclm_jax.embedders import packages
from musiclm_jax.embedders.batches import Weights, on_devices
from musiclm_jax.quiet import quiet

EMBED_DIM = 200
SAMPLE_RATE = 16000  # Hz

_WINDOW, _HOP, _MELS = 512, 256, 96
_PATCH = 187  # frames, 3 s
_BATCH = 8  # patches
_INDEX = "MTT_musicnn/.index"
_EPSILON = 1e-3  # of batch normalisation


@dataclasses.dataclass(frozen=True)
class Musicnn:
  """An `embedder.Embedder`, and a Classifier: the shares are tag probabilities over their sum. Both
  are of one pass of the network (`embedder.Shared`).

  Raises ValueError where the package musicnn is not installed.
  """

  def __post_init__(self):
    packages.file("musicnn", _INDEX)

  sample_rate = SAMPLE_RATE

  @property
  def spec(self) -> dict[str, str | int | float]:
    """What its output depends on."""
    index = packages.file("musicnn", _INDEX)
    data = packages.file("musicnn", _INDEX.replace(".index", ".data-00000-of-00001"))
    seconds = _PATCH * _HOP / SAMPLE_RATE
    return {
      "embedder": "musicnn MTT",
      "weights": storage.fingerprint([index, data]),
      "sample_rate": SAMPLE_RATE,
      "window_seconds": seconds,
      "hop_seconds": seconds,
    }

  def embed(self, waveforms: np.ndarray) -> np.ndarray:
    """Embeddings [clips, patches, 200] float32 of waveforms [clips, samples] at 16 kHz."""
    return self.of_outputs("embed", self.outputs(waveforms))

  def classify(self, waveforms: np.ndarray) -> np.ndarray:
    """Shares [clips, 50] float64 of the tags, whose sum is 1, of [clips, samples] at 16 kHz."""
    return self.of_outputs("classify", self.outputs(waveforms))

  def outputs(self, waveforms: np.ndarray) -> np.ndarray:
    """Embeddings and tag probabilities [clips, patches, 250] float32, as `embed` gives them."""
    return np.concatenate(embed(waveforms, SAMPLE_RATE), axis=-1)

  def of_outputs(self, method: str, outputs: np.ndarray) -> np.ndarray:
    """What the method "embed" or "classify" gives for clips of these outputs."""
    if method == "embed":
      return outputs[..., :EMBED_DIM]
    tags = outputs[..., EMBED_DIM:].mean(axis=1, dtype=np.float64)
    return tags / tags.sum(axis=1, keepdims=True)


def embed(waveforms: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
  """Embeddings [clips, patches, 200] and tag probabilities [clips, patches, 50] float32.

  waveforms [clips, samples] float at sample_rate Hz. Patches of 3 s follow each other, the rest is
  left out; a clip shorter than that is one patch. The embedding is the input of the tag layer; the
  tags are those of `tag_names`.

  The package's own code rounds mel powers to half precision, which moves embeddings by 2e-4 and
  tags by 6e-5, and gives the first patch's embedding for every patch. Waveforms begin after zeros,
  as with librosa since 0.9; with 0.8 they are mirrored there, which moves the first patch's
  embedding by 0.1 and its tags by 0.02. These are the largest changes found on generated music.

  Raises ValueError where the package musicnn is not installed.
  """
  weights = _weights(str(packages.file("musicnn", _INDEX)).removesuffix(".index"))
  mels = np.stack([_log_mel(waveform, sample_rate) for waveform in waveforms])
  size = min(_PATCH, mels.shape[1])
  count = mels.shape[1] // size
  patches = mels[:, : count * size].reshape(-1, size, _MELS)
  results = on_devices(_network, weights, patches, _BATCH).reshape(len(mels), count, -1)
  return results[..., :EMBED_DIM], results[..., EMBED_DIM:]


def tag_names() -> list[str]:
  """The names of the 50 tags. Raises as `embed`."""
  packages.file("musicnn")
  from musicnn.configuration import MTT_LABELS

  return list(MTT_LABELS)


def _log_mel(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
  """log10(10000 x + 1) [frames, 96] of mel powers x."""
  x = soxr.resample(np.asarray(waveform, np.float32), sample_rate, SAMPLE_RATE)
  power = librosa.feature.melspectrogram(
    y=x, sr=SAMPLE_RATE, n_fft=_WINDOW, hop_length=_HOP, n_mels=_MELS
  )
  return np.log10(10000 * power.T + 1)


@jax.jit
def _network(weights: dict, x):
  """Embeddings, then tag probabilities, [batch, 250] of log-mel [batch, frames, 96]."""
  x = _normalise(weights, 0, x[..., None])
  wide = jnp.pad(x, ((0, 0), (3, 3), (0, 0), (0, 0)))
  fronts = [_convolve(weights, i, each, "VALID") for i, each in ((0, wide), (1, wide))]
  fronts += [_convolve(weights, i, x, "SAME") for i in (2, 3, 4)]
  # the normalisation may have negative factors, so the largest is taken after it
  parts = [_normalise(weights, 1 + i, x).max(axis=2) for i, x in enumerate(fronts)]
  middle = [jnp.concatenate(parts, axis=-1)]
  for i in (5, 6, 7):  # over time alone
    y = jnp.pad(middle[-1], ((0, 0), (3, 3), (0, 0)))[..., None]
    y = _normalise(weights, 1 + i, _convolve(weights, i, y, "VALID"))[:, :, 0]
    middle.append(y if i == 5 else y + middle[-1])
  x = jnp.concatenate(middle, axis=-1)
  pooled = jnp.stack([x.max(axis=1), x.mean(axis=1)], axis=-1).reshape(len(x), -1)
  hidden = _normalise(weights, 9, pooled) @ weights["dense/kernel"]
  hidden = _normalise(weights, 10, jax.nn.relu(hidden + _row(weights["dense/bias"], 2)))
  logits = hidden @ weights["dense_1/kernel"] + _row(weights["dense_1/bias"], 2)
  return jnp.concatenate([hidden, jax.nn.sigmoid(logits)], axis=1)


def _convolve(weights: dict, index: int, x, padding: str):
  """relu of convolution `index` of x [batch, frames, bands, channels]."""
  name = f"conv2d_{index}" if index else "conv2d"
  y = jax.lax.conv_general_dilated(
    x, weights[f"{name}/kernel"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return jax.nn.relu(y + _row(weights[f"{name}/bias"], 4))


def _normalise(weights: dict, index: int, x):
  """Batch normalisation `index` of x [..., channels] by its moving mean and variance."""
  name = f"batch_normalization_{index}" if index else "batch_normalization"
  mean, variance, scale, shift = (
    _row(weights[f"{name}/{part}"], x.ndim)
    for part in ("moving_mean", "moving_variance", "gamma", "beta")
  )
  return (x - mean) * jax.lax.rsqrt(variance + _EPSILON) * scale + shift


def _row(x, ndim: int):
  """x [channels] as an array of ndim axes."""
  return x.reshape((1,) * (ndim - 1) + (-1,))


@functools.cache
def _weights(prefix: str) -> Weights:
  """Those of the checkpoint, without the state of its optimizer."""
  with quiet():
    from tensorflow.compat.v1.train import NewCheckpointReader

  reader = NewCheckpointReader(prefix)
  names = [n for n in reader.get_variable_to_shape_map() if "Adam" not in n and "power" not in n]
  return Weights({name: reader.get_tensor(name) for name in names})
