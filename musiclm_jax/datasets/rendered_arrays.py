"""The built-in corpus as plain arrays, for trainings on machines without TensorFlow and TFDS."""

import dataclasses
import itertools
import math
import os
import pathlib
import sys
import tempfile
import time

from musiclm_jax.datasets import arrays, corpus_clips, corpus_sizes, soundfonts
from musiclm_jax.datasets.corpus_sizes import SIZES, Size
from musiclm_jax.datasets.workers import ordered_map
from musiclm_jax.ranges import PositiveFloat, PositiveInt, Seed

RENDERED = ("train", "validation")  # what a training reads


def prepare(
  *,
  output_dir: str,
  size: str,
  hours: PositiveFloat | None,
  seed: Seed,
  workers: PositiveInt | None,
  soundfont: str,
  scores: str,
) -> dict[str, int]:
  """Renders the splits train and validation into `arrays`; gives {split: clips}.

  The clips are those of `corpus_builder.prepare` with the same size, seed and soundfont; `hours`
  (None: no bound) leaves out the last works of a split that has more. `workers` is the number of
  processes (None: one for each CPU), `scores` a file of `score_arrays`, or "": music21's scores.
  The directory appears whole or not at all; an existing one is rendered again. Prints one line.
  Raises ValueError for an unknown size, and as `arrays.write`.
  """
  if size not in SIZES:
    raise ValueError(f"size: wanted one of {', '.join(SIZES)}, got {size!r}")
  begin = time.perf_counter()
  bounded = SIZES[size] if hours is None else within(SIZES[size], hours)
  with tempfile.TemporaryDirectory() as folder:
    soundfont = soundfonts.write_corrected(soundfont, pathlib.Path(folder))
    made = dict(seed=seed, soundfont=soundfont, scores=scores)
    jobs = {split: corpus_sizes.jobs(bounded, split, **made) for split in RENDERED}
    with ordered_map(os.cpu_count() if workers is None else workers) as mapped:
      works = mapped(corpus_clips.render_work, itertools.chain(*jobs.values()))
      clips = {split: _clips(works, len(each)) for split, each in jobs.items()}
      counts = arrays.write(output_dir, clips)
  seconds = time.perf_counter() - begin
  audio = sum(counts.values()) * bounded.clip_seconds
  print(
    f"{audio / 3600:.2f} h rendered in {seconds:.0f} s, {audio / seconds:.0f} s of audio a second",
    file=sys.stderr,
  )
  return counts


def within(size: Size, hours: float) -> Size:
  """A size whose splits have at most this many hours, and at least one work."""
  seconds = size.clip_seconds * size.passages * size.renditions  # of one work
  most = max(1, math.floor(hours * 3600 / seconds))
  works = tuple(most if count is None else min(count, most) for count in size.works)
  return dataclasses.replace(size, works=works)


def _clips(works, count: int):
  """The records of the next `count` works."""
  return itertools.chain.from_iterable(itertools.islice(works, count))
