"""SeqIO tasks on token shards: what the quantizers and the stages train on.

As those of tasks.py: `shapes` of an example, and `task` of a source and a seed.
"""

import dataclasses
import functools

import numpy as np
import seqio
import tensorflow as tf
from jax import ShapeDtypeStruct as Shape

from musiclm_jax import part_files
from musiclm_jax.tokenizers.quantizer import quantize, squared_lengths
from musiclm_jax.tokens import PAD, Stage, Stream, Vocabulary
from musiclm_jax.training.tasks import Shapes, features_of, make_task, uniform


@dataclasses.dataclass(frozen=True)
class Embeddings:
  """Examples {embeddings [rows, dim] float32, weights [rows] float32}: for the quantizers.

  `rows` random rows of the shards' embeddings `name`, or all of them and padding of weight 0.
  """

  name: str
  rows: int
  dim: int

  @property
  def shapes(self) -> Shapes:
    """The shapes of an example."""
    embeddings = Shape((self.rows, self.dim), np.float32)
    return {"embeddings": embeddings, "weights": Shape((self.rows,), np.float32)}

  def task(self, source, seed: int) -> seqio.Task:
    """The task of a source of token shards. Raises ValueError where theirs have another width."""
    records = source.records
    found = records.features[self.name].shape[-1]
    if found != self.dim:
      raise ValueError(f"{records.directory}: {self.name} has {found} dimensions, not {self.dim}")

    def preprocess(example):
      values = tf.cast(example[self.name], tf.float32)
      count = tf.shape(values)[0]
      seeds = tf.stack([tf.cast(seed, tf.int64), example["position"]])
      order = tf.argsort(tf.random.stateless_uniform([count], seeds))[: self.rows]
      spare = self.rows - tf.size(order)
      values = tf.pad(tf.gather(values, order), [[0, spare], [0, 0]])
      weights = tf.pad(tf.ones([tf.size(order)]), [[0, spare]])
      return {
        "embeddings": tf.ensure_shape(values, [self.rows, self.dim]),
        "weights": tf.ensure_shape(weights, [self.rows]),
      }

    return make_task("embeddings", source, preprocess, self.shapes)


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Examples decoder_{input_tokens, target_tokens, loss_weights} [stage.length] for a stage.

  All streams are cropped at one instant, a multiple of stage.grid_seconds. A clip shorter than the
  crop is followed by null ids in the conditions and by padding without loss in the target. Only the
  target has loss. `mulan` makes the codes of streams without a rate. A worked example, 2 condition
  tokens and 2 frames of 2 levels, is the test:

    inputs  [11, 12], targets [21, 32, 22, 31]
    decoder_target_tokens [11 12 21 32 22 31]
    decoder_input_tokens  [ 0 11 12 21 32 22]
    decoder_loss_weights  [ 0  0  1  1  1  1]
  """

  stage: Stage
  vocabulary: Vocabulary
  mulan: "MulanCodes | None"

  @property
  def shapes(self) -> Shapes:
    """The shapes of an example."""
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
    return dict.fromkeys(names, Shape((self.stage.length,), np.int32))

  def task(self, source, seed: int) -> seqio.Task:
    """The task of a source of token shards.

    Raises ValueError where the MuLan quantizer does not give the stream's codes.
    """
    codes = None
    for stream in self.stage.conditions:
      if stream.frame_rate == 0:
        codes = self.mulan.read(stream)
    settings = dict(stage=self.stage, vocabulary=self.vocabulary, mulan=codes)
    crop = functools.partial(_crop_stage, seed=seed, **settings)
    lengths = {"inputs": self.stage.condition_length, "targets": self.stage.target_length}
    converter = seqio.PrefixLMFeatureConverter(pack=False)

    def examples(dataset):
      dataset = converter(dataset.map(crop, num_parallel_calls=2), lengths)
      return dataset.map(lambda example: {name: example[name] for name in self.shapes})

    features = features_of(self.shapes)
    name = f"{self.stage.name}_tokens"
    return seqio.Task(name, source, output_features=features, preprocessors=[examples])


@dataclasses.dataclass(frozen=True)
class MulanCodes:
  """Codes of MuLan embeddings averaged over the windows of a crop (MusicLM Section 3.1).

  `directory` is the part of the residual quantizer. The mean is brought back to length 1, where
  the text embeddings lie too.
  """

  directory: str
  window_seconds: float

  def read(self, stream: Stream):
    """A function from (embeddings [seconds, dim], start, crop_seconds), one window a second, to
    codes [1, num_quantizers] int32.

    Raises ValueError where the quantizer wants standardised inputs, or gives other codes than the
    stream is told to have.
    """
    module, variables, _ = part_files.read_part(self.directory)
    if module.standardise:
      raise ValueError(f"{self.directory}: the MuLan quantizer must not standardise its inputs")
    codebooks = np.asarray(variables["codebooks"]["quantizer"]["vectors"])
    last = stream.first_quantizer + stream.num_quantizers
    levels, size, _ = codebooks.shape
    if levels < last or size != stream.codebook_size:
      raise ValueError(
        f"{self.directory}: has {levels} levels of {size} codes, stream {stream.name} wants {last}"
        f" of {stream.codebook_size}"
      )

    squares = squared_lengths(codebooks)

    def nearest(x):
      return quantize(x, codebooks, squares)[0]

    def codes(embeddings, start, crop_seconds: float):
      last = tf.shape(embeddings, tf.int64)[0] - 1
      first = tf.minimum(tf.cast(start, tf.int64), last)
      spare = int(max(crop_seconds - self.window_seconds, 0))
      mean = tf.reduce_mean(embeddings[first : tf.minimum(first + spare, last) + 1], axis=0)
      mean = tf.math.l2_normalize(mean)[None]
      found = tf.numpy_function(nearest, [mean], tf.int32)
      return tf.ensure_shape(found, [1, levels])

    return codes


def _crop_stage(example, *, seed, stage: Stage, vocabulary: Vocabulary, mulan):
  """{inputs, targets} int32 tokens of one crop."""
  target = stage.target
  spare = tf.shape(example[target.source], tf.int64)[0] - target.frames(stage.crop_seconds)
  grid = stage.grid_seconds
  grid_frames = round(float(grid) * target.frame_rate)
  slots = tf.maximum(spare, 0) // grid_frames + 1
  start = uniform(seed, example["position"], slots)  # in steps of the grid
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
