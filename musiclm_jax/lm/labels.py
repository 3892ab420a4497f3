"""What prompts and users say of a piece, as conditions of the stages: tempo, key, instruments."""

import dataclasses

from musiclm_jax.clocks import Beat
from musiclm_jax.lm import prompt_words
from musiclm_jax.lm.conditions import Condition, of_records, stacked, switched
from musiclm_jax.lm.prompts import Story
from musiclm_jax.sources import Label
from musiclm_jax.tokens import Stream


@dataclasses.dataclass(frozen=True)
class Labels:
  """`streams` {source: stream} are conditions that follow from facts of a piece, `words` the tables
  of what words mean (`lm.prompt_words`), and `place` is the bundle, for messages.
  """

  streams: dict[str, Stream]
  words: list[dict[str, str]]
  place: str

  @property
  def facts(self) -> tuple[str, ...]:
    """The fields that the streams read: bpm, key, instruments, ..."""
    names = (name for stream in self.streams.values() for name in stream.made.facts)
    return tuple(dict.fromkeys(names))

  def told(self, prompts: list[str], facts: dict) -> list[dict]:
    """The record of each prompt: `facts` {field: value}, those that are not None, and of other
    fields what the prompt names, in the words of the bundle.

    Raises ValueError for a field that no stage reads, and for a value that it does not have.
    """
    facts = {name: value for name, value in facts.items() if value is not None}
    if unknown := sorted(set(facts) - set(self.facts)):
      known = ", ".join(self.facts) or "none"
      raise ValueError(f"{self.place}: no stage reads a label {unknown[0]}; they read {known}")
    labels = {s.made.field: s.made for s in self.streams.values() if isinstance(s.made, Label)}
    asked = {name: labels[name].values(v) if name in labels else v for name, v in facts.items()}
    named = {name: label for name, label in labels.items() if label.prompted}
    return [prompt_words.facts(prompt, named, self.words) | asked for prompt in prompts]

  def conditions(self, records: list[dict]) -> dict[str, Condition]:
    """{source: condition} of what is known of each row's piece (`told`)."""
    return {name: of_records(stream, records) for name, stream in self.streams.items()}

  def of_stories(self, stories: list[Story], facts: dict) -> dict[str, Condition]:
    """{source: condition} of what each row's prompts say of the piece, from their times on; beats
    go on at the next tempo. Raises ValueError as `told`.
    """
    rows = []
    for story in stories:
      records = self.told([prompt.words for prompt in story.prompts], facts)
      for stream in self.streams.values():
        if isinstance(stream.made, Beat):  # each goes on from the one before it
          for i in range(1, len(records)):
            records[i] = stream.made.gone_on(records[i - 1], records[i], story.times[i])
      rows.append(list(zip(story.times, records)))

    def condition(stream: Stream) -> Condition:
      parts = ([(time, of_records(stream, [record])) for time, record in row] for row in rows)
      return stacked([switched(part) for part in parts])

    return {name: condition(stream) for name, stream in self.streams.items()}
