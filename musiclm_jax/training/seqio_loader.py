"""Batches of TFDS records through SeqIO: tasks and mixtures without end."""

from collections.abc import Callable, Iterator

import numpy as np
import seqio
import tensorflow as tf

from musiclm_jax.training.examples import Reading

tf.config.set_visible_devices([], "GPU")
# How SeqIO gives examples that have no end, and so can be neither repeated nor kept in memory.
_ENDLESS = dict(sequence_length=None, shuffle=False, num_epochs=1, try_in_mem_cache=False)


class RecordSource(seqio.FunctionDataSource):
  """The records at positions(step) for each step from `first_step` on, with their positions."""

  def __init__(self, reading: Reading, positions: Callable, first_step: int):
    records = reading.records
    features = records.select(reading.maker.features)

    def read(step):
      chosen = positions(int(step))
      return chosen, np.array(records.read(reading.order(chosen)), dtype=object)

    def parse(position, record):
      return {**features.deserialize_example(record), "position": position}

    def load(split, shuffle_files, seed=None):
      del split, shuffle_files, seed
      steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
      rows = steps.map(
        lambda step: tf.numpy_function(read, [step], (tf.int64, tf.string), stateful=False)
      )
      return rows.unbatch().map(parse, num_parallel_calls=2)

    super().__init__(load, splits=[records.split])


def task(name: str, reading: Reading, positions: Callable, first_step: int) -> seqio.Task:
  """The task whose examples are those at positions(step) for each step from `first_step` on."""
  make, shapes, names = reading.maker.make, reading.shapes, reading.maker.features

  def example(position, *values):
    made = make(dict(zip(names, values)), int(position))
    return [np.asarray(made[name], x.dtype) for name, x in shapes.items()]

  def preprocess(record):
    inputs = [record["position"], *(record[name] for name in names)]
    types = [tf.as_dtype(x.dtype) for x in shapes.values()]
    found = tf.numpy_function(example, inputs, types, stateful=False)
    return {n: tf.ensure_shape(v, x.shape) for v, (n, x) in zip(found, shapes.items())}

  def examples(dataset):
    return dataset.map(preprocess, num_parallel_calls=2)

  nothing = seqio.PassThroughVocabulary(0)  # they are numbers, or tokens already
  features = {
    name: seqio.Feature(nothing, add_eos=False, dtype=tf.as_dtype(x.dtype), rank=len(x.shape))
    for name, x in shapes.items()
  }
  source = RecordSource(reading, positions, first_step)
  return seqio.Task(name, source, output_features=features, preprocessors=[examples])


def batches(
  readings: tuple[Reading, ...], place: Callable, first_step: int, rows: int
) -> Iterator[dict[str, np.ndarray]]:
  """Batches of `rows` examples from `first_step` on, without end: close it after use.

  place(step) gives (which reading, position in its order), [rows] each.
  """
  split = readings[0].records.split
  if len(readings) == 1:
    provider = task("examples", readings[0], lambda step: place(step)[1], first_step)
  else:
    provider = _mixture(readings, place, first_step, rows)
  examples = provider.get_dataset(split=split, **_ENDLESS)
  return _closable(examples.batch(rows, drop_remainder=True).prefetch(2))


def _mixture(readings, place: Callable, first_step: int, rows: int) -> seqio.Mixture:
  def choose(examples, rates, seed):
    del rates, seed
    steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    which = steps.map(
      lambda step: tf.numpy_function(
        lambda s: place(int(s))[0].astype(np.int64), [step], tf.int64, stateful=False
      )
    )
    which = which.map(lambda x: tf.ensure_shape(x, [rows])).unbatch()
    return tf.data.Dataset.choose_from_datasets(examples, which)

  def positions(index):
    def of_step(step):
      which, at = place(step)
      return at[which == index]

    return of_step

  # SeqIO sorts the tasks of a mixture by their names.
  tasks = [
    (task(f"dataset_{index:04}", reading, positions(index), first_step), 1)
    for index, reading in enumerate(readings)
  ]
  return seqio.Mixture("mixture", tasks, sample_fn=choose)


def _closable(dataset: tf.data.Dataset) -> Iterator:
  """The elements as numpy, by a generator, which can be closed.

  An iterator of TensorFlow that is still open when Python ends waits for threads that need Python.
  """
  yield from dataset.as_numpy_iterator()
