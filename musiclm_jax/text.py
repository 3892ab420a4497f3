"""Text as ids for the text tower: one front end for training, evaluation and generation.

A text begins with a first token, as BERT's [CLS] (Devlin et al. 2018, arXiv 1810.04805): the
tower's output at its position is the embedding of the text. Id 0 is padding.
"""

import dataclasses
import json
import pathlib
import string
import sys
from collections.abc import Callable

import numpy as np

_SHOWN = 40  # characters of the kept text


@dataclasses.dataclass(frozen=True)
class _Pieces:
  """How a kind of file splits a text; ids `first` come before each text, `last` after it."""

  vocab_size: int
  first: list[int]
  last: list[int]
  encode: Callable[[str], list[int]]
  decode: Callable[[list[int]], str]
  unknown: frozenset[int] = frozenset()  # ids of pieces that training has not seen


class Tokenizer:
  """Texts to ids by a SentencePiece model (*.model), the vocabulary of an uncased BERT (*.txt) or a
  tokenizer.json of Hugging Face (*.json); by the text's UTF-8 bytes where `path` is "".

  No part of a text is read as a special token. Raises ValueError, naming the file, if it is
  missing, of another kind, has no first token, or its id 0 is not padding.
  """

  def __init__(self, path: str):
    self.name = path or "bytes"
    _, read = _KINDS[_kind(path)]
    self._pieces = read(path)

  @property
  def vocab_size(self) -> int:
    """All ids are less than this."""
    return self._pieces.vocab_size

  def check(self, rows: int) -> None:
    """Raises ValueError if ids do not fit a table of this many rows."""
    if self.vocab_size > rows:
      raise ValueError(f"{self.name}: has {self.vocab_size} pieces, the text tower {rows} rows")

  def encode(self, text: str) -> list[int]:
    """Ids of a text without first and last tokens; an empty list for an empty text."""
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is not a character
    return [i for i in self._pieces.encode(text) if i]

  def unknown_words(self, text: str) -> list[str]:
    """The words with characters or pieces that the text model does not know; none with bytes."""
    words = filter(None, (word.strip(string.punctuation) for word in text.split()))
    return [word for word in words if not self._pieces.unknown.isdisjoint(self.encode(word))]

  def check_known(self, texts: list[str]) -> None:
    """Raises ValueError for a text without a part that the text model knows; a line on stderr names
    the unknown words of other texts.
    """
    for text in texts:
      known = [i for i in self.encode(text) if i not in self._pieces.unknown]
      if text.strip() and not self._pieces.decode(known).strip():
        raise ValueError(f"the text model was not trained on any part of the prompt {text!r}")
      if words := self.unknown_words(text):
        print(f"words unknown to the text model: {', '.join(words)}", file=sys.stderr)

  def rows(self, texts: list[str], length: int) -> np.ndarray:
    """Ids [texts, length] int32, after the first token, padded with 0; longer texts are cut.

    With bytes, rows(["ab", ""], 4) is [[1, 99, 100, 0], [1, 0, 0, 0]]. Raises ValueError if
    `length` leaves no room for text.
    """
    room = self._room(length)
    rows = np.zeros((len(texts), length), np.int32)
    for row, text in zip(rows, texts):
      ids = self._pieces.first + self.encode(text)[:room] + self._pieces.last
      row[: len(ids)] = ids
    return rows

  def fitted(self, texts: list[str], length: int) -> np.ndarray:
    """The `rows` of texts; a line on stderr reports cuts."""
    if cut := self.cut(texts, length):
      print(cut, file=sys.stderr)
    return self.rows(texts, length)

  def count(self, text: str) -> int:
    """The length of a row that holds the whole text."""
    return len(self._pieces.first) + len(self.encode(text)) + len(self._pieces.last)

  def cut(self, texts: list[str], length: int) -> str:
    """A line about the texts that `rows` cuts, and where; "" if it cuts none."""
    long = [text for text in texts if self.count(text) > length]
    if not long:
      return ""
    kept = self._pieces.decode(self.encode(long[0])[: self._room(length)])
    place = repr(kept if len(kept) <= _SHOWN else f"...{kept[-_SHOWN:]}")
    if len(texts) == 1:
      return f"text cut after {length} of {self.count(long[0])} tokens, at {place}"
    return f"{len(long)} of {len(texts)} texts were cut to {length} tokens; the first at {place}"

  def _room(self, length: int) -> int:
    """How many ids of a text fit between first and last tokens."""
    around = len(self._pieces.first) + len(self._pieces.last)
    if length <= around:
      raise ValueError(f"text_length: wanted more than {around} for {self.name}, found {length}")
    return length - around


def captions_of(record: dict) -> list[str]:
  """The texts of an audio record: its `captions`, or its one `caption` where it has none."""
  return [text.decode() for text in record.get("captions", ())] or [record["caption"].decode()]


