"""The table of what is known of clips: their captions, works, tempi and keys."""

FACTS = ("captions", "bpm", "key")  # fields of score.Judged
_COLUMNS = {"captions": "caption", "bpm": "bpm", "key": "key"}


def works(rows: dict[str, dict[str, str]], names: tuple[str, ...]) -> tuple[str, ...]:
  """The works of clips; one that has none in the table is a work of its own."""
  return tuple(rows.get(name, {}).get("work") or name for name in names)


def facts(rows: dict[str, dict[str, str]], names: tuple[str, ...]) -> dict[str, tuple | None]:
  """{field of FACTS: values [clips], or None where the table has no such column}.

  Raises ValueError for a clip without a row or without a value, or a tempo that is no number.
  """
  found: dict[str, tuple | None] = dict.fromkeys(FACTS)
  for field, column in _COLUMNS.items():
    if any(column in row for row in rows.values()):
      found[field] = tuple(_value(rows, name, column) for name in names)
  return found


def _value(rows: dict[str, dict[str, str]], name: str, column: str) -> str | float:
  value = rows.get(name, {}).get(column)
  if not value:
    raise ValueError(f"the table of clips has no {column} of {name}")
  if column != "bpm":
    return value
  try:
    return float(value)
  except ValueError:
    raise ValueError(f"the bpm of {name}: wanted a number, found {value!r}") from None
