"""SeqIO tasks: from records to the features a model trains on.

Each public function takes an `input_pipeline.RecordSource` and gives a seqio.Task, whose examples
have the model's features. Whatever is random is a function of (seed, position), where `position`
numbers the examples of a run.
"""

import functools
import sys

import numpy as np
import seqio
import tensorflow as tf

from musiclm_jax import checkpointing
from musiclm_jax.text import Tokenizer
from musiclm_jax.tokenizers.quantizer import quantize
from musiclm_jax.tokens import PAD, Stage, Stream, Vocabulary

_LOOKED_AT = 1000  # records whose texts are measured before a training
_TEXTS = {"caption": "captions", "aspect_list": "aspect lists"}


def _uniform(seed: int, position, bound):
  """An int64 in 0..bound-1 that depends on seed and position alone."""
  seeds = tf.stack([tf.cast(seed, tf.int64), position])
  return tf.random.stateless_uniform([], seeds, 0, bound, tf.int64)


def _task(name, source, preprocess, features) -> seqio.Task:
  """The task of a function from record to example; `features` are {name: (dtype, rank)}."""
  nothing = seqio.PassThroughVocabulary(0)  # they are numbers, or tokens already
  specs = {
    key: seqio.Feature(nothing, add_eos=False, dtype=dtype, rank=rank)
    for key, (dtype, rank) in features.items()
  }

  def examples(dataset):
    return dataset.map(preprocess, num_parallel_calls=2)

  return seqio.Task(name, source, output_features=specs, preprocessors=[examples])


def _crop_waveform(example, *, seed: int, samples: int):
  """float32 [samples] of the int16 waveform from a random start; a shorter one is followed by 0."""
  waveform = example["waveform"]
  spare = tf.maximum(tf.size(waveform, tf.int64) - samples, 0)
  start = _uniform(seed, example["position"], spare + 1)
  crop = tf.cast(waveform[start : start + samples], tf.float32) / 32768.0
  crop = tf.pad(crop, [[0, samples - tf.size(crop)]])
  return tf.ensure_shape(crop, [samples])


def waveforms(*, source, seed, crop_seconds: float, sample_rate: int):
  """Examples {waveform [samples] float32}: random crops, for the codec and w2v-BERT."""
  crop = functools.partial(_crop_waveform, seed=seed, samples=round(crop_seconds * sample_rate))
  return _task("waveforms", source, lambda e: {"waveform": crop(e)}, {"waveform": (tf.float32, 1)})


def melodies(*, source, seed, crop_seconds: float, sample_rate: int):
  """Examples {waveform [samples] float32, melody [] int32}: for the melody encoder.

  Renditions of one melody have one label. The crop is the clip's beginning, so that two renditions
  show the same notes.
  """
  samples = round(crop_seconds * sample_rate)

  def preprocess(example):
    waveform = tf.cast(example["waveform"][:samples], tf.float32) / 32768.0
    waveform = tf.ensure_shape(tf.pad(waveform, [[0, samples - tf.size(waveform)]]), [samples])
    label = tf.strings.to_hash_bucket_fast(example["melody"], 2**31 - 1)
    return {"waveform": waveform, "melody": tf.cast(label, tf.int32)}

  features = {"waveform": (tf.float32, 1), "melody": (tf.int32, 0)}
  return _task("melodies", source, preprocess, features)


def captioned(
  *,
  source,
  seed,
  crop_seconds: float,
  sample_rate: int,
  text_model: str,
  text_length: int,
  vocab_size: int,
  text: str,
):
  """Examples {waveform [samples] float32, text [text_length] int32, 0 = padding}: for MuLan.

  `text` is "caption" or "aspect_list", some of which then come in any order; a record without one
  has its caption. `text.Tokenizer` makes the ids. Says how many of the first 1000 texts are cut.
  Raises ValueError where text_model is none or has more than vocab_size pieces, and where a record
  has no text.
  """
  if text not in _TEXTS:
    raise ValueError(f"text: wanted {' or '.join(_TEXTS)}, got {text!r}")
  crop = functools.partial(_crop_waveform, seed=seed, samples=round(crop_seconds * sample_rate))
  tokenizer = Tokenizer(text_model)
  tokenizer.check(vocab_size)
  _look_at(source.records, text, tokenizer, text_length)

  def row(words: bytes):
    return tokenizer.rows([words.decode()], text_length)[0]

  def aspects(example):
    position, listed = example["position"], example["aspect_list"]
    count = tf.size(listed, tf.int64)
    some = 1 + _uniform(seed + 1, position, tf.maximum(count, 1))
    seeds = tf.stack([tf.cast(seed + 2, tf.int64), position])
    order = tf.argsort(tf.random.stateless_uniform([count], seeds))
    joined = tf.strings.reduce_join(tf.gather(listed, order[:some]), separator=", ")
    return tf.where(count > 0, joined, example["caption"])

  def preprocess(example):
    words = example["caption"] if text == "caption" else aspects(example)
    ids = tf.numpy_function(row, [words], tf.int32, stateful=False)
    return {"waveform": crop(example), "text": tf.ensure_shape(ids, [text_length])}

  features = {"waveform": (tf.float32, 1), "text": (tf.int32, 1)}
  return _task("captioned", source, preprocess, features)


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


