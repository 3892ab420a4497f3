"""Captions and aspect lists of renditions, true by construction, and their text model.

`data/phrasings.json` has the phrasings. A measurable fact decides each descriptive word: mode and
tempo the mood, mean pitch the register, notes per second the density.
"""

import functools
import io
import json
import pathlib
import re

import numpy as np

from musiclm_jax.datasets import catalogue, scores
from musiclm_jax.datasets.rendition import Rendition

LOW, HIGH = 58.0, 76.0  # the register is low below, high above this mean MIDI pitch of a melody
CAPTIONS = 4  # of each clip
CAPITALS = ("tempo", "articulation", "lead", "mood", "family", "dynamics")  # begin sentences, too
SPARSE, BUSY = 1.6, 4.0  # a melody is sparse below, busy above this number of notes per second


@functools.cache
def phrasings() -> dict:
  """The phrasings of `data/phrasings.json`."""
  return json.loads((catalogue.data_folder() / "phrasings.json").read_text("utf-8"))


def describe(rendition: Rendition, rng: np.random.Generator) -> tuple[list[str], list[str]]:
  """`CAPTIONS` different captions of one to four sentences, and an aspect list, as in MusicCaps.

  The first caption names all instruments and does not repeat a fact; the others mention few facts
  or other ones.
  """
  words = choose_words(rendition, rng)
  texts = [write(rendition, "openings", words, rng)]
  listed = aspects(rendition, words, rng)
  while len(texts) < CAPTIONS:
    kind = "openings" if len(texts) == 1 else "briefs"
    text = write(rendition, kind, choose_words(rendition, rng), rng)
    texts += [text] if text not in texts else []
  return texts, listed


def write(rendition: Rendition, kind: str, words: dict[str, str], rng: np.random.Generator) -> str:
  """A caption that begins with one of the phrasings `kind` and goes on with other facts."""
  table = phrasings()
  sentences = [str(rng.choice(table[kind]))]
  count = int(rng.integers(1, 4)) if kind == "openings" else int(rng.integers(1, 3))
  for detail in rng.permutation(table["details"]):
    if len(sentences) < count and not slots(detail) & slots(" ".join(sentences)):
      sentences.append(str(detail))
  place = table["places"][rendition.passage.place]
  if place and rng.random() < 0.5:
    sentences.append(str(rng.choice(place)))
  return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", " ".join(sentences).format(**words))


def slots(template: str) -> set[str]:
  """The facts in a sentence: slots("{Tempo} music in {key}") == {"tempo", "key"}."""
  found = {name.lower() for name in re.findall(r"{(\w+)}", template)}
  return {"tempo" if name == "tempo_word" else name for name in found}


def choose_words(rendition: Rendition, rng: np.random.Generator) -> dict[str, str]:
  """{slot: words} for the sentences' templates."""
  table, work = phrasings(), rendition.work
  names = unique(voice.instrument.name for voice in rendition.voices)
  parts = rendition.arrangement == "parts"
  leads, others = (names, []) if parts else (names[:1], names[1:])
  lead = join([article(name) for name in leads])
  played = str(rng.choice(table["played"]))
  texture = str(rng.choice(table["texture"][rendition.arrangement])).format(
    accompaniment=join([article(name) for name in others]),
    count=table["numbers"].get(str(len(rendition.voices)), "many"),
  )
  words = {
    "tempo_word": rendition.tempo_word,
    "tempo": pick(rng, "tempo", rendition.tempo_word),
    "mood": pick(rng, "mood", f"{brightness(rendition.key)} {rendition.tempo_word}"),
    "dynamics": pick(rng, "dynamics", rendition.dynamics),
    "articulation": pick(rng, "articulation", rendition.articulation),
    "register": pick(rng, "register", register(rendition)),
    "density": pick(rng, "density", density(rendition)),
    "key": rendition.key,
    "metre": work.metre,
    "form": work.form,
    "family": table["families"][rendition.voices[0].instrument.family],
    "bpm": f"{rendition.bpm:.0f}",
    "lead": lead,
    "play": "play" if len(leads) > 1 or not lead.startswith("a") else "plays",
    "played": played,
    "texture": texture,
  }
  words |= {key.capitalize(): capital(words[key]) for key in CAPITALS}
  return words


