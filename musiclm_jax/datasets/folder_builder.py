"""Anyone's folder of audio as a TFDS data set: clips of equal length, splits by file, captions.

`prepare` builds it where it is missing. Neither importing nor building imports TensorFlow.
"""

import collections
import hashlib
import json
import pathlib
import sys
import time

import tensorflow_datasets as tfds

from musiclm_jax import checkpointing
from musiclm_jax.datasets import audio_folder, parallel_build
from musiclm_jax.datasets.captions import train_text_model
from musiclm_jax.ranges import Fraction, PositiveFloat, PositiveInt


class Folder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The clips of `jobs` {split: [audio_folder.Job]}; beside them folder.json with `description`
  and, where there are captions, their text model of at most `vocab_size` pieces.

  When it is built, `left` has (path, clips, samples left over) of every file.
  """

  VERSION = tfds.core.Version("1.0.0")
  map = staticmethod(map)  # `build` puts that of a pool of processes in its place
  jobs: dict[str, list[audio_folder.Job]]
  description: dict
  vocab_size: int

  def _info(self):
    features = tfds.features.FeaturesDict(parallel_build.FEATURES)
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    del dl_manager
    self.left, directory = [], pathlib.Path(self.data_dir)
    checkpointing.write_text(
      directory / "folder.json", json.dumps(self.description, indent=1) + "\n"
    )
    texts = [job.caption for job in self.jobs["train"] if job.caption]
    if texts:
      train_text_model(texts, directory / "captions.model", self.vocab_size)
    made = parallel_build.spread(self.map, audio_folder.cut, self.jobs, unit="file", verb="reading")
    return {split: self._generate_examples(split, each) for split, each in made.items()}

  def _generate_examples(self, split, files):
    written = 0
    for job, clips, spare in files:
      self.left.append((job.path, len(clips), spare))
      written += len(clips)
      for number, clip in enumerate(clips):
        name = f"{job.path}#{number:04}"
        # A melody's other renditions are not known, so none is named.
        yield (
          name,
          {
            "id": name,
            "waveform": clip,
            "caption": job.caption,
            "aspect_list": list(job.aspects),
            "work": job.path,
            "melody": "",
          },
        )
    if not written:  # the headers of some files promised more than they hold
      raise ValueError(f"shares: {split} gets no clip; choose other --shares or --clip_seconds")


def prepare(
  *,
  audio_dir: str,
  data_dir: str,
  captions: str,
  convert: bool,
  clip_seconds: PositiveFloat,
  sample_rate: PositiveInt,
  shares: tuple[Fraction, ...],
  vocab_size: PositiveInt,
  workers: PositiveInt,
) -> pathlib.Path:
  """Directory of the data set of a folder, data_dir/folder/1.0.0, built if it is not there.

  Every file is cut into clips of `clip_seconds`; `shares` are those of train, validation and test
  among the files. `captions` is a CSV as `audio_folder.read_captions` takes it, or ""; with it the
  directory holds the text model captions.model, of `vocab_size` pieces at most. What is left out is
  said on stderr. Raises ValueError where a file or a row is refused, a split would be empty, or the
  directory holds the data set of other files or settings.
  """
  begin = time.perf_counter()
  files, others = audio_folder.list_files(audio_dir)
  texts = audio_folder.read_captions(captions, files) if captions else {}
  settings = dict(clip_seconds=clip_seconds, sample_rate=sample_rate, convert=convert)
  description = settings | {"shares": list(shares)}
  if captions:
    digest = hashlib.sha256(pathlib.Path(captions).read_bytes()).hexdigest()[:12]
    description |= {"captions": digest, "vocab_size": vocab_size}
  description |= {file: f"{size} bytes" for file, size in files.items()}
  builder = Folder(data_dir=data_dir)
  directory = pathlib.Path(builder.data_dir)
  built = not directory.exists()
  if built:
    builder.description, builder.vocab_size = description, vocab_size
    builder.jobs, converted = plan(audio_dir, files, texts, shares=shares, **settings)
    parallel_build.build(builder, min(workers, len(files)))
    print(_left_out(builder.left, others, clip_seconds, sample_rate), file=sys.stderr)
    if convert:
      count = f"{converted} of {len(files)} files"
      print(f"prepare: converted {count} to {sample_rate} Hz mono", file=sys.stderr)
  else:
    _check_same(directory, description)
  splits = builder.info.splits.items()
  counts = "clips: " + ", ".join(f"{name} {split.num_examples}" for name, split in splits)
  seconds = time.perf_counter() - begin if built else None
  print(parallel_build.summary(builder, clip_seconds, counts, seconds), flush=True)
  return directory


def plan(
  audio_dir: str,
  files,
  texts: dict,
  *,
  clip_seconds: float,
  sample_rate: int,
  convert: bool,
  shares: tuple[float, ...],
) -> tuple[dict[str, list[audio_folder.Job]], int]:
  """The files of each split as jobs, and how many must be converted.

  A split with share 0 is left out. Raises ValueError for a file that is refused, and where a split
  has no clip.
  """
  if len(shares) != len(audio_folder.SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
    wanted = f"a share of 0 to 1 for each of {', '.join(audio_folder.SPLITS)}, 1 in all"
    raise ValueError(f"shares: wanted {wanted}, got {shares}")
  if round(clip_seconds * sample_rate) < 1:
    raise ValueError(f"clip_seconds: wanted more than 0, got {clip_seconds}")
  jobs = {
    split: [] for split, share in zip(audio_folder.SPLITS, shares) if share or split == "train"
  }
  clips, converted = collections.Counter(), 0
  for file in files:
    split = audio_folder.split_of(file, shares)
    job = audio_folder.Job(
      audio_dir,
      file,
      *texts.get(file, ("", ())),
      clip_samples=round(clip_seconds * sample_rate),
      sample_rate=sample_rate,
      convert=convert,
    )
    jobs[split].append(job)
    count, other = audio_folder.look(job)
    clips[split] += count
    converted += other
  for split, each in jobs.items():
    if not clips[split]:
      raise ValueError(
        f"shares: {split} gets {len(each)} of {len(files)} files and no clip of {clip_seconds:g} s;"
        f" choose other --shares, now {shares}, or --clip_seconds"
      )
  return jobs, converted


def _check_same(directory: pathlib.Path, description: dict) -> None:
  """The data set that is there must be of these files and settings."""
  there = json.loads((directory / "folder.json").read_text())
  if there != description:
    difference = checkpointing.difference(description, there, "this run", "the data set")
    raise ValueError(f"{directory}: {difference}; choose another DATA_DIR, or remove it")


def _left_out(left, others, clip_seconds: float, sample_rate: int) -> str:
  """One line that counts all that is in no clip."""
  short = [spare / sample_rate for _, clips, spare in left if not clips]
  ends = [spare / sample_rate for _, clips, spare in left if clips and spare]
  line = (
    f"prepare: {len(left)} files; left out: {len(short)} shorter than {clip_seconds:g} s "
    f"({sum(short):.1f} s), {sum(ends):.1f} s at the ends of {len(ends)} others"
  )
  return line + (f", files of other kinds: {audio_folder.listed(others)}" if others else "")
