"""VGGish: embeddings of 0.96 s of audio by a network that was trained on the tags of YouTube.

Hershey et al., "CNN architectures for large-scale audio classification" (ICASSP 2017, 1609.09430),
as tensorflow/models publishes it in research/audioset/vggish (Apache-2.0): it is the embedding of
the Fréchet audio distance (1812.08466) and of MusicLM's. The weights are read from a file that the
user has; nothing is downloaded.

The embedding is the output of the 128 units of the layer fc2 before any ReLU, as the published
definition gives it today. torchvggish, and older versions of that definition, put a ReLU behind it,
so that distances measured with those are others. There is no PCA and no quantization.
"""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax import storage
from musiclm_jax.descriptions import difference
from musiclm_jax.embedders import torch_file
from musiclm_jax.embedders.batches import Weights, on_devices
from musiclm_jax.quiet import quiet

EMBED_DIM = 128
SAMPLE_RATE = 16000  # Hz

_WINDOW, _HOP, _TRANSFORM, _MELS = 400, 160, 512, 64  # samples; 25 and 10 ms
_RANGE = (125.0, 7500.0)  # Hz
_OFFSET = 0.01
_PATCH = 96  # frames, 0.96 s
_BATCH = 16  # patches; with 8 the convolutions were ten times slower on a processor

# {name in TensorFlow: (name in torch, channels or units of the input, of the output)}
_CONVOLUTIONS = {
  "conv1": ("features.0", 1, 64),
  "conv2": ("features.3", 64, 128),
  "conv3/conv3_1": ("features.6", 128, 256),
  "conv3/conv3_2": ("features.8", 256, 256),
  "conv4/conv4_1": ("features.11", 256, 512),
  "conv4/conv4_2": ("features.13", 512, 512),
}
_DENSE = {
  "fc1/fc1_1": ("embeddings.0", 6 * 4 * 512, 4096),
  "fc1/fc1_2": ("embeddings.2", 4096, 4096),
  "fc2": ("embeddings.4", 4096, EMBED_DIM),
}
_POOLED = ("conv1", "conv2", "conv3/conv3_2", "conv4/conv4_2")  # a maximum follows these


