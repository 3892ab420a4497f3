"""FMA: its tables, and folders that have some of its tracks."""

import csv

import pytest

from musiclm_jax.datasets import fma
from tests.tables import beside, prepare, read, write_tone

# FMA's three header rows, with all columns that are published.
FMA_COLUMNS = {
  "album": "comments date_created date_released engineer favorites id information listens producer "
  "tags title tracks type",
  "artist": "active_year_begin active_year_end associated_labels bio comments date_created "
  "favorites id latitude location longitude members name related_projects tags website "
  "wikipedia_page",
  "set": "split subset",
  "track": "bit_rate comments composer date_created date_recorded duration favorites genre_top "
  "genres genres_all information interest language_code license listens lyricist number publisher "
  "tags title",
}
FMA_NAMES = [(top, name) for top, names in FMA_COLUMNS.items() for name in names.split()]
GENRES = (
  "genre_id,#tracks,parent,title,top_level\n12,9,0,Rock,12\n25,9,12,Punk,12\n21,9,0,Hip-Hop,21\n"
)


def fma_row(number, split="training", subset="small", genres="[25]", top="Rock"):
  values = {
    ("artist", "bio"): "<p>One line,\nand another.</p>",
    ("artist", "name"): "Añá",
    ("set", "split"): split,
    ("set", "subset"): subset,
    ("track", "genres"): genres,
    ("track", "genre_top"): top,
    ("track", "license"): "Attribution 3.0 International",
    ("track", "title"): f"Title {number}",
  }
  return [number, *(values.get(name, "") for name in FMA_NAMES)]


def write_fma(path, *rows):
  path.mkdir()
  (path / "genres.csv").write_text(GENRES)
  with open(path / "tracks.csv", "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["", *(top for top, _ in FMA_NAMES)])
    writer.writerow(["", *(name for _, name in FMA_NAMES)])
    writer.writerow(["track_id", *([""] * len(FMA_NAMES))])
    writer.writerows(rows)
  return path / "tracks.csv"


def test_fma_is_built_in_its_splits_with_its_licences(tmp_path, capsys):
  table = write_fma(
    tmp_path / "fma_metadata",
    fma_row(2, genres="[25, 21]"),
    fma_row(5, "validation", genres="[]", top=""),
    fma_row(140, "test", "medium", "[21]", "Hip-Hop"),
    fma_row(141, "training"),
    fma_row(142, "training", "large"),
    fma_row(143, "training"),
  )
  for number in (2, 5, 140, 141):
    write_tone(tmp_path / f"clips/000/{number:06}.mp3", 2.5)
  path = tmp_path / "clips/000/000141.mp3"  # as the published ones that lost their end
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  write_tone(tmp_path / "clips/000/000142.mp3", 2.5)
  flags = dict(table=table, subset="medium", clip_seconds=1.0)
  code, _, lines = prepare(capsys, tmp_path, "fma", **flags)
  assert code == 1 and "000/000141.mp3: its header states" in "".join(lines)
  assert f"{tmp_path}/clips/000/000142.mp3: tracks.csv, subset medium, has no row 142" in lines
  code, out, lines = prepare(capsys, tmp_path, "fma", **flags, skip_bad=True)
  assert code == 0 and "train 2, validation 2, test 2" in out
  splits = read(tmp_path)
  texts = {k: (rows[0]["caption"], list(rows[0]["aspect_list"])) for k, rows in splits.items()}
  assert texts == {
    "train": (b"Rock, Punk and Hip-Hop music.", [b"Rock", b"Punk", b"Hip-Hop"]),
    "validation": (b"Music.", []),
    "test": (b"Hip-Hop music.", [b"Hip-Hop"]),
  }
  assert splits["test"][0]["work"] == b"000/000140.mp3"
  assert beside(tmp_path, "licences.jsonl")[0] == {
    "file": "000/000002.mp3",
    "licence": "Attribution 3.0 International",
    "credit": "Title 2 by Añá",
  }
  assert "licences of 3 files: 3 Attribution 3.0 International, see " in lines[-2]
  assert "3 of 5 rows of the table have clips (60.0%)" in lines[-1]
  missing = {row["row"]: row["reason"] for row in beside(tmp_path, "missing.jsonl")}
  assert set(missing) == {"141", "143"} and missing["141"].startswith("its header states")


@pytest.mark.parametrize(
  ("row", "message"),
  [
    (fma_row(2), ":8: a second row of 2, the first is in line 4"),
    (fma_row("x"), ":8: track_id wants a number, got 'x'"),
    (fma_row(3, "train"), ":8: set split wants training or validation or test, got 'train'"),
    (fma_row(3, subset="tiny"), ":8: set subset wants small or medium or large, got 'tiny'"),
    (fma_row(3, genres="[999]"), ":8: track genres: genres.csv has no genre 999"),
    (fma_row(3, genres="Rock"), ":8: track genres wants [21, 103], got 'Rock'"),
  ],
)
def test_a_bad_row_of_fma_is_one_line_with_its_place(tmp_path, row, message):
  table = write_fma(tmp_path / "fma_metadata", fma_row(2), fma_row(4), row)
  with pytest.raises(ValueError) as caught:
    fma.Fma(str(table), "large").read("", [])
  assert str(caught.value).startswith(f"{table}{message}")


def test_an_unknown_subset_is_one_line(tmp_path, capsys):
  code, _, lines = prepare(capsys, tmp_path, "fma", table="tracks.csv", subset="tiny")
  assert code == 2 and lines[0].startswith("musiclm: --subset: ") and "small" in lines[0]


def test_a_file_that_is_not_that_of_fma_is_one_line(tmp_path):
  table = write_fma(tmp_path / "fma_metadata", fma_row(2))
  table.write_text("track_id,title\n2,x\n")
  with pytest.raises(ValueError, match="tracks.csv:1: wanted a column track_id and set split"):
    fma.Fma(str(table), "large").read("", [])
