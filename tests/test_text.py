"""Text as ids: every kind of file, the first token, what is cut, and what is refused."""

import json
import pathlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tokenizers

from musiclm_jax import text
from musiclm_jax.datasets.captions import train_text_model
from musiclm_jax.text import Tokenizer

CAPTIONS = ["a slow calm flute", "a fast violin in D major", "drums and bass"]
PIECES = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "[MASK]",
  "a",
  "slow",
  "calm",
  "fl",
  "##ute",
  ",",
  "s",
]


def word_pieces(path):
  path.write_text("\n".join(PIECES) + "\n")
  return str(path)


def roberta(path):
  """A tokenizer.json like that of RoBERTa: bytes in pairs, <s> is 0 and the padding is 1."""
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  model.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=["<s>", "<pad>", "</s>"],
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  model.train_from_iterator(CAPTIONS, trainer)
  model.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
  model.enable_truncation(4)  # as files of the hub come
  model.enable_padding(length=9, pad_id=1, pad_token="<pad>")
  model.save(str(path))
  return str(path)


def sentencepiece(path):
  train_text_model(CAPTIONS, path, 300)
  return str(path)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
  folder = tmp_path_factory.mktemp("text")
  return {
    "bytes": "",
    "sentencepiece": sentencepiece(folder / "captions.model"),
    "bert": word_pieces(folder / "uncased.txt"),
    "roberta": roberta(folder / "roberta.json"),
  }


KINDS = ["bytes", "sentencepiece", "bert", "roberta"]
# What stands before and after a text.
AROUND = {"bytes": ([1], []), "sentencepiece": ([3], []), "bert": ([2], [3]), "roberta": ([0], [2])}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_begin_with_the_first_token_and_end_in_padding(paths, kind):
  tokenizer = Tokenizer(paths[kind])
  first, last = AROUND[kind]
  rows = tokenizer.rows(["a slow calm flute", ""], 30)
  assert rows.shape == (2, 30) and rows.dtype == np.int32
  ids = tokenizer.encode("a slow calm flute")
  assert ids and 0 not in ids
  whole = first + ids + last
  assert rows[0].tolist() == whole + [0] * (30 - len(whole))
  assert tokenizer.count("a slow calm flute") == len(whole)
  assert rows[1].tolist() == first + last + [0] * (30 - len(first + last))
  assert rows.max() < tokenizer.vocab_size


def test_ids_of_bytes_and_of_word_pieces(paths):
  assert Tokenizer("").vocab_size == 258
  np.testing.assert_array_equal(
    Tokenizer("").rows(["ab", "", "ÿ"], 4), [[1, 99, 100, 0], [1, 0, 0, 0], [1, 197, 193, 0]]
  )
  bert = Tokenizer(paths["bert"])
  assert bert.vocab_size == len(PIECES)
  found = bert.rows(["A  Slow FLÛTE, oboe"], 9)[0]
  assert " ".join(PIECES[i] for i in found) == "[CLS] a slow fl ##ute , [UNK] [SEP] [PAD]"


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_keeps_what_stands_around_and_says_its_place(paths, kind):
  tokenizer = Tokenizer(paths[kind])
  first, last = AROUND[kind]
  long = "a slow calm flute, a slow calm flute"
  count = tokenizer.count(long)
  length = count - 3
  (row,) = tokenizer.rows([long], length)
  ids = tokenizer.encode(long)[: length - len(first + last)]
  assert row.tolist() == first + ids + last
  assert tokenizer.cut([long], count) == "" and tokenizer.cut([], count) == ""
  line = tokenizer.cut([long], length)
  assert line.startswith(f"text cut after {length} of {count} tokens, at 'a slow calm flute")
  assert not line.endswith("flute'") and "\n" not in line
  several = tokenizer.cut(["a", long, long], length)
  assert several.startswith(f"2 of 3 texts were cut to {length} tokens; the first at 'a slow")


def test_of_a_long_text_the_end_of_what_is_kept_is_shown():
  line = Tokenizer("").cut(["0123456789" * 9], 62)
  assert line == f"text cut after 62 of 91 tokens, at '...{'1234567890' * 4}'"


def test_a_cut_inside_a_character_is_said_too():
  assert Tokenizer("").cut(["ab🎷"], 4) == "text cut after 4 of 7 tokens, at 'ab'"


