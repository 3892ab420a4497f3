"""Captions that are true by construction, and the text model."""

import re

import numpy as np
import pytest
import sentencepiece

from musiclm_jax.datasets import (
  arrangement,
  captions,
  catalogue,
  draws,
  instruments,
  passages,
  scores,
)

WORKS = [work for work in catalogue.list_works() if work.parts == 1][:4]


@pytest.fixture(scope="module")
def described():
  found = []
  for work in WORKS:
    music = scores.read_music(work)
    passage = passages.draw_passages(music, work, 8.0, 1, draws.generator(0))[0]
    music = passages.repeated(music, 8.0, scores.BEAT_QUARTERS[work.metre])
    for number in range(3):
      rendition = arrangement.arrange(
        music, work, passage, number, seed=1, clip_seconds=8.0, renditions=3, held_out=False
      )
      for seed in range(8):
        found.append((rendition, *captions.describe(rendition, draws.generator(seed, number))))
  return found


def test_captions_are_true(described):
  table = captions.phrasings()
  names = sorted((each.name for each in instruments.instruments()), key=len, reverse=True)
  for rendition, texts, aspect_list in described:
    text = " ".join(texts) + " " + ", ".join(aspect_list)
    own = {voice.instrument.name for voice in rendition.voices}
    rest = text
    for name in sorted(own, key=len, reverse=True):
      assert name.lower() in texts[0].lower() and name in aspect_list
      rest = rest.lower().replace(name.lower(), "")
    assert not [
      name for name in names if re.search(rf"\b{name}\b", rest) and name not in ("voice",)
    ]
    assert {int(x) for x in re.findall(r"(\d+) (?:bpm|beats)", text)} <= {int(rendition.bpm)}
    assert set(re.findall(r"\d+/\d+", text)) <= {rendition.work.metre}
    keys = re.findall(r"\b[A-G][b#]? (?:major|minor|dorian|mixolydian)", text)
    assert set(keys) <= {rendition.key}
    for word, phrases in table["mood"].items():
      bright = captions.brightness(rendition.key)
      if word != f"{bright} {rendition.tempo_word}":
        assert not [each for each in phrases if re.search(rf"\b{each}\b", text)]


def test_captions_read_well(described):
  for _, texts, aspect_list in described:
    for text in texts:
      assert text[0].isupper() and text.endswith(".") and "{" not in text
      assert not re.search(r"\b[Aa] [aeiou]|  | [,.]|\.\.", text), text
    assert len(set(aspect_list)) == len(aspect_list) >= 4


def test_captions_vary(described):
  for _, texts, _ in described:
    assert len(set(texts)) == len(texts) == captions.CAPTIONS >= 3
  first = {texts[0] for _, texts, _ in described}
  assert len(first) > 0.9 * len(described)


def test_small_words():
  assert captions.article("oboe") == "an oboe" and captions.article("bagpipes") == "bagpipes"
  assert captions.join(["a flute", "a viola", "a cello"]) == "a flute, a viola and a cello"
  assert captions.slots("{Tempo} music in {key}") == {"tempo", "key"}


def test_text_model_is_the_same_for_the_same_captions(described, tmp_path):
  texts = [each[0] for _, each, _ in described]
  for name in ("one", "two"):
    captions.train_text_model(texts, tmp_path / name, 320)
  assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
  model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "one"))
  assert model.pad_id() == 0 and model.bos_id() == 3
  assert model.vocab_size() <= 320
  assert model.encode("A SLOW Waltz") == model.encode("a slow waltz")
  assert model.unk_id() not in model.encode("größe 音楽")
  np.testing.assert_array_equal(
    [model.decode(model.encode(text)) for text in texts[:5]], [text.lower() for text in texts[:5]]
  )


def test_no_captions_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="wanted captions"):
    captions.train_text_model([], tmp_path / "model", 100)
