"""Parts of this project as embedders: joint embeddings (MuLan, CLAP), frames (w2v-BERT, HuBERT).

A part is a model directory that a training or `musiclm import` made. A bundle, by its path or, if
released, by its name, serves too: its own part is taken from it.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from musiclm_jax import part_files, windows
from musiclm_jax.embedders.batches import in_batches, whole_windows
from musiclm_jax.export import bundle as bundles
from musiclm_jax.ranges import PositiveFloat, PositiveInt
from musiclm_jax.text import Tokenizer
from musiclm_jax.tokenizers import frozen, protocols

_BATCH = 8  # windows or texts


@dataclasses.dataclass(frozen=True)
class PartJoint:
  """An `embedder.Joint`: a clip is the mean over its windows, brought back to length 1.

  `part` is the directory of a part with the contract `protocols.JointEncoder`. Its texts are ids by
  `text_model`, as `text.Tokenizer` takes it ("" for bytes), at most `text_length` of them (and of
  those that the part reads). Windows of `window_seconds` follow each other, as the extraction of
  tokens cuts them: the last may reach past the end, into zeros, by less than half. CLAP reads at
  most 10 s.

  Of a bundle, `part` alone is given: bundle.json states the rest. Raises ValueError, naming `part`,
  where it is no such part, its text model is not that of its training, or settings are missing or
  too many.
  """

  part: str
  text_model: str | None = None
  text_length: PositiveInt | None = None
  window_seconds: PositiveFloat | None = None

  def __post_init__(self):
    self._settings  # noqa: B018

  @property
  def sample_rate(self) -> int:
    """Hz of the waveforms."""
    return self._settings.module.sample_rate

  @property
  def spec(self) -> dict[str, str | int | float]:
    """What its output depends on."""
    own = self._settings
    return {
      "embedder": type(own.module).__name__,
      "weights": part_files.fingerprint(own.directory),
      "text_model": part_files.fingerprint(own.text_model) if own.text_model else "bytes",
      "text_length": own.text_length,
      "sample_rate": self.sample_rate,
      "window_seconds": own.window_seconds,
      "hop_seconds": own.window_seconds,
    }

  def embed_clips(self, waveforms: np.ndarray) -> np.ndarray:
    """Embeddings [clips, dim] float32 of length 1 of waveforms [clips, samples]."""
    own, part = self._settings, _load(self._settings.directory)
    samples = round(own.window_seconds * self.sample_rate)
    cut = windows.cut(np.asarray(waveforms, np.float32), samples, samples)
    rows = in_batches(lambda x: part("embed_audio", x), cut.reshape(-1, samples), _BATCH)
    means = rows.reshape(*cut.shape[:2], -1).mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)

  def embed_texts(self, texts: list[str]) -> np.ndarray:
    """Embeddings [texts, dim] float32 of length 1; a line on stderr reports texts that are cut."""
    own, part = self._settings, _load(self._settings.directory)
    rows = Tokenizer(own.text_model).fitted(texts, own.text_length)
    return in_batches(lambda x: part("embed_text", x), rows, _BATCH)

  @functools.cached_property
  def _settings(self) -> "_Joint":
    given = (self.text_model, self.text_length, self.window_seconds)
    bundle = bundles.find(self.part)
    if pathlib.Path(bundle, "bundle.json").is_file():
      if given != (None, None, None):
        raise ValueError(f"{self.part}: a bundle states its text_model, text_length and windows")
      return _of_bundle(bundle)
    if None in given:
      wanted = "a part without a bundle wants text_model, text_length and window_seconds"
      raise ValueError(f"{self.part}: {wanted}, found {given}")
    module, provenance = part_files.read_description(self.part)
    protocols.check_kind(module, protocols.JointEncoder, self.part)
    wanted = provenance["parts"].get("text_model", "")
    found = part_files.fingerprint(self.text_model) if self.text_model else ""
    if found != wanted:
      wanted = f"the text model {wanted}" if wanted else "bytes"
      found = f"{self.text_model or 'bytes'} {found}".strip()
      raise ValueError(f"{self.part}: was trained with {wanted}, text_model is {found}")
    length = min(self.text_length, module.max_tokens)
    return _Joint(module, self.part, self.text_model, length, self.window_seconds)


@dataclasses.dataclass(frozen=True)
class _Joint:
  """What PartJoint runs: a module of the part in `directory`, and all its settings."""

  module: object
  directory: str
  text_model: str
  text_length: int
  window_seconds: float


def _of_bundle(bundle: str) -> _Joint:
  described = bundles.load_description(bundle)
  directory = str(pathlib.Path(bundle, "mulan"))
  if "mulan" not in described["parts"] or "mulan" not in described["sources"]:
    raise ValueError(f"{bundle}: this bundle has no part mulan with windows")
  module, _ = part_files.read_description(directory)
  seconds = described["sources"]["mulan"]["window_seconds"]
  return _Joint(module, directory, described["text_model"], described["text_length"], seconds)


@dataclasses.dataclass(frozen=True)
class PartEmbedder:
  """An `embedder.Embedder`: a patch is the mean over the frames of a window, in one layer.

  `part` is the directory of a part with the contract `protocols.FrameEncoder`, or a bundle, whose
  w2v_bert is taken; `layer` is one of those that the part has. Windows of `window_seconds` follow
  each other, the rest is left out. Raises ValueError, naming `part`, where it is no such part or
  has no such layer.
  """

  part: str
  layer: int | None
  window_seconds: PositiveFloat

  def __post_init__(self):
    module = self._module
    protocols.check_kind(module, protocols.FrameEncoder, self._directory)
    if self.layer not in module.layers:
      known = ", ".join(map(str, module.layers))
      raise ValueError(f"{self.part}: has no layer {self.layer}; it has {known}")

  @property
  def sample_rate(self) -> int:
    """Hz of the waveforms."""
    return self._module.sample_rate

  @property
  def spec(self) -> dict[str, str | int | float]:
    """What its output depends on."""
    return {
      "embedder": type(self._module).__name__,
      "layer": str(self.layer),
      "weights": part_files.fingerprint(self._directory),
      "sample_rate": self.sample_rate,
      "window_seconds": self.window_seconds,
      "hop_seconds": self.window_seconds,
    }

  def embed(self, waveforms: np.ndarray) -> np.ndarray:
    """Embeddings [clips, windows, dim] float32 of waveforms [clips, samples].

    Raises ValueError where the clips are shorter than one window.
    """
    samples = round(self.window_seconds * self.sample_rate)
    cut, part = whole_windows(np.asarray(waveforms, np.float32), samples), _load(self._directory)

    def means(rows):
      return np.asarray(part("embed", rows, layer=self.layer), np.float32).mean(axis=1)

    return in_batches(means, cut.reshape(-1, samples), _BATCH).reshape(*cut.shape[:2], -1)

  @property
  def _directory(self) -> str:
    bundle = bundles.find(self.part)
    inside = pathlib.Path(bundle, "bundle.json").is_file()
    return str(pathlib.Path(bundle, "w2v_bert")) if inside else self.part

  @functools.cached_property
  def _module(self):
    return part_files.read_description(self._directory)[0]


@functools.lru_cache(maxsize=2)
def _load(directory: str):
  return frozen.load(directory)
