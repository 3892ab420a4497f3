"""What is to be built of a folder of audio: its files by split, what identifies the data set."""

import dataclasses
import pathlib

from musiclm_jax.datasets import audio_folder
from musiclm_jax.datasets.audio_folder import Job, Listing, Reject
from musiclm_jax.datasets.faults import raise_faults
from musiclm_jax.datasets.file_table import Table, TableReader


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be built of an audio folder: `jobs` {split: its files}.

  `listing` is that of the folder, without the files that its `table` rejects; `skip_bad` whether
  bad files are left out or refused, `description` the content of folder.json and `vocab_size` that
  of the text model.
  """

  audio_dir: str
  jobs: dict[str, list[Job]]
  listing: Listing
  table: Table
  skip_bad: bool
  description: dict
  vocab_size: int


def make_plan(
  audio_dir: str,
  table: TableReader,
  *,
  convert: bool,
  skip_bad: bool,
  clip_seconds: float,
  sample_rate: int,
  vocab_size: int,
) -> Plan:
  """The plan of a folder, as `folder_builder.prepare` describes it.

  A split with share 0, or of a published table without any of its files, has no jobs.
  """
  if not 0 < clip_seconds * sample_rate < 1e12 or round(clip_seconds * sample_rate) < 1:
    raise ValueError(
      f"clip_seconds: wanted more than 0 s at more than 0 Hz, got {clip_seconds} at {sample_rate}"
    )
  listing = audio_folder.list_files(audio_dir)
  known = table.read(audio_dir, listing.files)
  rejects = sorted([*listing.rejects, *known.rejects], key=lambda each: each.file)
  files = {name: path for name, path in listing.files.items() if name in known.entries}
  listing = dataclasses.replace(listing, files=files, rejects=rejects)
  if not files:
    refuse(audio_dir, rejects)
  settings = dict(clip_seconds=clip_seconds, sample_rate=sample_rate, convert=convert)
  description = settings | known.settings
  if any(entry.caption for entry in known.entries.values()):
    description["vocab_size"] = vocab_size
  jobs = {split: [] for split in known.splits}
  for name, path in files.items():
    description[name] = f"{pathlib.Path(audio_dir, path).stat().st_size} bytes"
    job = Job(
      audio_dir,
      name,
      path,
      known.entries[name],
      clip_samples=round(clip_seconds * sample_rate),
      sample_rate=sample_rate,
      convert=convert,
    )
    jobs[job.entry.split].append(job)
  if known.rows:
    jobs = {split: each for split, each in jobs.items() if each}
  plan = Plan(audio_dir, jobs, listing, known, skip_bad, description, vocab_size)
  for split in jobs:
    if not jobs[split]:
      raise ValueError(empty_split(plan, split))
  return plan


def empty_split(plan: Plan, split: str) -> str:
  """One line about a split that has no clip."""
  files, seconds = len(plan.jobs[split]), plan.description["clip_seconds"]
  found = f"{split} gets {files} of {len(plan.listing.files)} files and no clip of {seconds:g} s"
  if plan.table.rows:
    return f"{found}; choose another --clip_seconds"
  shares = tuple(plan.description["shares"])
  return f"shares: {found}; choose other --shares, now {shares}, or --clip_seconds"


def refuse(audio_dir: str, rejects: list[Reject]) -> None:
  """Raises ValueError where there are rejects, with all of them."""
  hint = "--skip_bad=True leaves out what cannot be used"
  faults = reasons(audio_dir, rejects)
  if len(faults) == 1:
    faults[0] += f"; {hint}"
  raise_faults(faults, f"{audio_dir}: {len(faults)} audio files cannot be used; {hint}")


def reasons(audio_dir: str, rejects: list[Reject]) -> list[str]:
  """One line for each reject."""
  return [f"{pathlib.Path(audio_dir, each.file)}: {each.reason}" for each in rejects]