@dataclasses.dataclass(frozen=True)
class VGGish:
  """An `embedder.Embedder` with the weights of a file.

  `weights` is the TensorFlow checkpoint (vggish_model.ckpt), or the weights of torchvggish as
  .safetensors or .pth. Raises ValueError where there is no such file.
  """

  weights: str

  def __post_init__(self):
    _files(self.weights)

  sample_rate = SAMPLE_RATE

  @property
  def spec(self) -> dict[str, str | int | float]:
    """What its output depends on."""
    seconds = _PATCH * _HOP / SAMPLE_RATE
    return {
      "embedder": "VGGish",
      "output": "fc2 before ReLU, no PCA",
      "weights": storage.fingerprint(_files(self.weights)),
      "sample_rate": SAMPLE_RATE,
      "window_seconds": seconds,
      "hop_seconds": seconds,
    }

  def embed(self, waveforms: np.ndarray) -> np.ndarray:
    """Embeddings [clips, patches, 128] float32 of waveforms [clips, samples] at 16 kHz.

    Patches of 0.96 s follow each other, the rest is left out. Raises ValueError where a clip is
    shorter than the 15600 samples of one patch, and for weights that are not VGGish's.
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      patches = np.stack(list(pool.map(log_mel_patches, waveforms)))
    rows = patches.reshape(-1, _PATCH, _MELS)
    embeddings = on_devices(_network, _weights(self.weights), rows, _BATCH)
    return embeddings.reshape(*patches.shape[:2], EMBED_DIM)


def log_mel_patches(waveform: np.ndarray) -> np.ndarray:
  """ln(x + 0.01) [patches, 96, 64] float32 of mel magnitudes x of a waveform [samples] at 16 kHz.

  Windows of 25 ms every 10 ms, without padding. Raises ValueError where they do not fill a patch.
  """
  least = (_PATCH - 1) * _HOP + _WINDOW
  if len(waveform) < least:
    raise ValueError(f"VGGish wants {least} samples at 16 kHz or more, found {len(waveform)}")
  # float64, as published: one rounding, at the end
  x = np.asarray(waveform, np.float64)
  frames = np.lib.stride_tricks.sliding_window_view(x, _WINDOW)[::_HOP]
  count = len(frames) // _PATCH
  hann = 0.5 - 0.5 * np.cos(2 * np.pi / _WINDOW * np.arange(_WINDOW))
  magnitudes = np.abs(np.fft.rfft(frames[: count * _PATCH] * hann, _TRANSFORM))
  mels = np.log(magnitudes @ _mel_filters() + _OFFSET)
  return mels.reshape(count, _PATCH, _MELS).astype(np.float32)


@functools.cache
def _mel_filters() -> np.ndarray:
  """Filters [257, 64] whose slopes are linear in HTK's mel, not in Hz; the bin of 0 Hz is empty."""
  bins = _mel(np.linspace(0, SAMPLE_RATE / 2, _TRANSFORM // 2 + 1))[:, None]
  edges = np.linspace(*_mel(np.array(_RANGE)), _MELS + 2)
  low, centre, high = edges[:-2], edges[1:-1], edges[2:]
  rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
  filters = np.maximum(0, np.minimum(rising, falling))
  filters[0] = 0
  return filters


def _mel(hertz: np.ndarray) -> np.ndarray:
  return 1127 * np.log(1 + hertz / 700)


@jax.jit
def _network(weights: dict, x):
  """Embeddings [batch, 128] of log-mel [batch, 96, 64]."""
  exact = jax.lax.Precision.HIGHEST  # else an accelerator's scores differ from a processor's
  x = x[..., None]
  for name in _CONVOLUTIONS:
    axes = ("NHWC", "HWIO", "NHWC")
    kernel = weights[f"{name}/weights"]
    x = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=axes, precision=exact
    )
    x = jax.nn.relu(x + weights[f"{name}/biases"].reshape(1, 1, 1, -1))
    if name in _POOLED:
      batch, height, width, channels = x.shape
      x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
  x = x.reshape(len(x), -1)
  for name in _DENSE:
    x = jnp.matmul(x, weights[f"{name}/weights"], precision=exact)
    x += weights[f"{name}/biases"].reshape(1, -1)
    x = x if name == "fc2" else jax.nn.relu(x)
  return x


def shapes() -> dict[str, tuple[int, ...]]:
  """{name: shape} of the weights, by their names in the TensorFlow checkpoint without `vggish/`."""
  wanted = {}
  for name, (_, inputs, outputs) in (_CONVOLUTIONS | _DENSE).items():
    kernel = (3, 3) if name in _CONVOLUTIONS else ()
    wanted |= {f"{name}/weights": (*kernel, inputs, outputs), f"{name}/biases": (outputs,)}
  return wanted


def _files(path: str) -> list[pathlib.Path]:
  """The file, or the files of a checkpoint of TensorFlow's second format, which have endings."""
  if pathlib.Path(path).is_file():
    return [pathlib.Path(path)]
  index = pathlib.Path(f"{path}.index")
  if not index.is_file():
    raise ValueError(f"{path}: no weights of VGGish here: no such file or checkpoint")
  return [index, *sorted(index.parent.glob(f"{index.stem}.data-*"))]


@functools.lru_cache(maxsize=2)
def _weights(path: str) -> Weights:
  """The weights, of exactly the names and shapes of `shapes`."""
  of_torch = pathlib.Path(path).suffix in (".safetensors", ".pth", ".pt")
  found = _of_torch(path) if of_torch else _of_tensorflow(path)
  wanted = _torch_shapes() if of_torch else {f"vggish/{n}": shape for n, shape in shapes().items()}
  if wrong := difference(wanted, {n: x.shape for n, x in found.items()}, "VGGish", path):
    raise ValueError(wrong)
  found = _renamed(found) if of_torch else {n.removeprefix("vggish/"): x for n, x in found.items()}
  return Weights({name: jnp.asarray(x, jnp.float32) for name, x in found.items()})


def _torch_shapes() -> dict[str, tuple[int, ...]]:
  """As `shapes`, by the names of torchvggish and in the order of its axes."""
  wanted = {}
  for name, (torch_name, inputs, outputs) in (_CONVOLUTIONS | _DENSE).items():
    kernel = (3, 3) if name in _CONVOLUTIONS else ()
    wanted |= {f"{torch_name}.weight": (outputs, inputs, *kernel), f"{torch_name}.bias": (outputs,)}
  return wanted


def _renamed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The tensors of torchvggish by the names, and with the axes, of TensorFlow.

  Its first dense layer reads [time, mel, channels], as TensorFlow's does, so its rows stay.
  """
  renamed = {}
  for name, (torch_name, *_) in (_CONVOLUTIONS | _DENSE).items():
    kernel = tensors[f"{torch_name}.weight"]
    renamed[f"{name}/weights"] = kernel.transpose((2, 3, 1, 0) if kernel.ndim == 4 else (1, 0))
    renamed[f"{name}/biases"] = tensors[f"{torch_name}.bias"]
  return renamed


def _of_torch(path: str) -> dict[str, np.ndarray]:
  if not path.endswith(".safetensors"):
    return torch_file.load(path)
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  try:
    return load_file(path)
  except SafetensorError as error:
    raise ValueError(f"{path}: no safetensors file ({error})") from None


def _of_tensorflow(path: str) -> dict[str, np.ndarray]:
  with quiet():
    from tensorflow import errors
    from tensorflow.compat.v1.train import NewCheckpointReader

  try:
    reader = NewCheckpointReader(path)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
  except (errors.OpError, RuntimeError) as error:
    raise ValueError(f"{path}: no TensorFlow checkpoint ({str(error).splitlines()[0]})") from None
