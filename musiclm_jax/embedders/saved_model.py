"""Embeddings by a SavedModel of TensorFlow Hub in a folder: VGGish, TRILL, YAMNet and the like.

Such a model is called with samples and gives embeddings over time: as one tensor (google/vggish/1),
in a dictionary (google/nonsemantic-speech-benchmark/trill/3: "embedding") or in a tuple
(google/yamnet/1: scores, embeddings, spectrogram). Nothing is downloaded: the folder is what
TensorFlow Hub gives as a .tar.gz. It runs on the CPU.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from musiclm_jax import storage
from musiclm_jax.quiet import quiet
from musiclm_jax.ranges import PositiveFloat, PositiveInt


@dataclasses.dataclass(frozen=True)
class SavedModel:
  """An `embedder.Embedder` of the model in the folder `path`.

  `output` is the key of the embeddings in a dictionary or their place in a tuple ("1"), "" where
  they are all that the model gives. `arguments` are given to each call beside the samples:
  {"sample_rate": 16000} to TRILL. The model does not state its rate in Hz nor the seconds of its
  windows and their hop; they are those of its description. Raises ValueError where the folder holds
  no SavedModel.
  """

  path: str
  output: str
  sample_rate: PositiveInt
  window_seconds: PositiveFloat
  hop_seconds: PositiveFloat
  arguments: dict[str, str | int | float | bool] = dataclasses.field(
    default_factory=dict, hash=False
  )

  def __post_init__(self):
    if not pathlib.Path(self.path, "saved_model.pb").is_file():
      raise ValueError(f"{self.path}: no SavedModel here (saved_model.pb is missing)")

  @property
  def spec(self) -> dict[str, str | int | float]:
    """What its output depends on."""
    folder = pathlib.Path(self.path)
    files = [folder / "saved_model.pb"]
    files += sorted(x for x in folder.glob("variables/*") if x.is_file())
    files += sorted(x for x in folder.glob("assets/**/*") if x.is_file())
    return {
      "embedder": "SavedModel",
      "output": self.output,
      "weights": storage.fingerprint(files),
      "sample_rate": self.sample_rate,
      "window_seconds": self.window_seconds,
      "hop_seconds": self.hop_seconds,
      **{f"argument {name}": value for name, value in sorted(self.arguments.items())},
    }

  def embed(self, waveforms: np.ndarray) -> np.ndarray:
    """Embeddings [clips, patches, dim] float32 of waveforms [clips, samples] at sample_rate Hz.

    Raises ValueError where the clips are shorter than a window, the model gives no patch of them,
    or its output is another than `output` says.
    """
    seconds = waveforms.shape[1] / self.sample_rate
    if seconds < self.window_seconds:
      wanted = f"wanted clips of {self.window_seconds:g} s or more"
      raise ValueError(f"{self.path}: {wanted}, found {seconds:g} s")
    rows = np.stack([self._patches(row) for row in np.asarray(waveforms, np.float32)])
    if not rows.shape[1]:
      raise ValueError(f"{self.path}: gives no embedding of {waveforms.shape[1]} samples")
    return rows

  def _patches(self, waveform: np.ndarray) -> np.ndarray:
    """Embeddings [patches, dim] of one clip: models that take several may pad them alike."""
    call, rank = _load(self.path)
    samples = waveform if rank == 1 else waveform[None]
    try:
      result = call(samples, **self.arguments)
    except (TypeError, ValueError) as error:  # many lines, of every signature that it has
      line = str(error).strip().splitlines()[0]
      found = f"[samples] float32 and {self.arguments or 'nothing else'}"
      raise ValueError(f"{self.path}: cannot be called with {found}: {line}") from None
    array = np.asarray(self._chosen(result), np.float32)
    if array.ndim == 3 and len(array) == 1:
      array = array[0]
    if array.ndim != 2:
      wanted = f"wanted embeddings [patches, dim] as output {self.output!r}"
      raise ValueError(f"{self.path}: {wanted}, found {list(array.shape)}")
    return array

  def _chosen(self, result):
    if isinstance(result, dict):
      known = result
    elif isinstance(result, tuple | list):
      known = {str(index): each for index, each in enumerate(result)}
    else:
      known = {"": result}
    if not self.output and len(known) == 1:
      return next(iter(known.values()))
    if self.output not in known:
      names = ", ".join(map(repr, known))
      raise ValueError(f"{self.path}: no output {self.output!r}; it has {names}")
    return known[self.output]


@functools.lru_cache(maxsize=2)
def _load(path: str):
  """(the model, the axes of the samples that it takes: 1, or 2 where it takes only batches)."""
  with quiet():
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # the memory of accelerators is JAX's
    model = tf.saved_model.load(path)
  if not callable(model):
    raise ValueError(f"{path}: this SavedModel cannot be called; wanted one of TensorFlow 2")
  return lambda samples, **arguments: model(tf.constant(samples), **arguments), _rank(model)


def _rank(model) -> int:
  """2 where no signature has a vector among its arguments, but one has a batch of them."""
  ranks = set()
  for function in model.__call__.concrete_functions:
    positional, named = function.structured_input_signature
    ranks |= {x.shape.rank for x in (*positional, *named.values()) if hasattr(x, "shape")}
  return 2 if 2 in ranks and 1 not in ranks else 1
