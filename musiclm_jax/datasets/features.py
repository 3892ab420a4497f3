"""The features of token shards: which part makes each of them from a clip, and how."""

import dataclasses

import numpy as np

from musiclm_jax import windows
from musiclm_jax.ranges import NonNegativeFloat, NonNegativeInt
from musiclm_jax.tokenizers import frozen, protocols


@dataclasses.dataclass(frozen=True)
class Feature:
  """One feature of the token shards.

  The part `encoder` is run by its method `method` (with `layer` where it takes one) over the whole
  clip, or over windows of `window_seconds` every `hop_seconds`; where a part `quantizer` is named
  it turns the embeddings into codes. `frame_rate` in Hz is asserted. Results that are codes are
  uint16 [frames, num_quantizers], embeddings are float32 [frames, dim].
  """

  name: str
  encoder: str
  method: str
  layer: NonNegativeInt | None
  window_seconds: NonNegativeFloat
  hop_seconds: NonNegativeFloat
  quantizer: str
  frame_rate: NonNegativeFloat


class Encoder:
  """A source's models, loaded: waveforms [batch, samples] to a feature [batch, frames, width]."""

  def __init__(self, source: Feature, sample_rate: int):
    self.source, self.sample_rate = source, sample_rate
    self._encoder = frozen.load(source.encoder)
    self._quantizer = None
    if source.quantizer:
      self._quantizer = frozen.load(source.quantizer, protocols.Quantizer)
    self._static = {} if source.layer is None else {"layer": source.layer}
    if (rate := self._encoder.module.sample_rate) != sample_rate:
      raise ValueError(f"{source.encoder}: wants {rate} Hz, the records are {sample_rate} Hz")
    if self._quantizer:
      self._check_pair()

  def _check_pair(self):
    """The quantizer must have been trained on this very encoder's embeddings."""
    ours = self._encoder.fingerprint
    for made in self._quantizer.provenance["sources"].values():
      if made["encoder"] != ours:
        raise ValueError(
          f"source {self.source.name}: quantizer {self.source.quantizer} was trained on embeddings"
          f" of encoder {made['encoder']}, not of {self.source.encoder} ({ours})"
        )

  def __call__(self, waveforms: np.ndarray) -> np.ndarray:
    windows = self._windows(waveforms)
    result = self._encoder(self.source.method, windows, **self._static)
    if self.source.window_seconds:
      result = result.reshape(len(waveforms), -1, result.shape[-1])
    else:
      self._check_rate(result.shape[1], waveforms.shape[1])
    if self._quantizer:
      result = self._quantizer("encode", result)
    result = np.asarray(result)
    if np.issubdtype(result.dtype, np.integer):
      return result.astype(np.uint16)
    return result.astype(np.float32)

  def _check_rate(self, frames: int, samples: int):
    wanted = samples / self.sample_rate * self.source.frame_rate
    if abs(frames - wanted) > 1:
      raise ValueError(
        f"source {self.source.name}: {self.source.frame_rate} Hz would give {wanted:.0f} frames, "
        f"{self.source.encoder} gave {frames}"
      )

  def _windows(self, waveforms):
    """[batch * windows, samples]; the last windows may reach past the end, into silence."""
    if not self.source.window_seconds:
      return waveforms
    window = round(self.source.window_seconds * self.sample_rate)
    hop = round(self.source.hop_seconds * self.sample_rate)
    return windows.cut(waveforms, window, hop).reshape(-1, window)

  def describe(self, example: np.ndarray) -> dict:
    """The manifest's entry of this source."""
    entry = {
      "frame_rate": self.source.frame_rate,
      "window_seconds": self.source.window_seconds,
      "hop_seconds": self.source.hop_seconds,
      "width": int(example.shape[-1]),
      "encoder": self._encoder.fingerprint,
    }
    if "licence" in self._encoder.provenance:  # what is made with it inherits it
      entry["licence"] = self._encoder.provenance["licence"]
    if self._quantizer:
      entry["quantizer"] = self._quantizer.fingerprint
    if example.dtype == np.uint16:
      entry["codebook_size"] = (self._quantizer or self._encoder).module.codebook_size
    return entry
