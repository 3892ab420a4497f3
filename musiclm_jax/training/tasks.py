"""SeqIO tasks on audio records: from a record to the features a model trains on.

Each class is a kind of examples: `shapes` says what a model gets of them, before there is any data,
and `task` makes a seqio.Task of an `input_pipeline.RecordSource`. Whatever is random is a function
of (seed, position), where `position` numbers the examples of a run.
"""

import dataclasses
import functools
import sys

import numpy as np
import seqio
import tensorflow as tf
from jax import ShapeDtypeStruct as Shape

from musiclm_jax import audio
from musiclm_jax.text import Tokenizer

Shapes = dict[str, Shape]
_LOOKED_AT = 1000  # records whose texts are measured before a training
_TEXTS = {"caption": "captions", "aspect_list": "aspect lists"}


def uniform(seed: int, position, bound):
  """An int64 in 0..bound-1 that depends on seed and position alone."""
  seeds = tf.stack([tf.cast(seed, tf.int64), position])
  return tf.random.stateless_uniform([], seeds, 0, bound, tf.int64)


def make_task(name, source, preprocess, shapes) -> seqio.Task:
  """The task of a function from record to example, which has these shapes."""

  def examples(dataset):
    return dataset.map(preprocess, num_parallel_calls=2)

  return seqio.Task(name, source, output_features=features_of(shapes), preprocessors=[examples])


def features_of(shapes: dict) -> dict[str, seqio.Feature]:
  """What SeqIO wants to know of examples: they are numbers, or tokens already."""
  nothing = seqio.PassThroughVocabulary(0)
  return {
    name: seqio.Feature(nothing, add_eos=False, dtype=tf.as_dtype(x.dtype), rank=len(x.shape))
    for name, x in shapes.items()
  }


def _sound(examples) -> Shape:
  """The shape of a crop of crop_seconds at sample_rate."""
  return Shape((round(examples.crop_seconds * examples.sample_rate),), np.float32)


def _crop_waveform(example, *, seed: int, samples: int):
  """float32 [samples] of the int16 waveform from a random start; a shorter one is followed by 0."""
  waveform = example["waveform"]
  spare = tf.maximum(tf.size(waveform, tf.int64) - samples, 0)
  start = uniform(seed, example["position"], spare + 1)
  crop = tf.cast(waveform[start : start + samples], tf.float32) / audio.INT16_SCALE
  crop = tf.pad(crop, [[0, samples - tf.size(crop)]])
  return tf.ensure_shape(crop, [samples])


@dataclasses.dataclass(frozen=True)
class Waveforms:
  """Examples {waveform [samples] float32}: random crops, for the codec and w2v-BERT."""

  crop_seconds: float
  sample_rate: int

  @property
  def shapes(self) -> Shapes:
    """The shapes of an example."""
    return {"waveform": _sound(self)}

  def task(self, source, seed: int) -> seqio.Task:
    """The task of a source of audio records."""
    samples = self.shapes["waveform"].shape[0]
    crop = functools.partial(_crop_waveform, seed=seed, samples=samples)
    return make_task("waveforms", source, lambda e: {"waveform": crop(e)}, self.shapes)


@dataclasses.dataclass(frozen=True)
class Melodies:
  """Examples {waveform [samples] float32, melody [] int32}: for the melody encoder.

  Renditions of one melody have one label. The crop is the clip's beginning, so that two renditions
  show the same notes.
  """

  crop_seconds: float
  sample_rate: int

  @property
  def shapes(self) -> Shapes:
    """The shapes of an example."""
    return {"waveform": _sound(self), "melody": Shape((), np.int32)}

  def task(self, source, seed: int) -> seqio.Task:
    """The task of a source of audio records."""
    del seed
    samples = self.shapes["waveform"].shape[0]

    def preprocess(example):
      waveform = tf.cast(example["waveform"][:samples], tf.float32) / audio.INT16_SCALE
      waveform = tf.ensure_shape(tf.pad(waveform, [[0, samples - tf.size(waveform)]]), [samples])
      label = tf.strings.to_hash_bucket_fast(example["melody"], 2**31 - 1)
      return {"waveform": waveform, "melody": tf.cast(label, tf.int32)}

    return make_task("melodies", source, preprocess, self.shapes)


@dataclasses.dataclass(frozen=True)
class Captioned:
  """Examples {waveform [samples] float32, text [text_length] int32, 0 = padding}: for MuLan.

  `text` is "caption" or "aspect_list", some of which then come in any order; a record without one
  has its caption. `text.Tokenizer` makes the ids. Raises ValueError for another `text`.
  """

  crop_seconds: float
  sample_rate: int
  text_model: str
  text_length: int
  vocab_size: int
  text: str

  def __post_init__(self):
    if self.text not in _TEXTS:
      raise ValueError(f"text: wanted {' or '.join(_TEXTS)}, got {self.text!r}")

  @property
  def shapes(self) -> Shapes:
    """The shapes of an example."""
    return {"waveform": _sound(self), "text": Shape((self.text_length,), np.int32)}

  def task(self, source, seed: int) -> seqio.Task:
    """The task of a source of audio records; says how many of the first 1000 texts are cut.

    Raises ValueError where text_model is none or has more than vocab_size pieces, and where a
    record has no text.
    """
    samples = self.shapes["waveform"].shape[0]
    crop = functools.partial(_crop_waveform, seed=seed, samples=samples)
    tokenizer = Tokenizer(self.text_model)
    tokenizer.check(self.vocab_size)
    _look_at(source.records, self.text, tokenizer, self.text_length)

    def row(words: bytes):
      return tokenizer.rows([words.decode()], self.text_length)[0]

    def preprocess(example):
      words = example["caption"] if self.text == "caption" else _some_aspects(example, seed)
      ids = tf.numpy_function(row, [words], tf.int32, stateful=False)
      return {"waveform": crop(example), "text": tf.ensure_shape(ids, [self.text_length])}

    return make_task("captioned", source, preprocess, self.shapes)


def _some_aspects(example, seed: int):
  """A random selection of the aspects in any order, separated by commas; at least one."""
  position, listed = example["position"], example["aspect_list"]
  count = tf.size(listed, tf.int64)
  some = 1 + uniform(seed + 1, position, tf.maximum(count, 1))
  seeds = tf.stack([tf.cast(seed + 2, tf.int64), position])
  order = tf.argsort(tf.random.stateless_uniform([count], seeds))
  joined = tf.strings.reduce_join(tf.gather(listed, order[:some]), separator=", ")
  return tf.where(count > 0, joined, example["caption"])


def _look_at(records, text: str, tokenizer: Tokenizer, text_length: int) -> None:
  """Says what happens to the first texts; all are not read, there may be millions."""
  texts, missing = [], 0
  for row in records.rows(("caption", "aspect_list"), _LOOKED_AT):
    listed = ", ".join(x.decode() for x in row["aspect_list"]) if text == "aspect_list" else ""
    missing += text == "aspect_list" and not listed
    texts.append(listed or row["caption"].decode())
  if not all(texts):
    raise ValueError(
      f"{records.directory}: records of {records.split} have no captions to train on; prepare with "
      "--captions=FILE.csv"
    )

  def say(count: int, what: str) -> None:
    if count:
      print(f"{records.directory}: {count} of {len(texts)} {what}", file=sys.stderr)

  say(missing, f"records of {records.split} have no aspect_list; their captions are read")
  cut = sum(tokenizer.count(each) > text_length for each in texts)
  long = f"longer than TEXT_LENGTH={text_length} tokens and are cut"
  say(cut, f"{_TEXTS[text]} of {records.split} are {long}")
