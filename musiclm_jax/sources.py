"""Sources that make their codes when they are read; `tokens.Source` is their protocol.

A stage's streams name them, so that training, held-out losses and generation read the same.
"""

import bisect
import dataclasses
import math
import re

import numpy as np

from musiclm_jax import part_files, windows
from musiclm_jax.ranges import Fraction, NonNegativeFloat
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


def _moved(embedding: np.ndarray, noise: float, rng: np.random.Generator | None) -> np.ndarray:
  """The embedding [dim] plus a random vector of about length `noise`, of length 1 again."""
  if not noise or rng is None:
    return embedding
  moved = embedding + noise / math.sqrt(len(embedding)) * rng.standard_normal(len(embedding))
  return (moved / max(np.linalg.norm(moved), 1e-6)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class MeanQuantized:
  """The mean of the embeddings of a span's windows, quantized (MusicLM Section 3.1).

  The mean is brought back to length 1, where the text embeddings lie too. `part` is the role of the
  residual quantizer. Generation has codes of texts, so that training may have some of them: a share
  `text_share` of the examples has those of one of the record's embeddings `text`, and the mean of
  the others is moved by a random vector of about length `noise` before it is quantized. Without
  random numbers the codes are those of the mean itself, or of the first text where all are texts.
  """

  part: str
  text: str = ""
  text_share: Fraction = 0.0
  noise: NonNegativeFloat = 0.0

  def __post_init__(self):
    if self.text_share and not self.text:
      raise ValueError(f"text_share: {self.text_share:g} of the codes want embeddings `text`")

  def of_text(self) -> "MeanQuantized":
    """The source of the texts' codes alone, as generation has them."""
    return dataclasses.replace(self, text_share=1.0)

  def features(self, stream: Stream) -> tuple[str, ...]:
    """The embeddings of the stream's source, and those of texts where it reads them."""
    return (stream.source, self.text) if self.text_share else (stream.source,)

  def check(self, stream: Stream, entries: dict[str, dict]) -> None:
    """Raises ValueError where the feature is no embedding of windows, or the texts' is of another
    encoder.
    """
    entry = entries[stream.source]
    if "codebook_size" in entry or not entry.get("window_seconds"):
      raise ValueError(f"{stream.source} holds no embeddings of windows, as {stream.name} wants")
    if self.text_share and entries[self.text]["encoder"] != entry["encoder"]:
      raise ValueError(f"{self.text} is of another encoder than {stream.source}")

  def open(self, stream: Stream, entries: dict[str, dict], parts: dict[str, str]) -> Make:
    """A function to codes [1, num_quantizers] of the span's windows.

    Raises ValueError where the quantizer is missing, standardises its inputs, or has other codes
    than the stream.
    """
    codebooks, entry = self._codebooks(stream, parts), entries[stream.source]
    squares = squared_lengths(codebooks)
    window, hop = entry["window_seconds"], entry["hop_seconds"]

    def make(record: dict, start: float, seconds: float, rng=None) -> np.ndarray:
      if self._draws_text(rng):
        texts = record[self.text]
        embedding = texts[0 if rng is None else rng.integers(len(texts))]
      else:
        embedding = mean_embedding(record[stream.source], start, seconds, window, hop)
        embedding = _moved(embedding, self.noise, rng)
      codes = quantize(embedding[None], codebooks, squares)[0]
      return stream.slice(codes, 0.0, seconds)

    return make

  def _draws_text(self, rng: np.random.Generator | None) -> bool:
    if self.text_share in (0.0, 1.0) or rng is None:
      return self.text_share == 1.0
    return bool(rng.random() < self.text_share)

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
  """A number or a text, or a list of them, in bins.

  Code 0 means none of them. A number in `field` is code 1 + the count of `bins` that are not above
  it (tempo in bpm), a text is 1 + its place among `bins` (key, instruments). A list fills the
  stream's levels in its order; what has no level is left out. `prompted` says whether a prompt that
  names a value gives the label in generation: `named`.
  """

  field: str
  bins: tuple[float, ...] | tuple[str, ...]
  prompted: bool = False

  @property
  def facts(self) -> tuple[str, ...]:
    """The field."""
    return (self.field,)

  def features(self, stream: Stream) -> tuple[str, ...]:
    """The field."""
    return self.facts

  def check(self, stream: Stream, entries: dict[str, dict]) -> None:
    """Raises ValueError where the stream has too small a codebook."""
    wanted = len(self.bins) + 1 + (not self._texts)
    if stream.codebook_size < wanted:
      raise ValueError(
        f"stream {stream.name}: {len(self.bins)} bins want a codebook of {wanted}, "
        f"found {stream.codebook_size}"
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

  def values(self, wanted) -> list:
    """The values that someone asks for: a number, a text, a list or "flute, harp".

    Raises ValueError, naming the field, for another value than there is.
    """
    kinds = f"some of {', '.join(self.bins)}" if self._texts else "a number"
    values = wanted.split(",") if isinstance(wanted, str) else np.ravel(wanted).tolist()
    values = [each.strip() if isinstance(each, str) else each for each in values]
    try:
      codes = self.codes(values)
    except ValueError:
      codes = [0]
    if 0 in codes:
      raise ValueError(f"{self.field}: wanted {kinds}, found {wanted!r}")
    return values

  def named(self, text: str) -> list:
    """The values that a text names, in its order: "a flute and a harp", "in D minor", "80 bpm".

    A number is one before the field's name, a text one of `bins`; case and a plural s do not count.
    """
    if not self._texts:
      pattern = rf"(?<![\w.])(\d+(?:\.\d+)?)\s*{re.escape(self.field)}\b"
      return [float(number) for number in re.findall(pattern, text, re.IGNORECASE)]
    spelt = {name.lower(): name for name in sorted(self.bins, key=len, reverse=True)}
    pattern = rf"(?<!\w)({'|'.join(map(re.escape, spelt))})s?(?!\w)"
    return [spelt[name.lower()] for name in re.findall(pattern, text, re.IGNORECASE)]

  def open(self, stream: Stream, entries: dict[str, dict], parts: dict[str, str]) -> Make:
    """A function to codes [frames, num_quantizers], the same in all frames; -1 where not known."""
    del entries, parts

    def make(record: dict, start: float, seconds: float, rng=None) -> np.ndarray:
      del start, rng
      row = np.full(stream.last_quantizer, -1)
      if (value := record.get(self.field)) is not None:
        found = self.codes(value)[: stream.last_quantizer]
        row[:] = found + [0] * (stream.last_quantizer - len(found))
      return np.tile(row[stream.first_quantizer :], (stream.frames(seconds), 1)).astype(np.int32)

    return make
