"""The features of token shards: which part makes each of them from a clip, and how.

A feature's `open` loads its parts: what it gives turns clips into the arrays of the shards.
"""

import collections
import dataclasses

import numpy as np

from musiclm_jax import part_files, windows
from musiclm_jax.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from musiclm_jax.text import Tokenizer, captions_of
from musiclm_jax.tokenizers import frozen, inputs, protocols


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

  def fingerprinted(self) -> "Feature":
    """The feature with the fingerprints of its parts in place of their directories.

    Raises ValueError where a part is not trained.
    """
    found = {name: _trained(getattr(self, name)) for name in ("encoder", "quantizer")}
    return dataclasses.replace(self, **found)

  def open(self, sample_rate: int) -> "Encoder":
    """What makes it of clips of `sample_rate` Hz."""
    return Encoder(self, sample_rate)


@dataclasses.dataclass(frozen=True)
class TextFeature:
  """The embeddings of a clip's captions by the part `encoder`, float32 [captions, dim].

  `text_model` is that of the part's training, `text_length` the most tokens of a caption.
  """

  name: str
  encoder: str
  text_model: str
  text_length: PositiveInt

  def fingerprinted(self) -> "TextFeature":
    """As `Feature.fingerprinted`."""
    text_model = part_files.fingerprint(self.text_model) if self.text_model else ""
    return dataclasses.replace(self, encoder=_trained(self.encoder), text_model=text_model)

  def open(self, sample_rate: int) -> "TextEncoder":
    """What makes it of clips."""
    del sample_rate
    return TextEncoder(self)


def _trained(directory: str) -> str | None:
  """The fingerprint of a trained part; None for ""."""
  if not directory:
    return None
  part_files.read_part(directory)
  return part_files.fingerprint(directory)


class TextEncoder:
  """A text feature's model, loaded: captions to embeddings.

  Raises ValueError where the text model is not that of the model's training.
  """

  def __init__(self, source: TextFeature):
    self.source = source
    self._encoder = frozen.load(source.encoder)
    self._tokenizer = Tokenizer(source.text_model)
    wanted = self._encoder.provenance["parts"].get("text_model", "")
    if (found := source.fingerprinted().text_model) != wanted:
      raise ValueError(
        f"source {source.name}: {source.encoder} was trained with text model {wanted or 'bytes'},"
        f" found {self._tokenizer.name} {found}".rstrip()
      )

  def encode(self, clips: list[dict], batch_size: int) -> list[np.ndarray]:
    """The feature of each clip."""
    if not clips:  # of a shard without records
      return []
    captions = [captions_of(clip) for clip in clips]
    rows = self._tokenizer.rows(
      [text for each in captions for text in each], self.source.text_length
    )
    found = []
    for start in range(0, len(rows), batch_size):
      some = rows[start : start + batch_size]
      padded = np.pad(some, ((0, batch_size - len(some)), (0, 0)))  # one shape, one compilation
      found.append(np.asarray(self._encoder("embed_text", padded), np.float32)[: len(some)])
    ends = np.cumsum([len(each) for each in captions])
    return np.split(np.concatenate(found), ends[:-1])

  def describe(self, example: np.ndarray) -> dict:
    """The manifest's entry of this source."""
    return {"width": int(example.shape[-1]), **_made_by(self._encoder)}


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

  def encode(self, clips: list[dict], batch_size: int) -> list[np.ndarray]:
    """The feature of each clip; clips of equal length are encoded together."""
    by_length = collections.defaultdict(list)
    for index, clip in enumerate(clips):
      by_length[len(clip["waveform"])].append(index)
    found: list = [None] * len(clips)
    for length, indices in sorted(by_length.items()):
      for start in range(0, len(indices), batch_size):
        some = indices[start : start + batch_size]
        waveforms = np.zeros((batch_size, length), np.float32)  # one shape, one compilation
        waveforms[: len(some)] = [inputs.waveform(clips[index]) for index in some]
        for index, value in zip(some, self(waveforms)):
          found[index] = value
    return found

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
      **_made_by(self._encoder),
    }
    if self.source.layer is not None:
      entry["layer"] = self.source.layer
    if self._quantizer:
      entry["quantizer"] = self._quantizer.fingerprint
    if example.dtype == np.uint16:
      entry["codebook_size"] = (self._quantizer or self._encoder).module.codebook_size
    return entry


def _made_by(encoder: frozen.Frozen) -> dict:
  """The encoder's part of a manifest's entry; what is made with it inherits its licence."""
  licence = {"licence": encoder.provenance["licence"]} if "licence" in encoder.provenance else {}
  return {"encoder": encoder.fingerprint, **licence}
