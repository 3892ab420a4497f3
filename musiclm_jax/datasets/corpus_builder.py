"""The built-in corpus as a TFDS data set: rendered scores with captions and measurable facts.

`prepare` builds it where it is missing. Importing imports no TensorFlow, nor does building up to
1 GB; TFDS shuffles larger splits in temporary files that TensorFlow writes.
"""

import dataclasses
import os
import pathlib
import shutil
import tempfile
import time

import numpy as np
import tensorflow_datasets as tfds

from musiclm_jax.datasets import (
  captions,
  corpus_clips,
  corpus_sizes,
  parallel_build,
  soundfonts,
  synthesis,
)
from musiclm_jax.datasets.audio_record import FEATURES
from musiclm_jax.datasets.corpus_sizes import SIZES, SPLITS, Size
from musiclm_jax.ranges import PositiveInt, Seed

VOCAB_SIZE = 1000
COPIES = 2  # TFDS shuffles the records on disk before it writes them


@dataclasses.dataclass(kw_only=True)
class RenderedConfig(tfds.core.BuilderConfig):
  """A corpus of some size."""

  size: Size
  seed: int = 0
  soundfont: str = ""


def named_config(size: str, *, seed: int, soundfont: str) -> RenderedConfig:
  """Configuration of a corpus; its name is the size and any other seed or soundfont.

  Raises ValueError where `size` is none of `SIZES`.
  """
  if size not in SIZES:
    raise ValueError(f"size: wanted one of {', '.join(SIZES)}, got {size!r}")
  name = (
    size
    + (f"-seed{seed}" if seed else "")
    + (f"-{pathlib.Path(soundfont).stem}" if soundfont else "")
  )
  return RenderedConfig(name=name, size=SIZES[size], seed=seed, soundfont=soundfont)


class Rendered(tfds.core.GeneratorBasedBuilder):
  """Works of the catalogue, rendered with General-MIDI instruments to 24 kHz mono int16."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [named_config(size, seed=0, soundfont="") for size in SIZES]
  scores = ""  # as in `corpus_clips.Job`
  map = staticmethod(map)  # `parallel_build.build` sets one that uses several processes

  def _info(self):
    text, row = tfds.features.Text(), tfds.features.Tensor
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        FEATURES
        | {
          "captions": tfds.features.Sequence(text),
          "start_s": np.float32,
          "end_s": np.float32,
          "place": text,
          "bpm": np.float32,
          "beat_s": np.float32,
          "key": text,
          "instruments": tfds.features.Sequence(text),
          "programs": tfds.features.Sequence(np.int32),
          "meter": text,
          "onsets": row(shape=(None, 2), dtype=np.float32),
          "tempo_word": text,
          "family": text,
        }
      ),
      homepage="https://www.music21.org/music21docs/about/referenceCorpus.html",
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    self._scratch = tempfile.TemporaryDirectory()  # lives as long as the builder
    config = self.builder_config
    soundfont = soundfonts.write_corrected(config.soundfont, pathlib.Path(self._scratch.name))
    made = dict(seed=config.seed, soundfont=soundfont, scores=self.scores)
    jobs = {split: corpus_sizes.jobs(config.size, split, **made) for split in SPLITS}
    made = parallel_build.spread(
      self.map, corpus_clips.render_work, jobs, unit="work", verb="rendering"
    )
    return {split: self._generate_examples(each) for split, each in made.items()}

  def _generate_examples(self, works):
    for examples in works:
      for example in examples:
        yield example["id"], example


def prepare(
  data_dir: str,
  size: str,
  *,
  seed: Seed,
  workers: PositiveInt | None,
  soundfont: str = "",
  scores: str = "",
) -> pathlib.Path:
  """Directory of the corpus, built where it is missing; the text model is data_dir/captions.model.

  The bytes depend on size, seed and soundfont alone. `workers` is the number of processes (None:
  one for each CPU), `scores` a file of `score_arrays`, read instead of music21's scores. A build
  that is stopped leaves no data set. Prints one line before the build and one at the end. Raises
  ValueError for an unknown size, a file of another kind and a disk that is too small.
  """
  config = named_config(size, seed=seed, soundfont=soundfont)
  builder = Rendered(config=Rendered.builder_configs.get(config.name, config), data_dir=data_dir)
  builder.scores = scores
  directory = pathlib.Path(builder.data_dir)
  begin = time.perf_counter()
  built = not directory.exists()
  if built:
    print(forecast(config.size, directory), flush=True)
    parallel_build.build(builder, os.cpu_count() if workers is None else workers)
  model = pathlib.Path(data_dir) / "captions.model"
  if built or not model.exists():
    captions.train_text_model(parallel_build.read_captions(builder, "train"), model, VOCAB_SIZE)
  print(summary(builder, time.perf_counter() - begin if built else None), flush=True)
  return directory


def forecast(size: Size, directory: pathlib.Path) -> str:
  """One line: clips, hours and bytes of a corpus that is not built yet.

  Raises ValueError where the disk of `directory` has too little space.
  """
  clips = corpus_sizes.clip_count(size)
  kept = clips * size.clip_seconds * synthesis.SAMPLE_RATE * 2 / 1e9
  parent = next(each for each in directory.parents if each.exists())
  free = shutil.disk_usage(parent).free / 1e9
  if free < COPIES * kept:
    raise ValueError(
      f"{directory}: wanted {COPIES * kept:.1f} GB while it is built and {kept:.1f} GB afterwards, "
      f"the disk has {free:.1f} GB free"
    )
  return (
    f"{directory}: building {clips} clips, {clips * size.clip_seconds / 3600:.2f} h; at most "
    f"{kept:.1f} GB stay on disk, {COPIES * kept:.1f} GB while it is built; {free:.1f} GB are free"
  )


def summary(builder: Rendered, seconds: float | None) -> str:
  """One line: clips, hours, melodies of each split; seconds of audio per second where it was built
  in `seconds`."""
  size = builder.builder_config.size
  counts = {split: builder.info.splits[split].num_examples for split in SPLITS}
  melodies = (f"{split} {count // size.renditions}" for split, count in counts.items())
  return parallel_build.summary(
    builder, size.clip_seconds, f"melodies: {', '.join(melodies)}", seconds
  )
