"""What the builders of audio data sets share: processes, a progress bar, bytes that never differ.

Neither importing nor building up to 1 GB imports TensorFlow.
"""

import contextlib
import io
import itertools
import sys
from collections.abc import Callable, Iterator

import tensorflow_datasets as tfds
from tqdm import tqdm

from musiclm_jax.datasets.workers import Map, ordered_map


def build(builder: tfds.core.GeneratorBasedBuilder, workers: int) -> None:
  """Builds a data set with `workers` processes; the bytes do not depend on their number.

  The builder's `map` is replaced by one that uses the processes. A build that is stopped leaves no
  data set. Raises ValueError for fewer than one process and ChildProcessError where one dies.
  """
  tfds.disable_progress_bar()  # it does not know how much is left; ours does
  with contextlib.ExitStack() as stack:
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))  # TFDS prints its plans
    stack.enter_context(ordered_fields())
    builder.map = stack.enter_context(ordered_map(workers))
    builder.download_and_prepare(file_format="array_record")


def spread(
  mapped: Map, make: Callable, jobs: dict[str, list], *, unit: str, verb: str
) -> dict[str, Iterator]:
  """{split: iterator of make(job) for each of its jobs}, to be read in this order.

  `mapped` is a builder's `map`. All splits share one progress bar. It is closed before an error is
  raised, and it never shows for work that fails or ends within a second.
  """
  everything = list(itertools.chain(*jobs.values()))
  seconds = 0.2 if sys.stderr.isatty() else 10.0
  bar = tqdm(total=len(everything), unit=unit, desc=verb, delay=1.0, mininterval=seconds)

  def results():
    with bar:
      for result in mapped(make, everything):
        bar.update()
        yield result

  made = results()
  return {split: itertools.islice(made, len(each)) for split, each in jobs.items()}


@contextlib.contextmanager
def ordered_fields() -> Iterator[None]:
  """Makes TFDS write the fields of a record in one order; by default each process has its own."""
  serializer = tfds.core.example_serializer.ExampleSerializer
  usual = serializer.serialize_example

  def serialize(self, example):
    return self.get_tf_example(example).SerializeToString(deterministic=True)

  serializer.serialize_example = serialize
  try:
    yield
  finally:
    serializer.serialize_example = usual


def read_captions(builder: tfds.core.DatasetBuilder, split: str) -> list[str]:
  """All captions of a split in the order of the records."""
  source = builder.as_data_source(split=split, decoders={"waveform": tfds.decode.SkipDecoding()})
  several = "captions" in builder.info.features
  texts = (each["captions"] if several else [each["caption"]] for each in source)
  return [text.decode() for each in texts for text in each]


def summary(
  builder: tfds.core.DatasetBuilder, clip_seconds: float, counts: str, seconds: float | None
) -> str:
  """One line: clips, hours, the `counts`; seconds of audio per second where `seconds` it took."""
  clips = sum(split.num_examples for split in builder.info.splits.values())
  audio = clips * clip_seconds
  speed = f"built in {seconds:.0f} s, {audio / seconds:.0f} s of audio a second" if seconds else ""
  return (
    f"{builder.data_dir}: {clips} clips, {audio / 3600:.2f} h, {counts}; {speed or 'already there'}"
  )
