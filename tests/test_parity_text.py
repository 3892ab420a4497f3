"""Word pieces against the tokenizer of BERT that transformers has."""

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")

from musiclm_jax.text import Tokenizer  # noqa: E402

PIECES = (
  "[PAD] [UNK] [CLS] [SEP] [MASK] a slow calm fl ##ute ##s , . ' - ! 音 楽 e ##e 120 bp ##m ( ) #"
)
TEXTS = [
  "A slow, calm flute.",
  "Flutes FLÛTES flu\u0301tes",
  "音楽 slow音楽calm",
  "it's 120bpm (slow)! #a",
  "a\u00a0slow\tcalm\n\nflute \x00\u200b",
  "",
  "   ",
  "e" * 120,
  "🎷 a ½",
  "slow " * 40,
]


@pytest.mark.parametrize("length", [3, 12, 64])
def test_rows_are_those_of_transformers(tmp_path, length):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(PIECES.split()) + "\n")
  vocab = {piece: i for i, piece in enumerate(PIECES.split())}
  theirs = transformers.BertTokenizer(vocab=vocab)
  wanted = theirs(TEXTS, padding="max_length", truncation=True, max_length=length)["input_ids"]
  np.testing.assert_array_equal(Tokenizer(str(path)).rows(TEXTS, length), wanted)


def test_a_saved_tokenizer_gives_the_same_rows(tmp_path):
  vocab = {piece: i for i, piece in enumerate(PIECES.split())}
  theirs = transformers.BertTokenizer(vocab=vocab)
  theirs.save_pretrained(tmp_path)
  wanted = theirs(TEXTS, padding="max_length", truncation=True, max_length=20)["input_ids"]
  found = Tokenizer(str(tmp_path / "tokenizer.json")).rows(TEXTS, 20)
  np.testing.assert_array_equal(found, wanted)
