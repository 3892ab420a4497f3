"""MusicCaps: its CSV, and a folder of clips that the user has."""

import dataclasses
import pathlib
import re
from collections.abc import Collection

from musiclm_jax import storage
from musiclm_jax.datasets import file_table, table_rows
from musiclm_jax.datasets.audio_folder import Entry

# The splits: AudioSet's train, and AudioSet's eval in two parts.
SPLITS = ("train", "eval_balanced", "eval_other")
_COLUMNS = (
  *("ytid", "start_s", "end_s", "aspect_list", "caption"),
  *("is_balanced_subset", "is_audioset_eval"),
)
_ID = "[A-Za-z0-9_-]{11}"
_NUMBER = r"(\d+(?:\.\d+)?)"
_NAME = re.compile(f"({_ID})(?:[_-]{_NUMBER})?(?:[_-]{_NUMBER})?")
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


@dataclasses.dataclass(frozen=True)
class MusicCaps:
  """The CSV `table` as published: one row for each clip, identified by the column `ytid`.

  A clip's file is named YTID, YTID_START, YTID_START_END (with `_` or `-`, in seconds or
  milliseconds) or [YTID]-[START-END], with the ending of any audio file. It must last as long as
  its row states, within half a second.
  """

  table: str

  def read(self, folder: str, files: Collection[str]) -> file_table.Table:
    """The table of the files, with the splits `SPLITS`; all clips of a row are of the work YTID.

    Raises ValueError, all at once and with their lines, for rows with an impossible or repeated
    ytid, times that are no numbers, no caption, a malformed list or flag.
    """
    del folder
    rows, starts, lines = {}, {}, {}

    def take(line: int, row: dict[str, str]) -> None:
      ytid = row["ytid"].strip()
      if not re.fullmatch(_ID, ytid):
        raise ValueError(
          f"ytid wants 11 letters, digits, - or _, got {ytid!r}; spreadsheets change ids that "
          "begin with - or ="
        )
      if ytid in lines:
        raise ValueError(f"a second row of {ytid}, the first is in line {lines[ytid]}")
      lines[ytid] = line
      rows[ytid], starts[ytid] = _entry(ytid, row), float(row["start_s"])

    table_rows.read_rows(self.table, _COLUMNS, take)
    settings = {"table": "MusicCaps", "digest": storage.fingerprint([self.table])}

    name = pathlib.PurePath(self.table).name

    def row_of(file: str) -> str:
      ytid, start = _name(file)
      if start is not None and ytid in starts and not _same_time(start, starts[ytid]):
        raise ValueError(f"its name states the start {start:g}, its row {starts[ytid]:g} s")
      return ytid

    return file_table.match(name, rows, files, row_of, splits=SPLITS, settings=settings)


def _entry(ytid: str, row: dict[str, str]) -> Entry:
  start, end = (_seconds(name, row[name]) for name in ("start_s", "end_s"))
  if not end > start:
    raise ValueError(f"end_s {end:g} is not after start_s {start:g}")
  caption = row["caption"].strip()
  if not caption:
    raise ValueError(f"the caption of {ytid} is empty")
  balanced, evaluated = (_flag(name, row[name]) for name in _COLUMNS[-2:])
  if balanced and not evaluated:
    raise ValueError("is_balanced_subset is True where is_audioset_eval is False")
  return Entry(
    caption,
    table_rows.parse_list("aspect_list", row["aspect_list"]),
    split=SPLITS[0] if not evaluated else SPLITS[1] if balanced else SPLITS[2],
    work=ytid,
    seconds=end - start,
  )


def _seconds(name: str, text: str) -> float:
  if not re.fullmatch(_NUMBER, text.strip()):
    raise ValueError(f"{name} wants seconds, got {text!r}")
  return float(text)


def _flag(name: str, text: str) -> bool:
  if text.strip().lower() not in _FLAGS:
    raise ValueError(f"{name} wants True or False, got {text!r}")
  return _FLAGS[text.strip().lower()]


def _name(file: str) -> tuple[str, float | None]:
  """(ytid, start as written) of a file by its name."""
  stem = pathlib.PurePosixPath(file).stem
  found = _NAME.fullmatch(re.sub(r"[\[\]]", "", stem))
  if not found:
    raise ValueError("its name is none of YTID, YTID_START, YTID_START_END, [YTID]-[START-END]")
  return found[1], None if found[2] is None else float(found[2])


def _same_time(written: float, seconds: float) -> bool:
  """Whether a name's time is these seconds, or as many milliseconds, or their whole part."""
  return int(written) in (int(seconds), round(1000 * seconds))