def file_name(path: str) -> str:
  """The name of a copy that is read as the same kind of file; "" for bytes."""
  return _KINDS[_kind(path)][0]


def _kind(path: str) -> str:
  """The ending that gives the kind of a file. Raises ValueError if it is missing or unknown."""
  suffix = pathlib.Path(path).suffix
  if path and not pathlib.Path(path).is_file():
    raise ValueError(f"{path}: no such text model; prepare makes one from captions")
  if path and suffix not in [*_KINDS][1:]:
    kinds = "a SentencePiece model (*.model), a BERT vocabulary (*.txt) or a tokenizer.json"
    raise ValueError(f"{path}: wanted {kinds}, or none for bytes")
  return suffix


def _bytes(path: str) -> _Pieces:
  """Id 1, then byte b as b + 2."""
  del path

  def decode(ids):
    return bytes(i - 2 for i in ids).decode(errors="ignore")

  return _Pieces(258, [1], [], lambda text: [b + 2 for b in text.encode()], decode)


def _sentencepiece(path: str) -> _Pieces:
  """The model's beginning-of-sentence token, then its pieces."""
  import sentencepiece

  try:
    model = sentencepiece.SentencePieceProcessor(model_file=path)
  except RuntimeError:
    raise ValueError(f"{path}: no SentencePiece model") from None
  if model.pad_id() != 0 or model.bos_id() < 0:
    found = f"found pad {model.pad_id()} and bos {model.bos_id()}"
    raise ValueError(f"{path}: wanted pad 0 and a first token (bos), {found}; -1 means absent")
  size = model.vocab_size()
  unknown = frozenset(i for i in range(size) if model.is_unknown(i) or model.is_byte(i))
  return _Pieces(size, [model.bos_id()], [], model.encode, model.decode, unknown)


def _word_pieces(path: str) -> _Pieces:
  """[CLS] and [SEP] around lower-cased word pieces, as bert-base-uncased."""
  import tokenizers

  lines = _read(path).removesuffix("\n").split("\n")  # splitlines() splits at other characters too
  vocab = {piece: i for i, piece in enumerate(lines)}
  missing = [piece for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if piece not in vocab]
  if missing or vocab["[PAD]"]:
    wrong = f"{missing[0]} is missing" if missing else f"its line 1 is {lines[0]!r}, not [PAD]"
    raise ValueError(f"{path}: no BERT vocabulary: {wrong}")
  model = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
  model.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
  model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  model.decoder = tokenizers.decoders.WordPiece()
  return _Pieces(
    len(lines),
    [vocab["[CLS]"]],
    [vocab["[SEP]"]],
    lambda text: model.encode(text, add_special_tokens=False).ids,
    model.decode,
    frozenset([vocab["[UNK]"]]),
  )


def _hugging_face(path: str) -> _Pieces:
  """First and last tokens are those of the file's post-processor."""
  import tokenizers

  try:
    described = json.loads(_read(path))
  except json.JSONDecodeError as error:
    raise ValueError(f"{path}: not JSON ({error})") from None
  if not isinstance(described, dict) or "vocab" not in (described.get("model") or {}):
    raise ValueError(f"{path}: no tokenizer.json: it has no model with a vocab")
  model = tokenizers.Tokenizer.from_file(path)
  model.no_truncation()  # many files set lengths of their own
  model.no_padding()
  model.encode_special_tokens = True  # "<s>" in a text is three characters
  encoding = model.encode("a")
  places = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
  if not places.size or not places[0]:
    raise ValueError(f"{path}: puts no token before a text")
  unknown = {described["model"].get("unk_token")}
  if described["model"].get("byte_fallback"):
    unknown |= {f"<0x{byte:02X}>" for byte in range(256)}
  zero = model.get_added_tokens_decoder().get(0)
  if zero is None or not zero.special:
    raise ValueError(f"{path}: its id 0 is {model.id_to_token(0)!r}, wanted padding or the like")
  return _Pieces(
    max(model.get_vocab().values()) + 1,
    encoding.ids[: places[0]],
    encoding.ids[places[-1] + 1 :],
    lambda text: model.encode(text, add_special_tokens=False).ids,
    model.decode,
    frozenset(i for piece, i in model.get_vocab().items() if piece in unknown),
  )


def _read(path: str) -> str:
  try:
    return pathlib.Path(path).read_text("utf-8")
  except UnicodeDecodeError:
    raise ValueError(f"{path}: wanted UTF-8 text") from None


_KINDS = {  # {ending: (name of a copy, reader)}
  "": ("", _bytes),
  ".model": ("text.model", _sentencepiece),
  ".txt": ("vocab.txt", _word_pieces),
  ".json": ("tokenizer.json", _hugging_face),
}