@pytest.mark.parametrize("kind", KINDS)
def test_no_room_for_text_is_refused(paths, kind):
  around = sum(map(len, AROUND[kind]))
  with pytest.raises(ValueError, match=f"text_length: wanted more than {around} for .*, found 1"):
    Tokenizer(paths[kind]).rows(["a"], 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", ["<s> [CLS] </s> [PAD] <pad> <unk>", "half \ud83c", "\0 Ζωή 🎷"])
def test_whatever_a_text_holds_is_text(paths, kind, said):
  """A special token that is spelt out, half a surrogate pair, what no caption had."""
  tokenizer = Tokenizer(paths[kind])
  first, last = AROUND[kind]
  row = tokenizer.rows([said], 99)[0]
  inside = row[len(first) : np.flatnonzero(row)[-1] + 1 - len(last)]
  special = {0, 1, 2, 3} - ({2} if kind == "sentencepiece" else {1} if kind == "bert" else set())
  special -= {3} if kind in ("bytes", "roberta") else set()
  special -= {2} if kind == "bytes" else set()  # the byte 0
  assert len(inside) and not special & set(inside.tolist())


@hypothesis.given(st.text(st.characters()), st.integers(2, 40))
def test_any_text_has_bytes(said, length):
  tokenizer = Tokenizer("")
  (row,) = tokenizer.rows([said], length)
  assert row[0] == 1 and row.min() >= 0 and row.max() < 258
  encoded = said.encode("utf-8", "replace")
  assert bytes(i - 2 for i in row[1:] if i) == encoded[: length - 1]
  assert bool(tokenizer.cut([said], length)) == (len(encoded) > length - 1)


def test_a_vocabulary_larger_than_the_table_is_refused(paths):
  Tokenizer(paths["bert"]).check(len(PIECES))
  with pytest.raises(ValueError, match="uncased.txt: has 12 pieces, the text tower 11 rows"):
    Tokenizer(paths["bert"]).check(11)
  with pytest.raises(ValueError, match="bytes: has 258 pieces, the text tower 100 rows"):
    Tokenizer("").check(100)


def other_json(path, change):
  description = json.loads(pathlib.Path(roberta(path)).read_text())
  change(description)
  path.write_text(json.dumps(description))


def old_model(path):
  import sentencepiece

  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CAPTIONS), model_prefix=str(path.with_suffix("")), vocab_size=24
  )


@pytest.mark.parametrize(
  ("name", "write", "message"),
  [
    ("none.model", lambda path: None, "no such text model; prepare makes one"),
    ("text.pt", lambda path: path.write_text("x"), "wanted a SentencePiece model .* or none for"),
    ("text.model", lambda path: path.write_text("x"), "no SentencePiece model"),
    ("text.model", old_model, r"wanted pad 0 and a first token \(bos\), found pad -1 and bos 1"),
    ("vocab.txt", lambda path: path.write_text("a\nb\n"), r"no BERT vocabulary: \[PAD\] is miss"),
    (
      "vocab.txt",
      lambda path: path.write_text("[CLS]\n[SEP]\n[UNK]\n[PAD]\n"),
      r"its line 1 is '\[CLS\]', not \[PAD\]",
    ),
    ("vocab.txt", lambda path: path.write_bytes(b"\xff\xfe"), "wanted UTF-8 text"),
    ("tokenizer.json", lambda path: path.write_text("{"), "not JSON"),
    ("tokenizer.json", lambda path: path.write_text("[1]"), "no tokenizer.json: it has no model"),
    (
      "tokenizer.json",
      lambda path: other_json(path, lambda d: d.update(post_processor=None)),
      "puts no token before a text",
    ),
    (
      "tokenizer.json",
      lambda path: other_json(path, lambda d: d["added_tokens"].pop(0)),
      "its id 0 is '<s>', wanted padding",
    ),
  ],
)
def test_a_file_that_is_no_text_model_is_refused(tmp_path, name, write, message):
  write(tmp_path / name)
  with pytest.raises(ValueError, match=message) as caught:
    Tokenizer(str(tmp_path / name))
  assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_copy_keeps_its_kind(paths):
  names = [text.file_name(paths[kind]) for kind in KINDS]
  assert names == ["", "text.model", "vocab.txt", "tokenizer.json"]


@pytest.mark.parametrize(
  ("kind", "said", "unknown"),
  [
    ("sentencepiece", "(a calm flute, drums!)", []),
    ("sentencepiece", "a calm Ζωή flute 🎷", ["Ζωή", "🎷"]),
    ("word_pieces", "a calm qwxz flute", ["qwxz"]),
    ("", "Ζωή", []),
  ],
)
def test_words_that_a_text_model_does_not_know_are_named(tmp_path, capsys, kind, said, unknown):
  writers = {"sentencepiece": (sentencepiece, "t.model"), "word_pieces": (word_pieces, "t.txt")}
  write, name = writers.get(kind, (lambda path: "", ""))
  tokenizer = Tokenizer(write(tmp_path / name))
  assert tokenizer.unknown_words(said) == unknown
  tokenizer.check_known([said])
  assert capsys.readouterr().err.count("unknown to the text model") == bool(unknown)
  if unknown:
    with pytest.raises(ValueError, match="not trained on any part of the prompt"):
      tokenizer.check_known(["a flute", " ".join(unknown)])
