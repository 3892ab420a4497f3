"""The instruments of the built-in corpus."""

import csv
import dataclasses
import functools

from musiclm_jax.datasets import catalogue

DRUMS = 128  # the drum kit's number, one past the last General-MIDI program
KICK, SNARE, HAT = 36, 38, 42


@dataclasses.dataclass(frozen=True)
class Instrument:
  """One row of `data/instruments.csv`.

  `low` and `high` are MIDI pitches; `held_out` is the tempo word at which the instrument is not
  heard in training, or "".
  """

  program: int
  name: str
  family: str
  low: int
  high: int
  roles: str
  held_out: str


@functools.cache
def instruments() -> tuple[Instrument, ...]:
  """All instruments of `data/instruments.csv`."""
  with open(catalogue.data_folder() / "instruments.csv", encoding="utf-8", newline="") as file:
    convert = {field.name: field.type for field in dataclasses.fields(Instrument)}
    return tuple(
      Instrument(**{k: convert[k](v) for k, v in row.items()}) for row in csv.DictReader(file)
    )


def with_role(role: str) -> list[Instrument]:
  """Instruments with a role: lead, consort, chords, bass, drone or percussion."""
  return [each for each in instruments() if role in each.roles.split()]
