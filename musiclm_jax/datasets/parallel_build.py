"""What all builders of audio data sets share: processes, a progress bar, bytes that never differ.

Neither importing nor building imports TensorFlow.
"""

import collections
import contextlib
import functools
import io
import itertools
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

# What every audio record has. `melody` is the same text for renditions of one melody, or empty.
FEATURES = {
  "id": tfds.features.Text(),
  "waveform": tfds.features.Tensor(
    shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
  ),
  "caption": tfds.features.Text(),
  "aspect_list": tfds.features.Sequence(tfds.features.Text()),
  "work": tfds.features.Text(),
  "melody": tfds.features.Text(),
}


def build(builder: tfds.core.GeneratorBasedBuilder, workers: int) -> None:
  """Builds a data set, whose builder has a `map`, with that many processes.

  The bytes do not depend on their number. A build that is stopped leaves no data set. Raises
  ValueError for fewer than one.
  """
  if workers < 1:
    raise ValueError(f"workers: wanted at least 1, got {workers}")
  tfds.disable_progress_bar()  # ours knows how much is left
  with contextlib.ExitStack() as stack:
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))  # TFDS tells what it will do
    stack.enter_context(ordered_fields())
    if workers > 1:
      # An interrupt is this process's affair, which then ends the others.
      quiet = dict(initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
      pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers, **quiet))
      builder.map = functools.partial(_map, pool, 4 * workers)
    builder.download_and_prepare(file_format="array_record")


def _map(pool, limit: int, function: Callable, jobs: list) -> Iterator:
  """function(job) for each of jobs, by a pool of processes that is at most `limit` jobs ahead.

  `pool.imap` would keep in memory all that is made faster than it is written.
  """
  begun = collections.deque()
  for job in jobs:
    begun.append(pool.apply_async(function, (job,)))
    if len(begun) == limit:
      yield begun.popleft().get()
  while begun:
    yield begun.popleft().get()


def spread(
  mapped: Callable, make: Callable, jobs: dict[str, list], *, unit: str, verb: str
) -> dict[str, Iterator]:
  """{split: iterator of make(job) for each of its jobs}, to be read in this order.

  `mapped` is a builder's `map`. All splits share one progress bar, which is closed before an error
  is seen, and which work that fails or ends within a second never shows.
  """
  everything = list(itertools.chain(*jobs.values()))
  often = 0.2 if sys.stderr.isatty() else 10.0
  bar = tqdm(total=len(everything), unit=unit, desc=verb, delay=1.0, mininterval=often)

  def results():
    with bar:
      for result in mapped(make, everything):
        bar.update()
        yield result

  made = results()
  return {split: itertools.islice(made, len(each)) for split, each in jobs.items()}


@contextlib.contextmanager
def ordered_fields():
  """While it lasts TFDS writes the fields of a record in one order; else each process has its
  own."""
  serializer = tfds.core.example_serializer.ExampleSerializer
  usual = serializer.serialize_example

  def serialize(self, example):
    return self.get_tf_example(example).SerializeToString(deterministic=True)

  serializer.serialize_example = serialize
  try:
    yield
  finally:
    serializer.serialize_example = usual


def read_captions(builder, split: str) -> list[str]:
  """Captions of a split in the order of the records."""
  source = builder.as_data_source(split=split, decoders={"waveform": tfds.decode.SkipDecoding()})
  return [each["caption"].decode() for each in source]


def summary(builder, clip_seconds: float, counts: str, seconds: float | None) -> str:
  """One line: clips, hours, the `counts`, and, where it was built, seconds of audio a second."""
  clips = sum(split.num_examples for split in builder.info.splits.values())
  audio = clips * clip_seconds
  speed = f"built in {seconds:.0f} s, {audio / seconds:.0f} s of audio a second" if seconds else ""
  return (
    f"{builder.data_dir}: {clips} clips, {audio / 3600:.2f} h, {counts}; {speed or 'already there'}"
  )
