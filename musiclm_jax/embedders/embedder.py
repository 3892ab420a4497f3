"""What embedders can do: three kinds, by what they give.

An embedder is a frozen dataclass of its settings. Everything that its output depends on, besides
the audio, stands in `spec`, so that scores of different embedders are never compared: the model, a
fingerprint of its weights, sample_rate in Hz, seconds of its windows and of their hop.
"""

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Embedder(Protocol):
  """Audio to embeddings, for distances of sets of audio."""

  @property
  def sample_rate(self) -> int:
    """Hz of the waveforms that it takes."""

  @property
  def spec(self) -> dict[str, str | int | float]:
    """What its output depends on. Raises ValueError, naming it, where a file is missing."""

  def embed(self, waveforms: np.ndarray) -> np.ndarray:
    """Embeddings [clips, patches, dim] float32 of waveforms [clips, samples] float32.

    Raises ValueError where the clips are shorter than one patch.
    """


@runtime_checkable
class Classifier(Protocol):
  """Audio to shares of classes. sample_rate and spec as of an Embedder."""

  sample_rate: int
  spec: dict[str, str | int | float]

  def classify(self, waveforms: np.ndarray) -> np.ndarray:
    """Shares [clips, classes] float64 that sum to 1, of waveforms [clips, samples] float32."""


@runtime_checkable
class Shared(Protocol):
  """An embedder whose methods are of one network, which runs once for all of them."""

  def outputs(self, waveforms: np.ndarray) -> np.ndarray:
    """What the network gives [clips, ...] for waveforms [clips, samples] float32."""

  def of_outputs(self, method: str, outputs: np.ndarray) -> np.ndarray:
    """What the method of this name gives for waveforms of these outputs."""


@runtime_checkable
class Joint(Protocol):
  """Audio and texts to one space. sample_rate and spec as of an Embedder."""

  sample_rate: int
  spec: dict[str, str | int | float]

  def embed_clips(self, waveforms: np.ndarray) -> np.ndarray:
    """Embeddings [clips, dim] of length 1 of waveforms [clips, samples] float32."""

  def embed_texts(self, texts: list[str]) -> np.ndarray:
    """Embeddings [texts, dim] of length 1."""
