"""Embeddings and classes of audio by a classifier of transformers in a folder, run by torch.

MIT/ast-finetuned-audioset-10-10-0.4593 (Gong et al., "AST: Audio Spectrogram Transformer",
2104.01778, BSD-3-Clause) knows the 527 classes of AudioSet; any other audio classifier that
transformers has serves too. The folder holds config.json, preprocessor_config.json and the weights;
nothing is downloaded. Torch and transformers (the extra [hf]) are imported inside functions alone.
"""

import dataclasses
import functools
import json
import pathlib

import numpy as np

from musiclm_jax import storage
from musiclm_jax.embedders.batches import in_batches, whole_windows
from musiclm_jax.ranges import PositiveFloat
from musiclm_jax.tokenizers.pretrained import libraries, preprocessor_of

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_FRAME_SECONDS = 0.01  # of AST's feature extractor, which has no setting for it
_BATCH = 8  # windows


@dataclasses.dataclass(frozen=True)
class TorchClassifier:
  """An `embedder.Embedder` and a Classifier of the model in the folder `path`.

  Clips are cut into windows of `window_seconds` that follow each other; the rest is left out. The
  embedding of a window is the mean over all positions of the last hidden state; AST's head reads
  the first two of them. The shares of a window are the softmax of the logits, whatever loss the
  model was trained with, as AudioCraft takes those of PaSST for its divergence; those of a clip are
  the mean of its windows'. Raises ValueError where a file is missing, or a window is longer than
  AST reads.
  """

  path: str
  window_seconds: PositiveFloat

  def __post_init__(self):
    described = self._json(_PREPROCESSOR)
    _files(self.path)
    if "sampling_rate" not in described:
      raise ValueError(f"{self.path}: {_PREPROCESSOR} states no sampling_rate: not one of audio")
    if described.get("feature_extractor_type") == "ASTFeatureExtractor":
      most = described["max_length"] * _FRAME_SECONDS
      if self.window_seconds > most:
        raise ValueError(f"{self.path}: reads at most {most:g} s, found {self.window_seconds:g} s")

  @property
  def sample_rate(self) -> int:
    """Hz of the waveforms."""
    return self._json(_PREPROCESSOR)["sampling_rate"]

  @property
  def spec(self) -> dict[str, str | int | float]:
    """What its output depends on."""
    return {
      "embedder": self._json(_CONFIG)["model_type"],
      "output": "mean of last hidden state; softmax of logits",
      "weights": storage.fingerprint(_files(self.path)),
      "sample_rate": self.sample_rate,
      "window_seconds": self.window_seconds,
      "hop_seconds": self.window_seconds,
    }

  @property
  def labels(self) -> list[str]:
    """The names of the classes."""
    names = self._json(_CONFIG)["id2label"]
    return [names[str(index)] for index in range(len(names))]

  def embed(self, waveforms: np.ndarray) -> np.ndarray:
    """Embeddings [clips, windows, dim] float32 of waveforms [clips, samples] at sample_rate Hz.

    Raises ValueError where the clips are shorter than one window, and as `classify`.
    """
    return self._of_windows(_hidden_mean, waveforms)

  def classify(self, waveforms: np.ndarray) -> np.ndarray:
    """Shares [clips, classes] float64 that sum to 1, of waveforms [clips, samples].

    Raises ValueError where the clips are shorter than one window, the weights are not those of
    config.json, or the extra [hf] is not installed.
    """
    logits = self._of_windows(_logits, waveforms).astype(np.float64)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True)).mean(axis=1)

  def _of_windows(self, output, waveforms: np.ndarray) -> np.ndarray:
    """An output [clips, windows, dim] of the network."""
    torch, _ = libraries()
    network, preprocess = _load(self.path)
    samples = round(self.window_seconds * self.sample_rate)
    windows = whole_windows(np.asarray(waveforms, np.float32), samples)

    def run(rows):
      features = preprocess(list(rows), sampling_rate=self.sample_rate, return_tensors="pt")
      with torch.inference_mode():
        return output(network, features).numpy()

    rows = in_batches(run, windows.reshape(-1, samples), _BATCH)
    return rows.reshape(*windows.shape[:2], -1)

  def _json(self, name: str) -> dict:
    try:
      return json.loads(pathlib.Path(self.path, name).read_text())
    except FileNotFoundError:
      raise ValueError(f"{self.path}: no classifier here ({name} is missing)") from None
    except json.JSONDecodeError as error:
      raise ValueError(f"{self.path}: {name} is not JSON ({error})") from None


def _hidden_mean(network, features):
  return network.base_model(**features).last_hidden_state.mean(dim=1)


def _logits(network, features):
  return network(**features).logits


def _files(path: str) -> list[pathlib.Path]:
  """The files that the output depends on; of weights, safetensors where there are some."""
  folder = pathlib.Path(path)
  weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
  if not weights:
    raise ValueError(f"{path}: no weights here (*.safetensors or pytorch_model.bin)")
  return [folder / _CONFIG, folder / _PREPROCESSOR, *weights]


@functools.lru_cache(maxsize=2)
def _load(path: str):
  """(network, feature extractor), with exactly the tensors of the configuration."""
  _, transformers = libraries()
  try:
    network, report = transformers.AutoModelForAudioClassification.from_pretrained(
      path, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
  except (OSError, ValueError, KeyError) as error:
    line = str(error).strip().splitlines()[0]
    raise ValueError(f"{path}: no audio classifier of this transformers: {line}") from None
  wrong = [f"lacks {name}" for name in sorted(report["missing_keys"])]
  wrong += [f"has {name}, which the model has not" for name in sorted(report["unexpected_keys"])]
  wrong += [
    f"has {name} {list(found)} instead of {list(wanted)}"
    for name, found, wanted in sorted(report["mismatched_keys"])
  ]
  if wrong:
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    raise ValueError(f"{path}: does not fit its config.json: {wrong[0]}{more}")
  description = json.loads(pathlib.Path(path, _PREPROCESSOR).read_text())
  return network.float().eval(), preprocessor_of(description)
