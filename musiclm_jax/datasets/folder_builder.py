"""A folder of audio as a TFDS data set: clips of equal length, splits by file, captions.

`prepare` builds it where it is missing. Neither importing nor building imports TensorFlow.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds

from musiclm_jax import descriptions, storage
from musiclm_jax.datasets import audio_folder, caption_table, parallel_build, splits
from musiclm_jax.datasets.audio_folder import Cut, Job, Listing, Reject
from musiclm_jax.datasets.audio_record import FEATURES, AudioRecord
from musiclm_jax.datasets.caption_table import Caption
from musiclm_jax.datasets.captions import train_text_model
from musiclm_jax.datasets.faults import raise_faults
from musiclm_jax.ranges import Fraction, PositiveFloat, PositiveInt

_SHOWN = 10  # files with silent clips that are named


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be built of an audio folder: `jobs` {split: its files}.

  `listing` is that of the folder, `skip_bad` whether bad files are left out or refused,
  `description` the content of folder.json and `vocab_size` that of the text model.
  """

  audio_dir: str
  jobs: dict[str, list[Job]]
  listing: Listing
  skip_bad: bool
  description: dict
  vocab_size: int


class Folder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The clips of a `plan`; in their directory folder.json, rejects.jsonl where there are any, and,
  where there are captions, the text model captions.model.

  Raises ValueError with all bad files at once unless they are skipped, and where a split has no
  clip. When it is built, `cuts` has the `Cut` of every file, without its clips, and `rejects` all
  bad files.
  """

  VERSION = tfds.core.Version("1.0.0")
  map = staticmethod(map)  # `parallel_build.build` sets one that uses several processes
  plan: Plan

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(FEATURES))

  def _split_generators(self, dl_manager):
    del dl_manager
    self.cuts, self.rejects = [], list(self.plan.listing.rejects)
    self._train_text_model()  # before the files are read: a vocabulary may be too small
    made = parallel_build.spread(
      self.map, audio_folder.cut, self.plan.jobs, unit="file", verb="reading"
    )
    self._left = list(made.values())
    return {split: self._generate_examples(split, each) for split, each in made.items()}

  def _generate_examples(
    self, split: str, cuts: Iterable[Cut]
  ) -> Iterator[tuple[str, AudioRecord]]:
    empty = True
    for cut in cuts:
      self._note(cut)
      for index, clip in cut.clips.items():
        empty = False
        name = f"{cut.job.name}#{index:04}"
        yield (
          name,
          {
            "id": name,
            "waveform": clip,
            "caption": cut.job.caption,
            "aspect_list": list(cut.job.aspects),
            "work": cut.job.name,
            "melody": "",  # which renditions share a melody is not known
          },
        )
    if empty:  # TFDS cannot write it: name all faults now
      for rest in self._left:
        for cut in rest:
          self._note(cut)
      self._refuse_rejects()
      error = ValueError(_empty_split(self.plan, split))
      for line in _reasons(self.plan.audio_dir, self.rejects):
        error.add_note(line)
      raise error

  def _note(self, cut: Cut) -> None:
    self.cuts.append(dataclasses.replace(cut, clips=dict.fromkeys(cut.clips)))
    if cut.reason:
      self.rejects.append(Reject(cut.job.name, cut.reason))

  def _refuse_rejects(self) -> None:
    if not self.plan.skip_bad:
      _refuse(self.plan.audio_dir, self.rejects)

  def _train_text_model(self) -> None:
    """Writes the text model of the captions of train, without those of rejects, where there are
    any."""
    bad = {each.file for each in self.rejects}
    jobs = [job for job in self.plan.jobs["train"] if job.name not in bad]
    texts = [job.caption for job in jobs if job.caption]
    if texts:
      path = pathlib.Path(self.data_dir, "captions.model")
      train_text_model(texts, path, self.plan.vocab_size)

  def _download_and_prepare(self, dl_manager, download_config):
    super()._download_and_prepare(dl_manager, download_config)
    self._refuse_rejects()
    directory = pathlib.Path(self.data_dir)  # the temporary one, renamed when all is written
    description = json.dumps(self.plan.description, indent=1) + "\n"
    storage.write_text(directory / "folder.json", description)
    if self.rejects:
      self._train_text_model()
      rows = sorted(json.dumps(dataclasses.asdict(each)) for each in self.rejects)
      storage.write_text(directory / "rejects.jsonl", "".join(f"{row}\n" for row in rows))


def prepare(
  *,
  audio_dir: str,
  data_dir: str,
  captions: str,
  convert: bool,
  skip_bad: bool,
  warn_share: Fraction,
  clip_seconds: PositiveFloat,
  sample_rate: PositiveInt,
  shares: tuple[Fraction, ...],
  vocab_size: PositiveInt,
  workers: PositiveInt,
) -> pathlib.Path:
  """Directory of the data set of a folder, data_dir/folder/1.0.0, built where it is missing.

  Every file is cut into clips of `clip_seconds`; silent clips are left out. `shares` are those of
  train, validation and test among the files. `captions` is a CSV for `caption_table.read_captions`,
  or ""; with it the directory holds the text model captions.model, of `vocab_size` pieces at most.
  Files that cannot be used are refused, all in one error. With `skip_bad` they are left out and
  listed in rejects.jsonl, with a warning where they are more than `warn_share` of the files. What
  is left out is counted on stderr. Raises ValueError also for a wrong setting, for rows of the CSV
  that cannot be used, where a split would be empty, and where the directory holds the data set of
  other files or settings.
  """
  begin = time.perf_counter()
  plan = make_plan(
    audio_dir,
    captions,
    convert=convert,
    skip_bad=skip_bad,
    clip_seconds=clip_seconds,
    sample_rate=sample_rate,
    shares=shares,
    vocab_size=vocab_size,
  )
  builder = Folder(data_dir=data_dir)
  directory = pathlib.Path(builder.data_dir)
  built = not directory.exists()
  if built:
    builder.plan = plan
    parallel_build.build(builder, min(workers, len(plan.listing.files)))
    _report(builder, warn_share)
  else:
    _check_same(directory, plan)
  counts = "clips: " + ", ".join(f"{k} {v.num_examples}" for k, v in builder.info.splits.items())
  seconds = time.perf_counter() - begin if built else None
  print(parallel_build.summary(builder, clip_seconds, counts, seconds), flush=True)
  return directory


def make_plan(
  audio_dir: str,
  captions: str,
  *,
  convert: bool,
  skip_bad: bool,
  clip_seconds: float,
  sample_rate: int,
  shares: tuple[float, ...],
  vocab_size: int,
) -> Plan:
  """The plan of a folder, as `prepare` describes it; a split with share 0 has no jobs."""
  splits.check_shares(shares)
  if not 0 < clip_seconds * sample_rate < 1e12 or round(clip_seconds * sample_rate) < 1:
    raise ValueError(
      f"clip_seconds: wanted more than 0 s at more than 0 Hz, got {clip_seconds} at {sample_rate}"
    )
  listing = audio_folder.list_files(audio_dir)
  if not listing.files:
    _refuse(audio_dir, listing.rejects)
  texts = caption_table.read_captions(captions, audio_dir, listing.files) if captions else {}
  settings = dict(clip_seconds=clip_seconds, sample_rate=sample_rate, convert=convert)
  description = settings | {"shares": list(shares)}
  if captions:
    digest = hashlib.sha256(pathlib.Path(captions).read_bytes()).hexdigest()[:12]
    description |= {"captions": digest, "vocab_size": vocab_size}
  jobs = {split: [] for split, share in zip(splits.SPLITS, shares) if share or split == "train"}
  for name, path in listing.files.items():
    description[name] = f"{pathlib.Path(audio_dir, path).stat().st_size} bytes"
    caption = texts.get(name, Caption("", ()))
    job = Job(
      audio_dir,
      name,
      path,
      caption.text,
      caption.aspects,
      clip_samples=round(clip_seconds * sample_rate),
      sample_rate=sample_rate,
      convert=convert,
    )
    jobs[splits.split_of_file(name, shares)].append(job)
  plan = Plan(audio_dir, jobs, listing, skip_bad, description, vocab_size)
  for split in jobs:
    if not jobs[split]:
      raise ValueError(_empty_split(plan, split))
  return plan


def _empty_split(plan: Plan, split: str) -> str:
  files, seconds = len(plan.jobs[split]), plan.description["clip_seconds"]
  return (
    f"shares: {split} gets {files} of {len(plan.listing.files)} files and no clip of {seconds:g} s;"
    f" choose other --shares, now {tuple(plan.description['shares'])}, or --clip_seconds"
  )


def _refuse(audio_dir: str, rejects: list[Reject]) -> None:
  """Raises ValueError where there are rejects."""
  hint = "--skip_bad=True leaves out what cannot be used"
  faults = _reasons(audio_dir, rejects)
  if len(faults) == 1:
    faults[0] += f"; {hint}"
  raise_faults(faults, f"{audio_dir}: {len(faults)} audio files cannot be used; {hint}")


def _reasons(audio_dir: str, rejects: list[Reject]) -> list[str]:
  return [f"{pathlib.Path(audio_dir, each.file)}: {each.reason}" for each in rejects]


def _check_same(directory: pathlib.Path, plan: Plan) -> None:
  """The data set that is there must be of the same files and settings."""
  there = json.loads((directory / "folder.json").read_text())
  if there != plan.description:
    difference = descriptions.difference(plan.description, there, "this run", "the data set")
    raise ValueError(f"{directory}: {difference}; choose another DATA_DIR, or remove it")
  rejects = directory / "rejects.jsonl"
  if rejects.exists() and not plan.skip_bad:
    count = len(rejects.read_text().splitlines())
    raise ValueError(f"{directory}: lacks {count} bad files, see {rejects}; accept with --skip_bad")


def _report(builder: Folder, warn_share: float) -> None:
  """Writes to stderr all that is in no clip, and how many files were converted."""
  description, others = builder.plan.description, builder.plan.listing.others
  seconds, rate = description["clip_seconds"], description["sample_rate"]
  cuts = [cut for cut in builder.cuts if not cut.reason]
  total = len(cuts) + len(builder.rejects)
  short = [cut.rest / rate for cut in cuts if not cut.clips and not cut.silent]
  ends = [cut.rest / rate for cut in cuts if (cut.clips or cut.silent) and cut.rest]
  line = (
    f"{total} files; left out: {len(short)} shorter than {seconds:g} s "
    f"({sum(short):.1f} s), {sum(ends):.1f} s at the ends of {len(ends)} others"
  )
  lines = [line + (f", files of other kinds: {audio_folder.counted(others)}" if others else "")]
  silent = [f"{cut.job.name} ({cut.silent})" for cut in cuts if cut.silent]
  if silent:
    count = sum(cut.silent for cut in cuts)
    more = f" and {len(silent) - _SHOWN} more files" if len(silent) > _SHOWN else ""
    lines.append(f"left out {count} silent clips: {', '.join(silent[:_SHOWN])}{more}")
  if description["convert"]:
    converted = sum(cut.converted for cut in cuts)
    lines.append(f"converted {converted} of {len(cuts)} files to {rate} Hz mono")
  if builder.rejects:
    path = pathlib.Path(builder.data_dir, "rejects.jsonl")
    lines.append(f"left out {len(builder.rejects)} of {total} files as bad, see {path}")
    if len(builder.rejects) > warn_share * total:
      lines[-1] += f"; that is more than {warn_share:.0%}, so check the reasons"
  for line in lines:
    print(f"prepare: {line}", file=sys.stderr)