def embeddings(*, source, seed, name: str, rows: int):
  """Examples {embeddings [rows, dim] float32, weights [rows] float32}: for the quantizers.

  `rows` random rows of the shards' embeddings `name`, or all of them and padding of weight 0.
  """

  def preprocess(example):
    values = tf.cast(example[name], tf.float32)
    count = tf.shape(values)[0]
    seeds = tf.stack([tf.cast(seed, tf.int64), example["position"]])
    order = tf.argsort(tf.random.stateless_uniform([count], seeds))[:rows]
    spare = rows - tf.size(order)
    values = tf.pad(tf.gather(values, order), [[0, spare], [0, 0]])
    weights = tf.pad(tf.ones([tf.size(order)]), [[0, spare]])
    return {
      "embeddings": tf.ensure_shape(values, [rows, None]),
      "weights": tf.ensure_shape(weights, [rows]),
    }

  features = {"embeddings": (tf.float32, 2), "weights": (tf.float32, 1)}
  return _task("embeddings", source, preprocess, features)


def tokens(*, source, seed, stage: Stage, vocabulary: Vocabulary, mulan: "MulanCodes | None"):
  """Examples decoder_{input_tokens, target_tokens, loss_weights} [stage.length] for a stage.

  All streams are cropped at one instant, a multiple of stage.grid_seconds. A clip shorter than the
  crop is followed by null ids in the conditions and by padding without loss in the target. Only the
  target has loss. A worked example, 2 condition tokens and 2 frames of 2 levels, is the test:

    inputs  [11, 12], targets [21, 32, 22, 31]
    decoder_target_tokens [11 12 21 32 22 31]
    decoder_input_tokens  [ 0 11 12 21 32 22]
    decoder_loss_weights  [ 0  0  1  1  1  1]
  """
  for stream in stage.conditions:
    if stream.frame_rate == 0:
      mulan.check(stream)
  crop = functools.partial(_crop_stage, seed=seed, stage=stage, vocabulary=vocabulary, mulan=mulan)
  lengths = {"inputs": stage.condition_length, "targets": stage.target_length}
  names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
  converter = seqio.PrefixLMFeatureConverter(pack=False)

  def examples(dataset):
    dataset = converter(dataset.map(crop, num_parallel_calls=2), lengths)
    return dataset.map(lambda example: {name: example[name] for name in names})

  ids = seqio.PassThroughVocabulary(vocabulary.size)
  feature = seqio.Feature(ids, add_eos=False, dtype=tf.int32)
  features = dict.fromkeys(names, feature)
  return seqio.Task(
    f"{stage.name}_tokens", source, output_features=features, preprocessors=[examples]
  )


class MulanCodes:
  """Codes of MuLan embeddings averaged over the windows of a crop (MusicLM Section 3.1).

  `directory` is the part of the residual quantizer. The mean is brought back to length 1, where
  the text embeddings lie too. Raises ValueError where the quantizer wants standardised inputs.
  """

  def __init__(self, *, directory: str, window_seconds: float):
    module, variables, self.provenance = checkpointing.read_part(directory)
    if module.standardise:
      raise ValueError(f"{directory}: the MuLan quantizer must not standardise its inputs")
    self.codebooks = np.asarray(variables["codebooks"]["quantizer"]["vectors"])
    self.window_seconds = window_seconds
    self.directory = directory

  def check(self, stream: Stream) -> None:
    """Raises ValueError where the quantizer gives other codes than the stream is told to have."""
    last = stream.first_quantizer + stream.num_quantizers
    levels, size, _ = self.codebooks.shape
    if levels < last or size != stream.codebook_size:
      raise ValueError(
        f"{self.directory}: has {levels} levels of {size} codes, stream {stream.name} wants {last}"
        f" of {stream.codebook_size}"
      )

  def __call__(self, embeddings, start, crop_seconds: float):
    """[1, num_quantizers] int32 from embeddings [seconds, dim], one window a second."""
    last = tf.shape(embeddings, tf.int64)[0] - 1
    first = tf.minimum(tf.cast(start, tf.int64), last)
    spare = int(max(crop_seconds - self.window_seconds, 0))
    mean = tf.reduce_mean(embeddings[first : tf.minimum(first + spare, last) + 1], axis=0)
    mean = tf.math.l2_normalize(mean)[None]
    codes = tf.numpy_function(lambda x: quantize(x, self.codebooks)[0], [mean], tf.int32)
    return tf.ensure_shape(codes, [1, len(self.codebooks)])


def _crop_stage(example, *, seed, stage: Stage, vocabulary: Vocabulary, mulan):
  """{inputs, targets} int32 tokens of one crop."""
  target = stage.target
  spare = tf.shape(example[target.source], tf.int64)[0] - target.frames(stage.crop_seconds)
  grid = stage.grid_seconds
  grid_frames = round(float(grid) * target.frame_rate)
  slots = tf.maximum(spare, 0) // grid_frames + 1
  start = _uniform(seed, example["position"], slots)  # in steps of the grid
  seconds = tf.cast(start, tf.float64) * float(grid)

  def crop(stream: Stream, filler: int):
    if stream.frame_rate == 0:
      codes = mulan(example[stream.source], seconds, stage.crop_seconds)
    else:
      first = tf.cast(tf.round(seconds * stream.frame_rate), tf.int64)
      codes = example[stream.source][first : first + stream.frames(stage.crop_seconds)]
    levels = slice(stream.first_quantizer, stream.first_quantizer + stream.num_quantizers)
    ids = tf.cast(codes[:, levels], tf.int32) + vocabulary.offsets(stream)
    ids = tf.reshape(ids, [-1])
    missing = stream.length(stage.crop_seconds) - tf.size(ids)
    return tf.pad(ids, [[0, missing]], constant_values=filler)

  conditions = [crop(stream, vocabulary.null(stream)) for stream in stage.conditions]
  inputs = tf.concat(conditions, axis=0) if conditions else tf.zeros([0], tf.int32)
  return {"inputs": inputs, "targets": crop(target, PAD)}
