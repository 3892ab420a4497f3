"""What the words of a prompt say of the piece."""

import pytest

from musiclm_jax.lm import prompt_words
from musiclm_jax.sources import Label

LABELS = {
  "bpm": Label("bpm", (60.0, 120.0)),
  "key": Label("key", ("Bb major", "D minor")),
  "instruments": Label("instruments", ("flute", "violin", "nylon-string guitar", "church organ")),
}
TABLES = [
  {
    "beats per minute": "bpm",
    "B flat": "Bb",
    "fiddle": "violin",
    "guitar": "nylon-string guitar",
    "organ": "church organ",
    "string duo": "violin and flute",
  },
  {"slow": "68 bpm", "lively": "132 bpm", "fiddle": "80 bpm"},
  {"": "104 bpm"},
]


@pytest.mark.parametrize(
  "prompt, wanted",
  [
    ("a flute in D minor", {"bpm": [104], "key": ["D minor"], "instruments": ["flute"]}),
    ("A slow air at 90 beats per minute", {"bpm": [90]}),
    ("Slow, then lively", {"bpm": [68, 132]}),
    ("slowly", {"bpm": [104]}),
    ("in b flat major", {"bpm": [104], "key": ["Bb major"]}),
    ("two fiddles and Guitars", {"bpm": [104], "instruments": ["violin", "nylon-string guitar"]}),
    ("a nylon-string guitar", {"bpm": [104], "instruments": ["nylon-string guitar"]}),
    ("a church organ, a string duo", {"instruments": ["church organ", "violin", "flute"]}),
    ("a fiddle", {"bpm": [104], "instruments": ["violin"]}),  # replaced before the second table
  ],
)
def test_words_mean_values_of_labels(prompt, wanted):
  found = prompt_words.facts(prompt, LABELS, TABLES)
  assert found == {"bpm": [104]} | wanted


def test_without_tables_a_prompt_names_what_the_labels_do():
  assert prompt_words.facts("a slow fiddle and a flute, 80 bpm", LABELS, []) == {
    "bpm": [80],
    "instruments": ["flute"],
  }
