"""Sources that make their codes when they are read; `tokens.Source` is their protocol.

A stage's streams name them, so that training, held-out losses and generation read the same.
"""

import bisect
import dataclasses

import numpy as np

from musiclm_jax import part_files, windows
from musiclm_jax.tokenizers.quantizer import quantize, squared_lengths
from musiclm_jax.tokens import Make, Stream


def mean_embedding(
  embeddings: np.ndarray, start: float, seconds: float, window: float, hop: float
) -> np.ndarray:
  """The mean [dim] float32, of length 1, of the embeddings [windows, dim] of the windows in a span.

  All times are in seconds.
  """
  mean = embeddings[windows.inside(start, seconds, window, hop, len(embeddings))].mean(axis=0)
  mean /= max(np.linalg.norm(mean), 1e-6)
  return mean.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class MeanQuantized:
  """The mean of the embeddings of a span's windows, quantized (MusicLM Section 3.1).

  The mean is brought back to length 1, where the text embeddings lie too. `part` is the role of the
  residual quantizer.
  """

  part: str

  def features(self, stream: Stream) -> tuple[str, ...]:
    """The embeddings of the stream's source."""
    return (stream.source,)

  def check(self, stream: Stream, entries: dict[str, dict]) -> None:
    """Raises ValueError where the feature is no embedding of windows."""
    entry = entries[stream.source]
    if "codebook_size" in entry or not entry.get("window_seconds"):
      raise ValueError(f"{stream.source} holds no embeddings of windows, as {stream.name} wants")

  def open(self, stream: Stream, entries: dict[str, dict], parts: dict[str, str]) -> Make:
    """A function to codes [1, num_quantizers] of the span's windows.

    Raises ValueError where the quantizer is missing, standardises its inputs, or has other codes
    than the stream.
    """
    codebooks, entry = self._codebooks(stream, parts), entries[stream.source]
    squares = squared_lengths(codebooks)
    window, hop = entry["window_seconds"], entry["hop_seconds"]

    def make(record: dict, start: float, seconds: float) -> np.ndarray:
      mean = mean_embedding(record[stream.source], start, seconds, window, hop)
      codes = quantize(mean[None], codebooks, squares)[0]
      return stream.slice(codes, 0.0, seconds)

    return make

  def _codebooks(self, stream: Stream, parts: dict[str, str]) -> np.ndarray:
    """[levels, codebook_size, dim] of the quantizer."""
    if self.part not in parts:
      raise ValueError(f"stream {stream.name}: wanted the part {self.part}, found {sorted(parts)}")
    directory = parts[self.part]
    module, variables, _ = part_files.read_part(directory)
    if module.standardise:
      raise ValueError(f"{directory}: the quantizer of a mean must not standardise its inputs")
    codebooks = np.asarray(variables["codebooks"]["quantizer"]["vectors"])
    levels, size, _ = codebooks.shape
    if levels < stream.last_quantizer or size != stream.codebook_size:
      raise ValueError(
        f"{directory}: has {levels} levels of {size} codes, stream {stream.name} wants "
        f"{stream.last_quantizer} of {stream.codebook_size}"
      )
    return codebooks


@dataclasses.dataclass(frozen=True)
class Label:
  """What is known of a whole record, in bins: a number or a text, or a list of them.

  Code 0 means unknown. A number in `field` is code 1 + the count of `bins` that are not above it
  (tempo in bpm), a text is 1 + its place among `bins` (key, instruments). A list fills the stream's
  levels in its order; what has no level is left out.
  """

  field: str
  bins: tuple[float, ...] | tuple[str, ...]

  def features(self, stream: Stream) -> tuple[str, ...]:
    """The field."""
    return (self.field,)

  def check(self, stream: Stream, entries: dict[str, dict]) -> None:
    """Raises ValueError where the stream has too small a codebook or a frame rate."""
    wanted = len(self.bins) + 1 + (not self._texts)
    if stream.codebook_size < wanted or stream.frame_rate:
      raise ValueError(
        f"stream {stream.name}: {len(self.bins)} bins want a codebook of {wanted} and no frame "
        f"rate, found {stream.codebook_size} at {stream.frame_rate:g} Hz"
      )

  @property
  def _texts(self) -> bool:
    return bool(self.bins) and isinstance(self.bins[0], str)

  def code(self, value) -> int:
    """The code of one value: a number, a str or bytes."""
    if not self._texts:
      if value != value:  # not a number
        return 0
      return 1 + bisect.bisect_right(self.bins, float(value))
    text = value.decode() if isinstance(value, bytes) else str(value)
    return 1 + self.bins.index(text) if text in self.bins else 0

  def codes(self, values) -> list[int]:
    """The codes of a value, or of those in a list."""
    return [self.code(value) for value in np.atleast_1d(np.asarray(values, dtype=object))]

  def open(self, stream: Stream, entries: dict[str, dict], parts: dict[str, str]) -> Make:
    """A function to codes [1, num_quantizers] of the record, whatever the span."""
    del entries, parts

    def make(record: dict, start: float, seconds: float) -> np.ndarray:
      del start, seconds
      row = np.zeros((1, stream.last_quantizer), np.int32)
      found = self.codes(record[self.field])[: stream.last_quantizer]
      row[0, : len(found)] = found
      return row[:, stream.first_quantizer :]

    return make


@dataclasses.dataclass(frozen=True)
class Place:
  """Where in its piece a span begins: code 0 .. codebook_size - 1 from the beginning to the end.

  `start` and `length` are fields of the record in seconds: where it begins in the piece, and how
  long the piece is.
  """

  start: str
  length: str

  def features(self, stream: Stream) -> tuple[str, ...]:
    """Both fields."""
    return (self.start, self.length)

  def check(self, stream: Stream, entries: dict[str, dict]) -> None:
    """Raises ValueError where the stream has a frame rate."""
    if stream.frame_rate:
      raise ValueError(
        f"stream {stream.name}: wanted no frame rate, found {stream.frame_rate:g} Hz"
      )

  def open(self, stream: Stream, entries: dict[str, dict], parts: dict[str, str]) -> Make:
    """A function to one code [1, 1]."""
    del entries, parts

    def make(record: dict, start: float, seconds: float) -> np.ndarray:
      begin, length = (np.ravel(record[name])[0] for name in (self.start, self.length))
      spare = max(length - seconds, 1e-6)  # a span that ends with the piece is its end
      share = np.clip((begin + start) / spare, 0.0, 1.0)
      return np.array(
        [[min(int(share * stream.codebook_size), stream.codebook_size - 1)]], np.int32
      )

    return make
