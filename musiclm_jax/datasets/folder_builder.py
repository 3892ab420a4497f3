"""A folder of audio as a TFDS data set: clips of equal length, splits by file, captions.

`prepare` builds it where it is missing. Neither importing nor building imports TensorFlow.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds

from musiclm_jax import descriptions
from musiclm_jax.datasets import audio_folder, folder_plan, folder_report, parallel_build
from musiclm_jax.datasets.audio_folder import Cut, Reject
from musiclm_jax.datasets.audio_record import FEATURES, AudioRecord
from musiclm_jax.datasets.captions import train_text_model
from musiclm_jax.datasets.file_table import TableReader
from musiclm_jax.datasets.folder_plan import Plan
from musiclm_jax.ranges import Fraction, PositiveFloat, PositiveInt


class Folder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The clips of a `plan`; in their directory what `folder_report.write` writes and, where there
  are captions, the text model captions.model.

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
            "caption": cut.job.entry.caption,
            "aspect_list": list(cut.job.entry.aspects),
            "work": cut.job.entry.work or cut.job.name,
            "melody": "",  # which renditions share a melody is not known
          },
        )
    if empty:  # TFDS cannot write it: name all faults now
      for rest in self._left:
        for cut in rest:
          self._note(cut)
      self._refuse_rejects()
      error = ValueError(folder_plan.empty_split(self.plan, split))
      for line in folder_plan.reasons(self.plan.audio_dir, self.rejects):
        error.add_note(line)
      raise error

  def _note(self, cut: Cut) -> None:
    self.cuts.append(dataclasses.replace(cut, clips=dict.fromkeys(cut.clips)))
    if cut.reason:
      self.rejects.append(Reject(cut.job.name, cut.reason))

  def _refuse_rejects(self) -> None:
    if not self.plan.skip_bad:
      folder_plan.refuse(self.plan.audio_dir, self.rejects)

  def _train_text_model(self) -> None:
    """Writes the text model of the captions of train, without those of rejects, where there are
    any."""
    bad = {each.file for each in self.rejects}
    jobs = [job for job in self.plan.jobs.get("train", ()) if job.name not in bad]
    texts = [job.entry.caption for job in jobs if job.entry.caption]
    if texts:
      path = pathlib.Path(self.data_dir, "captions.model")
      train_text_model(texts, path, self.plan.vocab_size)

  def _download_and_prepare(self, dl_manager, download_config):
    super()._download_and_prepare(dl_manager, download_config)
    self._refuse_rejects()
    directory = pathlib.Path(self.data_dir)  # the temporary one, renamed when all is written
    if self.rejects:
      self._train_text_model()
    folder_report.write(directory, self.plan, self.cuts, self.rejects)


def prepare(
  *,
  audio_dir: str,
  data_dir: str,
  table: TableReader,
  convert: bool,
  skip_bad: bool,
  warn_share: Fraction,
  clip_seconds: PositiveFloat,
  sample_rate: PositiveInt,
  vocab_size: PositiveInt,
  workers: PositiveInt | None,
) -> pathlib.Path:
  """Directory of the data set of a folder, data_dir/folder/1.0.0, built where it is missing.

  Every file is cut into clips of `clip_seconds`; silent clips are left out. `table` has the split
  of each file and what else is known of it; where it has captions, the directory holds the text
  model captions.model, of `vocab_size` pieces at most. Files that cannot be used are refused, all
  in one error. With `skip_bad` they are left out and listed in rejects.jsonl, with a warning where
  they are more than `warn_share` of the files. What is left out is counted on stderr. `workers` is
  the number of processes (None: one for each CPU). Raises ValueError also for a wrong setting, for
  a table that cannot be used, where a split would be empty, and where the directory holds the data
  set of other files or settings.
  """
  begin = time.perf_counter()
  plan = folder_plan.make_plan(
    audio_dir,
    table,
    convert=convert,
    skip_bad=skip_bad,
    clip_seconds=clip_seconds,
    sample_rate=sample_rate,
    vocab_size=vocab_size,
  )
  builder = Folder(data_dir=data_dir)
  directory = pathlib.Path(builder.data_dir)
  built = not directory.exists()
  if built:
    builder.plan = plan
    parallel_build.build(builder, min(workers or os.cpu_count() or 1, len(plan.listing.files)))
    report = (directory, plan, builder.cuts, builder.rejects, warn_share)
    for line in folder_report.lines(*report):
      print(f"prepare: {line}", file=sys.stderr)
  else:
    _check_same(directory, plan)
  counts = "clips: " + ", ".join(f"{k} {v.num_examples}" for k, v in builder.info.splits.items())
  seconds = time.perf_counter() - begin if built else None
  print(parallel_build.summary(builder, clip_seconds, counts, seconds), flush=True)
  return directory


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