def aspects(rendition: Rendition, words: dict[str, str], rng: np.random.Generator) -> list[str]:
  """Phrases that are true of the clip, in random order, always with its instruments."""
  sure = unique(voice.instrument.name for voice in rendition.voices)
  sure += [
    f"{rendition.tempo_word} tempo",
    str(rng.choice(phrasings()["aspects"][rendition.arrangement])),
  ]
  maybe = [
    rendition.key,
    f"{words['metre']} time",
    words["form"],
    words["mood"],
    words["dynamics"],
    words["articulation"],
    f"{words['bpm']} bpm",
    f"{words['register']} register",
    rendition.voices[0].instrument.family,
    "instrumental",
  ]
  kept = [
    str(each) for each in rng.choice(maybe, int(rng.integers(3, len(maybe) + 1)), replace=False)
  ]
  return [str(each) for each in rng.permutation(unique(sure + kept))]


def brightness(key: str) -> str:
  """ "bright" for modes with a major third, else "dark"."""
  return "bright" if scores.SCALES[scores.split_key(key)[1]][2] == 4 else "dark"


def register(rendition: Rendition) -> str:
  """ "low", "middle" or "high" by the mean pitch of the melody."""
  middle = rendition.melody[:, 2].mean()
  return "low" if middle < LOW else "high" if middle > HIGH else "middle"


def density(rendition: Rendition) -> str:
  """ "sparse", "flowing" or "busy" by the melody's notes per second."""
  melody = rendition.melody[rendition.melody[:, 0] >= 0]
  seconds = float((melody[:, 0] + melody[:, 1]).max()) * rendition.seconds_per_quarter
  rate = len(melody) / max(seconds, 1e-9)
  return "sparse" if rate < SPARSE else "busy" if rate > BUSY else "flowing"


def pick(rng: np.random.Generator, slot: str, fact: str) -> str:
  """One of the words for a fact."""
  return str(rng.choice(phrasings()[slot][fact]))


def unique(names) -> list[str]:
  """The names without repetition, in order."""
  return list(dict.fromkeys(names))


def article(name: str) -> str:
  """article("oboe") == "an oboe"; plural names have none: article("bagpipes") == "bagpipes"."""
  plural = name.endswith(("bells", "strings", "bagpipes"))
  return name if plural else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def capital(text: str) -> str:
  """The text with a capital first letter."""
  return text[:1].upper() + text[1:]


def join(names: list[str]) -> str:
  """join(["a flute", "a viola", "a cello"]) == "a flute, a viola and a cello"."""
  return (
    names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""
  )


def train_text_model(captions: list[str], path: pathlib.Path, vocab_size: int) -> None:
  """Writes a SentencePiece unigram model of the captions to `path`.

  The same captions give the same bytes. It lower-cases (nmt_nfkc_cf) and falls back to bytes; pad
  is 0, end 1, unknown 2, beginning 3. It has at most `vocab_size` pieces, fewer where the text has
  fewer. Raises ValueError where there are no captions or more characters than pieces.
  """
  import sentencepiece

  if not captions:
    raise ValueError(f"{path}: wanted captions to train the text model on, got none")
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(captions),
      model_writer=model,
      model_type="unigram",
      vocab_size=vocab_size,
      hard_vocab_limit=False,
      byte_fallback=True,
      normalization_rule_name="nmt_nfkc_cf",
      character_coverage=1.0,
      num_threads=1,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=3,
      minloglevel=2,
    )
  except RuntimeError as error:  # the only one it raises: more characters than pieces
    reason = str(error).rpartition("] ")[2]
    raise ValueError(
      f"vocab_size: {vocab_size} is too small for these captions: {reason}"
    ) from None
  partial = path.with_name(path.name + ".partial")
  partial.write_bytes(model.getvalue())
  partial.replace(path)
