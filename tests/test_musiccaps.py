"""MusicCaps: its table, and folders that have some of its clips."""

import csv
import itertools
import json
import pathlib

import pytest

from musiclm_jax.datasets import file_table, musiccaps
from tests.tables import beside, prepare, read, works, write_tone

SAMPLE = pathlib.Path(__file__).parent.parent / "data/musiccaps_sample.csv"


def sample_rows():
  with open(SAMPLE, encoding="utf-8", newline="") as file:
    return list(csv.DictReader(file))


def write_clips(tmp_path, rows, seconds=10.0):
  """Clips in each of the ways that a name may be written."""
  names = itertools.cycle(
    ["{ytid}", "{ytid}_{start_s}", "{ytid}-{start_s}-{end_s}", "[{ytid}]-[{start_s}-{end_s}]"]
    + ["a/{ytid}_{start_s}000_{end_s}000", "{ytid}_{start_s}.0_{end_s}.0"]
  )
  for name, row in zip(names, rows):
    write_tone(tmp_path / "clips" / f"{name.format(**row)}.wav", seconds)


def test_the_sample_has_the_columns_of_musiccaps_and_all_its_splits():
  rows = sample_rows()
  assert list(rows[0]) == [
    *("ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption"),
    *("author_id", "is_balanced_subset", "is_audioset_eval"),
  ]
  table = musiccaps.MusicCaps(str(SAMPLE)).read("", [f"{row['ytid']}.wav" for row in rows])
  counts = {k: v["rows"] for k, v in file_table.subset(table.rows, ())["splits"].items()}
  assert counts == {"train": 5, "eval_balanced": 4, "eval_other": 3}
  assert not table.rejects and len(table.entries) == 12
  assert table.entries["sample-0005.wav"].aspects == ("fisherman's tune", "accordion", "bass")


def test_musiccaps_is_built_of_the_clips_that_are_there(tmp_path, capsys):
  rows = sample_rows()
  write_clips(tmp_path, rows[:10])
  code, out, lines = prepare(capsys, tmp_path, "musiccaps", table=SAMPLE)
  assert code == 0 and "10 clips" in out and "train 4, " in out
  assert works(tmp_path) == {
    "train": ["sample-0001", "sample-0002", "sample-0003", "sample-0004"],
    "eval_balanced": ["sample-0006", "sample-0007", "sample-0008", "sample-0009"],
    "eval_other": ["sample-0010", "sample-0011"],
  }
  directory = tmp_path / "out/folder/1.0.0"
  known = json.loads((directory / "subset.json").read_text())
  assert known["hash"] == file_table.subset_hash({row["ytid"] for row in rows[:10]})
  train = known["splits"]["train"]
  assert (train["rows"], train["found"]) == (5, 4) and train["hash"] != known["hash"]
  assert lines[1] == (
    f"prepare: 10 of 12 rows of the table have clips (83.3%), subset {known['hash']}: "
    + ", ".join(
      f"{split} {each['found']} of {each['rows']} ({each['hash']})"
      for split, each in known["splits"].items()
    )
    + f"; 2 missing, see {directory}/missing.jsonl"
  )
  assert beside(tmp_path, "missing.jsonl") == [
    {"row": "sample-0005", "split": "train", "reason": "no file in the folder"},
    {"row": "sample-0012", "split": "eval_other", "reason": "no file in the folder"},
  ]
  record = read(tmp_path)["eval_other"][0]
  row = next(row for row in rows if row["ytid"] == record["work"].decode())
  assert record["caption"].decode() == row["caption"] and record["waveform"].size == 240000
  assert prepare(capsys, tmp_path, "musiccaps", table=SAMPLE)[1].endswith("already there\n")


def test_a_clip_that_nearly_lasts_ten_seconds_is_one_clip(tmp_path, capsys):
  rows = sample_rows()
  for row, seconds in zip(rows, (9.7, 10.3, 9.99, 10.01, 4.0, 183.0)):
    write_tone(tmp_path / "clips" / f"{row['ytid']}.wav", seconds, rate=16000)
  flags = dict(table=SAMPLE, convert=True, skip_bad=True)
  code, out, lines = prepare(capsys, tmp_path, "musiccaps", **flags)
  assert code == 0 and ": 4 clips" in out
  assert {row["waveform"].size for rows in read(tmp_path).values() for row in rows} == {240000}
  assert [row["reason"] for row in beside(tmp_path, "rejects.jsonl")] == [
    "lasts 183.0 s, its row states 10 s",
    "lasts 4.0 s, its row states 10 s",
  ]
  reasons = {row["row"]: row["reason"] for row in beside(tmp_path, "missing.jsonl")}
  assert len(reasons) == 8 and reasons[rows[4]["ytid"]] == "lasts 4.0 s, its row states 10 s"


