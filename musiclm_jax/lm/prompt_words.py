"""What the words of a prompt say of the piece, where they are not those of the labels themselves.

A table {words: what they mean} is a plain dict, so that a bundle keeps it: {"fiddle": "violin",
"slow": "68 bpm"}. Case and a plural s do not count.
"""

import re

from musiclm_jax.sources import Label

Table = dict[str, str]


def facts(prompt: str, labels: dict[str, Label], tables: list[Table]) -> dict[str, list]:
  """{field: values} that the prompt names of `labels` {field: label}.

  The first of `tables` has other spellings of values; each further one says what words mean for
  fields that nothing before it has named. The words "" stand for any prompt.
  """
  kept = {bin: bin for label in labels.values() for bin in label.bins if isinstance(bin, str)}
  found: dict[str, list] = {}
  for table in tables or [{}]:
    prompt = _replaced(prompt, kept | table)
    for field, label in labels.items():
      if field not in found and (values := label.named(prompt)):
        found[field] = values
  return found


def _replaced(text: str, table: Table) -> str:
  """The text with all words of the table replaced; of those that overlap, the longest."""
  meanings = {words.lower(): meaning for words, meaning in table.items() if words}
  longest = sorted(meanings, key=len, reverse=True)
  if longest:
    pattern = rf"(?<!\w)({'|'.join(map(re.escape, longest))})(s?)(?!\w)"
    text = re.sub(pattern, lambda m: meanings[m[1].lower()], text, flags=re.IGNORECASE)
  return f"{text} {table.get('', '')}".strip()
