"""Examples of audio records: what the codec, the encoders and the joint embedding train on."""

import dataclasses
import math
import sys
import zlib

import numpy as np
from jax import ShapeDtypeStruct as Shape

from musiclm_jax import audio
from musiclm_jax.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from musiclm_jax.text import Tokenizer, captions_of
from musiclm_jax.training.examples import ExampleMaker, Shapes, generator

_MEASURED = 1000  # records whose texts are measured before a training
_TEXTS = {"caption": "captions", "aspect_list": "aspect lists"}
_FIELDS = ("caption", "captions", "aspect_list")  # of a record, about its texts


def _sound(examples) -> Shape:
  """The shape of a crop of crop_seconds at sample_rate."""
  return Shape((round(examples.crop_seconds * examples.sample_rate),), np.float32)


def _crop(waveform: np.ndarray, start: int, samples: int) -> np.ndarray:
  """float32 [samples] of an int16 waveform; zeros follow a shorter one."""
  crop = np.zeros((samples,), np.float32)
  found = waveform[start : start + samples]
  crop[: len(found)] = audio.from_int16(found)
  return crop


def _random_crop(waveform: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
  return _crop(waveform, int(rng.integers(max(len(waveform) - samples, 0) + 1)), samples)


@dataclasses.dataclass(frozen=True)
class Waveforms:
  """Examples {waveform [samples] float32}: random crops, for the codec and w2v-BERT.

  Each is moved by -max_semitones..max_semitones semitones by resampling: its tempo and its formants
  move too, as on a tape at another speed.
  """

  crop_seconds: PositiveFloat
  sample_rate: PositiveInt
  max_semitones: NonNegativeInt = 0
  sources = ()

  @property
  def shapes(self) -> Shapes:
    """The shapes of an example."""
    return {"waveform": _sound(self)}

  def open(self, records, parts: dict[str, str], seed: int) -> ExampleMaker:
    """The maker for audio records."""
    del records, parts
    samples = self.shapes["waveform"].shape[0]

    def make(record: dict, position: int) -> dict[str, np.ndarray]:
      rng = generator(seed, position)
      semitones = rng.integers(-self.max_semitones, self.max_semitones, endpoint=True)
      rate = round(self.sample_rate * 2 ** (semitones / 12))  # played at sample_rate, it is higher
      crop = _random_crop(record["waveform"], math.ceil(samples * rate / self.sample_rate), rng)
      moved = audio.resample(crop, rate, self.sample_rate)[:samples]
      return {"waveform": np.pad(moved, (0, samples - len(moved)))}

    return ExampleMaker(("waveform",), make)


@dataclasses.dataclass(frozen=True)
class Melodies:
  """Examples {waveform [samples] float32, melody [] int32}: for the melody encoder.

  Renditions of one melody have one label. The crop is the clip's beginning, so that two renditions
  show the same notes.
  """

  crop_seconds: PositiveFloat
  sample_rate: PositiveInt
  sources = ()

  @property
  def shapes(self) -> Shapes:
    """The shapes of an example."""
    return {"waveform": _sound(self), "melody": Shape((), np.int32)}

  def open(self, records, parts: dict[str, str], seed: int) -> ExampleMaker:
    """The maker for audio records."""
    del records, parts, seed
    samples = self.shapes["waveform"].shape[0]

    def make(record: dict, position: int) -> dict[str, np.ndarray]:
      del position
      label = np.int32(zlib.crc32(record["melody"]) >> 1)
      return {"waveform": _crop(record["waveform"], 0, samples), "melody": label}

    return ExampleMaker(("waveform", "melody"), make)


@dataclasses.dataclass(frozen=True)
class Captioned:
  """Examples {waveform [samples] float32, text [text_length] int32, 0 = padding}: for MuLan.

  `text` is "caption": one of the record's captions at random, or "aspect_list": a random selection
  of the aspects in random order, or a caption where a record has none. `text.Tokenizer` makes the
  ids. Raises ValueError for another `text`.
  """

  crop_seconds: PositiveFloat
  sample_rate: PositiveInt
  text_model: str
  text_length: PositiveInt
  vocab_size: PositiveInt
  text: str
  sources = ()

  def __post_init__(self):
    if self.text not in _TEXTS:
      raise ValueError(f"text: wanted {' or '.join(_TEXTS)}, got {self.text!r}")

  @property
  def shapes(self) -> Shapes:
    """The shapes of an example."""
    return {"waveform": _sound(self), "text": Shape((self.text_length,), np.int32)}

  def open(self, records, parts: dict[str, str], seed: int) -> ExampleMaker:
    """The maker for audio records; prints how many of the first 1000 texts are cut.

    Raises ValueError where text_model cannot be read or has more than vocab_size pieces, and where
    a record has no text.
    """
    del parts
    samples = self.shapes["waveform"].shape[0]
    tokenizer = Tokenizer(self.text_model)
    tokenizer.check(self.vocab_size)
    fields = tuple(name for name in _FIELDS if name in records.features)
    _check_texts(records, fields, self.text, tokenizer, self.text_length)

    def make(record: dict, position: int) -> dict[str, np.ndarray]:
      rng = generator(seed, position)
      waveform = _random_crop(record["waveform"], samples, rng)
      aspects = [aspect.decode() for aspect in record["aspect_list"]]
      if self.text == "aspect_list" and aspects:
        words = ", ".join(rng.permutation(aspects)[: rng.integers(1, len(aspects) + 1)])
      else:
        captions = captions_of(record)
        words = captions[rng.integers(len(captions))]
      return {"waveform": waveform, "text": tokenizer.rows([words], self.text_length)[0]}

    return ExampleMaker(("waveform", *fields), make)


def _check_texts(records, fields, text: str, tokenizer: Tokenizer, text_length: int) -> None:
  """Prints what happens to the first texts; not all are read, there may be millions."""
  texts, read, missing = [], 0, 0
  for row in records.rows(fields, _MEASURED):
    listed = ", ".join(x.decode() for x in row["aspect_list"]) if text == "aspect_list" else ""
    read, missing = read + 1, missing + (text == "aspect_list" and not listed)
    texts += [listed] if listed else captions_of(row)
  if not all(texts):
    raise ValueError(
      f"{records.directory}: records of {records.split} have no captions to train on; prepare with "
      "--captions=FILE.csv"
    )

  def report(count: int, total: int, what: str) -> None:
    if count:
      print(f"{records.directory}: {count} of {total} {what}", file=sys.stderr)

  report(missing, read, f"records of {records.split} have no aspect_list; their captions are read")
  cut = sum(tokenizer.count(each) > text_length for each in texts)
  long = f"longer than TEXT_LENGTH={text_length} tokens and are cut"
  report(cut, len(texts), f"{_TEXTS[text]} of {records.split} are {long}")