def test_files_that_no_row_is_of_are_refused_or_listed(tmp_path, capsys):
  rows = sample_rows()
  write_clips(tmp_path, rows)
  bad = {
    "holiday.wav": "its name is none of YTID, YTID_START, YTID_START_END, [YTID]-[START-END]",
    "sample-9999.wav": "musiccaps_sample.csv has no row sample-9999",
    "sample-0001_7.wav": "its name states the start 7, its row 0 s",
    "z/sample-0001.wav": "a second file of row sample-0001, the first is sample-0001.wav",
  }
  for name in bad:
    write_tone(tmp_path / "clips" / name, 10)
  code, _, lines = prepare(capsys, tmp_path, "musiccaps", table=SAMPLE)
  assert code == 1 and sorted(lines[1:]) == sorted(
    f"{tmp_path}/clips/{name}: {reason}" for name, reason in bad.items()
  )
  code, out, lines = prepare(capsys, tmp_path, "musiccaps", table=SAMPLE, skip_bad=True)
  assert code == 0 and ": 12 clips" in out and "12 of 12 rows" in lines[-1]
  found = {row["file"]: row["reason"] for row in beside(tmp_path, "rejects.jsonl")}
  assert found == bad and not (tmp_path / "out/folder/1.0.0/missing.jsonl").exists()


def test_a_subset_has_one_hash_whatever_the_order():
  assert file_table.subset_hash(["b", "a"]) == file_table.subset_hash(("a", "b", "b"))
  assert file_table.subset_hash(["a"]) != file_table.subset_hash(["b"])
  assert file_table.subset_hash(["ab"]) != file_table.subset_hash(["a", "b"])


HEAD = "ytid,start_s,end_s,aspect_list,caption,is_balanced_subset,is_audioset_eval\n"
GOOD = "sample-0001,0,10,\"['slow', 'flute']\",A tune.,False,True\n"


@pytest.mark.parametrize(
  "text",
  [
    HEAD + GOOD,
    "\ufeff" + HEAD + GOOD,
    (HEAD + GOOD).replace("\n", "\r\n"),
    HEAD + GOOD.replace("A tune.", '"A\ntune."'),
    HEAD + GOOD.replace("False,True", "FALSE,TRUE"),
    HEAD + GOOD + GOOD.replace("sample-0001", "-abcdefg_12"),
    HEAD + GOOD.replace("0,10", "0.5,10.5"),
  ],
)
def test_the_csv_may_be_saved_in_several_ways(tmp_path, text):
  path = tmp_path / "m.csv"
  path.write_bytes(text.encode())
  table = musiccaps.MusicCaps(str(path)).read("", ["sample-0001.wav", "-abcdefg_12_0_10.flac"])
  entry = table.entries["sample-0001.wav"]
  assert (entry.caption.split(), entry.aspects) == (["A", "tune."], ("slow", "flute"))
  assert (entry.split, entry.seconds) == ("eval_other", 10)
  assert len(table.entries) == len(table.rows)


FAULTS = [
  (GOOD.replace("sample-0001", "=cmd"), ":3: ytid wants 11 letters, digits, - or _, got '=cmd'"),
  (GOOD.replace("sample-0001", "#NAME?"), ":3: ytid wants 11 letters"),
  (GOOD, ":3: a second row of sample-0001, the first is in line 2"),
  (GOOD.replace("0001,0", "0002,0:00"), ":3: start_s wants seconds, got '0:00'"),
  (GOOD.replace("0001,0", "0002,20"), ":3: end_s 10 is not after start_s 20"),
  (GOOD.replace("0001", "0002").replace("A tune.", " "), ":3: the caption of sample-0002 is empty"),
  (GOOD.replace("0001", "0002").replace("True", "yes"), ":3: is_audioset_eval wants True or False"),
  (GOOD.replace("0001", "0002").replace("False,True", "True,False"), ":3: is_balanced_subset is"),
  (GOOD.replace("0001", "0002").replace("['slow', 'flute']", "slow"), ":3: aspect_list wants ['"),
]


@pytest.mark.parametrize(("row", "message"), FAULTS)
def test_a_bad_row_is_one_line_with_its_place(tmp_path, row, message):
  path = tmp_path / "m.csv"
  path.write_text(HEAD + GOOD + row)
  with pytest.raises(ValueError) as caught:
    musiccaps.MusicCaps(str(path)).read("", [])
  assert str(caught.value).startswith(f"{path}{message}") and "\n" not in str(caught.value)


def test_all_bad_rows_are_named_at_once(tmp_path, capsys):
  path = tmp_path / "m.csv"
  path.write_text(HEAD + GOOD + "".join(row for row, _ in FAULTS))
  write_tone(tmp_path / "clips/sample-0001.wav", 10)
  code, _, lines = prepare(capsys, tmp_path, "musiccaps", table=path)
  assert code == 1 and len(lines) == len(FAULTS) + 1
  assert lines[0] == f"musiclm: {path}: {len(FAULTS)} of {len(FAULTS) + 1} rows cannot be used"


def test_settings_that_are_missing_or_of_another_reader_are_one_line(tmp_path, capsys):
  code, _, lines = prepare(capsys, tmp_path, "musiccaps")
  assert code == 2 and lines == ["musiclm: gin/data/musiccaps.gin:13: needs --TABLE=..."]
  code, _, lines = prepare(capsys, tmp_path, "musiccaps", table=SAMPLE, captions="x.csv")
  assert code == 2 and "this run does not use CAPTIONS" in lines[0]
