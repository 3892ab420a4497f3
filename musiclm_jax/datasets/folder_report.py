"""What a data set of a folder leaves out and has: lines to print, and the files beside it."""

import collections
import dataclasses
import json
import pathlib

from musiclm_jax import storage
from musiclm_jax.datasets import audio_folder, file_table
from musiclm_jax.datasets.audio_folder import Cut, Reject
from musiclm_jax.datasets.folder_plan import Plan

_SHOWN = 10  # files with silent clips, and licences, that are named


def write(directory: pathlib.Path, plan: Plan, cuts: list[Cut], rejects: list[Reject]) -> None:
  """Writes folder.json, and what there is of the rest.

  rejects.jsonl has the bad files, licences.jsonl the licence of every file in the data set. Of a
  published table, subset.json has the `file_table.subset` of it that is in the data set, and
  missing.jsonl the rows that are not.
  """
  storage.write_text(directory / "folder.json", json.dumps(plan.description, indent=1) + "\n")
  _write_rows(directory / "rejects.jsonl", [dataclasses.asdict(each) for each in rejects])
  present = {cut.job.name: cut.job.entry for cut in cuts if cut.clips}
  licences = [
    {"file": name, "licence": entry.licence, "credit": entry.credit}
    for name, entry in present.items()
    if entry.licence or entry.credit
  ]
  _write_rows(directory / "licences.jsonl", licences)
  rows = plan.table.rows
  if not rows:
    return
  found = {entry.row for entry in present.values()}
  known = file_table.subset(rows, found)
  storage.write_text(directory / "subset.json", json.dumps(known, indent=1) + "\n")
  why = {cut.job.entry.row: cut.reason or _no_clip(cut) for cut in cuts}
  missing = [
    {"row": row, "split": split, "reason": why.get(row, "no file in the folder")}
    for row, split in rows.items()
    if row not in found
  ]
  _write_rows(directory / "missing.jsonl", missing)


def lines(
  directory: pathlib.Path, plan: Plan, cuts: list[Cut], rejects: list[Reject], warn_share: float
) -> list[str]:
  """All that is in no clip, how many files were converted, and what `write` wrote."""
  seconds, rate = plan.description["clip_seconds"], plan.description["sample_rate"]
  others, cuts = plan.listing.others, [cut for cut in cuts if not cut.reason]
  total = len(cuts) + len(rejects)
  short = [cut.rest / rate for cut in cuts if not cut.clips and not cut.silent]
  ends = [cut.rest / rate for cut in cuts if (cut.clips or cut.silent) and cut.rest]
  line = (
    f"{total} files; left out: {len(short)} shorter than {seconds:g} s "
    f"({sum(short):.1f} s), {sum(ends):.1f} s at the ends of {len(ends)} others"
  )
  found = [line + (f", files of other kinds: {audio_folder.counted(others)}" if others else "")]
  silent = [f"{cut.job.name} ({cut.silent})" for cut in cuts if cut.silent]
  if silent:
    count = sum(cut.silent for cut in cuts)
    more = f" and {len(silent) - _SHOWN} more files" if len(silent) > _SHOWN else ""
    found.append(f"left out {count} silent clips: {', '.join(silent[:_SHOWN])}{more}")
  if plan.description["convert"]:
    converted = sum(cut.converted for cut in cuts)
    found.append(f"converted {converted} of {len(cuts)} files to {rate} Hz mono")
  if rejects:
    path = directory / "rejects.jsonl"
    found.append(f"left out {len(rejects)} of {total} files as bad, see {path}")
    if len(rejects) > warn_share * total:
      found[-1] += f"; that is more than {warn_share:.0%}, so check the reasons"
  return found + _licences(directory, cuts) + _subset(directory, plan)


def _licences(directory: pathlib.Path, cuts: list[Cut]) -> list[str]:
  used = [cut.job.entry for cut in cuts if cut.clips]
  if not any(entry.licence for entry in used):
    return []
  counts = collections.Counter(entry.licence or "not stated" for entry in used)
  some = audio_folder.counted(collections.Counter(dict(counts.most_common(_SHOWN))))
  more = f" and {len(counts) - _SHOWN} more licences" if len(counts) > _SHOWN else ""
  return [f"licences of {len(used)} files: {some}{more}, see {directory / 'licences.jsonl'}"]


def _subset(directory: pathlib.Path, plan: Plan) -> list[str]:
  if not plan.table.rows:
    return []
  known = json.loads((directory / "subset.json").read_text())
  splits = [f"{split} {_counts(each)}" for split, each in known["splits"].items()]
  missing = known["rows"] - known["found"]
  line = (
    f"{known['found']} of {known['rows']} rows of the table have clips "
    f"({known['found'] / known['rows']:.1%}), subset {known['hash']}: {', '.join(splits)}"
  )
  return [line + (f"; {missing} missing, see {directory / 'missing.jsonl'}" if missing else "")]


def _counts(known: dict) -> str:
  return f"{known['found']} of {known['rows']} ({known['hash']})"


def _no_clip(cut: Cut) -> str:
  return "silent" if cut.silent else "shorter than a clip"


def _write_rows(path: pathlib.Path, rows: list[dict]) -> None:
  """Writes JSON lines where there are any, in one order."""
  if rows:
    text = sorted(json.dumps(row, ensure_ascii=False) for row in rows)
    storage.write_text(path, "".join(f"{row}\n" for row in text))
