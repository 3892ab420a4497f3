"""MTG-Jamendo: its tables, and folders that have some of its tracks."""

import pytest

from musiclm_jax.datasets import mtg_jamendo
from tests.tables import beside, prepare, read, write_tone

JAMENDO = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"


def jamendo_row(number, *tags, artist=14):
  fields = (
    f"track_{number:07}",
    f"artist_{artist:06}",
    "album_000031",
    f"{number % 100:02}/{number}.mp3",
  )
  return "\t".join([*fields, "124.6", *tags]) + "\n"


def test_mtg_jamendo_is_built_in_its_splits(tmp_path, capsys):
  tables = tmp_path / "split-0"
  tables.mkdir()
  rows = {
    "train": jamendo_row(
      *(214, "genre---hiphop", "genre---rap", "instrument---electricguitar"),
      *("instrument---voice", "mood/theme---dark", "mood/theme---epic"),
    )
    + jamendo_row(216, "genre---metal"),
    "validation": jamendo_row(1048592, "instrument---piano"),
    "test": jamendo_row(300, "mood/theme---calm"),
  }
  for split, text in rows.items():
    (tables / f"autotagging-{split}.tsv").write_text(JAMENDO + text)
  licences = tmp_path / "audio_licenses.txt"
  licences.write_text(
    "14/214.mp3\nSong by Someone from Jamendo: http://www.jamendo.com/track/214\n"
    "Available under a Creative Commons Attribution license: "
    "http://creativecommons.org/licenses/by/3.0/\n\n"
  )
  for name in ("14/214.low.mp3", "92/1048592.low.mp3", "00/300.mp3"):
    write_tone(tmp_path / "clips" / name, 1.5)
  flags = dict(table=tables, licences=licences, clip_seconds=1.0)
  code, out, lines = prepare(capsys, tmp_path, "mtg_jamendo", **flags)
  assert code == 0 and "train 1, validation 1, test 1" in out
  found = {
    k: (rows[0]["caption"], list(rows[0]["aspect_list"])) for k, rows in read(tmp_path).items()
  }
  assert found["train"] == (
    b"Hip hop and rap music with electric guitar and voice. Mood or theme: dark, epic.",
    [b"hip hop", b"rap", b"electric guitar", b"voice", b"dark", b"epic"],
  )
  assert found["validation"][0] == b"Music with piano."
  assert found["test"][0] == b"Music. Mood or theme: calm."
  (licence,) = beside(tmp_path, "licences.jsonl")
  assert licence["licence"] == "http://creativecommons.org/licenses/by/3.0/"
  assert licence["credit"].startswith("Song by Someone") and "2 not stated" in lines[-2]
  assert [row["row"] for row in beside(tmp_path, "missing.jsonl")] == ["track_0000216"]


def test_in_one_table_of_mtg_jamendo_an_artist_is_in_one_split(tmp_path):
  path = tmp_path / "autotagging.tsv"
  rows = [jamendo_row(n, "genre---rock", artist=n % 7) for n in range(1, 60)]
  path.write_text(JAMENDO + "".join(rows))
  reader = mtg_jamendo.MtgJamendo(str(path), "autotagging", "", (0.5, 0.25, 0.25))
  table = reader.read("", [f"{n:02}/{n}.mp3" for n in range(1, 60)])
  pairs = {(int(e.row.split("_")[1]) % 7, e.split) for e in table.entries.values()}
  assert len(pairs) == 7 and len({split for _, split in pairs}) > 1


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("autotagging_of_another_name.tsv", ":1: wanted a column TRACK_ID and ARTIST_ID and PATH and"),
    (JAMENDO + jamendo_row(1, "rock"), ":2: TAGS wants genre---rock or instrument--- or mood/"),
    (JAMENDO + 2 * jamendo_row(1, "genre---x"), ":3: a second row of track_0000001, the first is"),
    (JAMENDO + "track_1\tartist_1\talbum_1\tx.mp3\t1.0\n", ":2: x.mp3 is not named by the number"),
  ],
)
def test_a_bad_table_of_mtg_jamendo_is_one_line_with_its_place(tmp_path, text, message):
  path = tmp_path / "autotagging.tsv"
  path.write_text(text)
  with pytest.raises(ValueError) as caught:
    mtg_jamendo.MtgJamendo(str(path), "autotagging", "", (1.0, 0.0, 0.0)).read("", [])
  assert str(caught.value).startswith(f"{path}{message}") and "\n" not in str(caught.value)
