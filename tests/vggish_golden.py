"""The signal and the weights of which tests/golden/embedders/vggish.json was recorded."""

import json
from pathlib import Path

import numpy as np

from musiclm_jax.embedders import vggish

GOLDEN = Path(__file__).parent / "golden" / "embedders" / "vggish.json"
FRAMES = (0, 31, 95)  # of a patch, in the golden


def read() -> dict:
  """{log_mel: [2, 3, 64] of FRAMES, embeddings: [2, 128]} as arrays."""
  golden = json.loads(GOLDEN.read_text())
  return {name: np.array(golden[name]) for name in ("log_mel", "embeddings")}


def signal() -> np.ndarray:
  """2.2 s at 16 kHz, two patches and a rest: tones that fade, in noise, and a silent stretch."""
  rng = np.random.default_rng(7)
  time = np.arange(35200) / 16000
  x = sum(0.2 * np.sin(2 * np.pi * hertz * time) for hertz in (110, 440, 1760, 7040))
  x = x * np.exp(-time) + 0.05 * rng.standard_normal(len(time))
  x[8000:9600] = 0
  return x.astype(np.float32)


def weights() -> dict[str, np.ndarray]:
  """{name: array} by the names and shapes of `vggish.shapes`; activations keep their size."""
  rng = np.random.default_rng(11)
  made = {}
  for name, shape in vggish.shapes().items():
    scale = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.1
    made[name] = np.float32(scale) * rng.standard_normal(shape, np.float32)
  return made


def torch_weights() -> dict[str, np.ndarray]:
  """The same under the names, and with the axes, of torchvggish."""
  names = [f"features.{i}" for i in (0, 3, 6, 8, 11, 13)] + [f"embeddings.{i}" for i in (0, 2, 4)]
  layers = [name.removesuffix("/weights") for name in vggish.shapes() if name.endswith("weights")]
  made, ours = {}, weights()
  for layer, name in zip(layers, names):
    kernel = ours[f"{layer}/weights"]
    kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
    made |= {
      f"{name}.weight": np.ascontiguousarray(kernel),
      f"{name}.bias": ours[f"{layer}/biases"],
    }
  return made
