"""The CSV of captions: what is read, and every faulty row in one line with its place."""

import unicodedata

import pytest

from musiclm_jax.datasets.audio_folder import Entry
from musiclm_jax.datasets.caption_table import read_captions

HEAD = "file,caption,aspect_list\n"
WHOLE = HEAD + "a.wav,\"slow, calm\",\"['slow', 'flute']\"\nb.wav,fast,\n"


def read(tmp_path, text, files=("a.wav", "b.wav")):
  path = tmp_path / "captions.csv"
  path.write_bytes(text.encode(errors="surrogateescape"))
  return read_captions(str(path), str(tmp_path / "songs"), files)


@pytest.mark.parametrize(
  "text",
  [
    WHOLE,
    "\ufeff" + WHOLE,
    WHOLE.replace("\n", "\r\n"),
    "file;caption;aspect_list\na.wav;slow, calm;\"['slow', 'flute']\"\nb.wav;fast;\n",
    "file\tcaption\taspect_list\na.wav\tslow, calm\t['slow', 'flute']\nb.wav\tfast\n",
    'file,"caption",aspect_list\n' + WHOLE.removeprefix(HEAD),
  ],
)
def test_captions_are_those_of_the_csv(tmp_path, text):
  wanted = {"a.wav": Entry("slow, calm", ("slow", "flute")), "b.wav": Entry("fast", ())}
  assert read(tmp_path, text) == wanted


def test_the_aspect_list_may_be_missing(tmp_path):
  found = read(tmp_path, "caption, file,more\nslow,a.wav,x\n", ["a.wav"])
  assert found == {"a.wav": Entry("slow", ())}


@pytest.mark.parametrize(
  ("written", "file"),
  [
    ("./d/a.wav", "d/a.wav"),
    ("d//x/../a.wav", "d/a.wav"),
    (" d/a.wav ", "d/a.wav"),
    ("{folder}/d/a.wav", "d/a.wav"),
    (unicodedata.normalize("NFD", "café.wav"), unicodedata.normalize("NFC", "café.wav")),
    ("a [1]*.wav", "a [1]*.wav"),
  ],
)
def test_a_file_may_be_spelt_in_any_way(tmp_path, written, file):
  text = f"file,caption\n{written.format(folder=tmp_path / 'songs')},slow\n"
  assert read(tmp_path, text, [file]) == {file: Entry("slow", ())}


def test_all_faulty_rows_are_named_at_once(tmp_path):
  text = HEAD + "c.wav,x,\na.wav,,\nA.WAV,x,\nb.wav,x,\nb.wav,y,\n"
  with pytest.raises(ValueError, match="captions.csv: 4 of 5 rows cannot be used") as caught:
    read(tmp_path, text)
  assert [note.partition("captions.csv")[2] for note in caught.value.__notes__] == [
    ":2: no audio file 'c.wav' in the folder",
    ":3: the caption of a.wav is empty",
    ":4: no audio file 'A.WAV' in the folder; it has 'a.wav'",
    ":6: a second row of b.wav, the first is in line 5",
  ]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "captions.csv:1: wanted a column file and caption, the file is empty"),
    ("file,text\na.wav,x\n", "captions.csv:1: wanted a column caption, found 'file', 'text'"),
    ("file|caption\n", "captions.csv:1: wanted a column file and caption, found 'file|caption'"),
    ("file,caption,caption\n", "captions.csv:1: two columns are named caption"),
    (WHOLE + "c.wav,x,\n", "captions.csv:4: no audio file 'c.wav' in the folder"),
    (WHOLE + "a.wav,x,\n", "captions.csv:4: a second row of a.wav, the first is in line 2"),
    (HEAD + "a.wav,,\n", "captions.csv:2: the caption of a.wav is empty"),
    (HEAD + "a.wav,  ,\n", "captions.csv:2: the caption of a.wav is empty"),
    (HEAD + "a.wav\n", "captions.csv:2: the caption of a.wav is empty"),
    (HEAD + "a.wav,slow, calm,x\n", "captions.csv:2: wanted 3 columns, found 4 values; a value"),
    (HEAD + "a.wav,slow,flute\n", "captions.csv:2: aspect_list wants ['slow', 'flute'], got"),
    (HEAD + 'a.wav,slow,"[1, 2]"\n', "captions.csv:2: aspect_list wants"),
    (HEAD + "a.wav,slow,'flute'\n", "captions.csv:2: aspect_list wants"),
    (HEAD + 'a.wav,"slow\nb.wav,x,\n', "captions.csv:3: not CSV"),
    (HEAD + "a.wav,caf\udce9,\n", "captions.csv:2: not UTF-8"),
    (HEAD + "a.wav,x,\n", "captions.csv: no row of the file b.wav"),
    (HEAD, "captions.csv: no row of the file a.wav, b.wav"),
  ],
)
def test_a_bad_table_is_one_line_with_its_place(tmp_path, text, message):
  with pytest.raises(ValueError) as caught:
    read(tmp_path, text)
  assert str(caught.value).startswith(f"{tmp_path}/{message}")
  assert "\n" not in str(caught.value) and not hasattr(caught.value, "__notes__")
