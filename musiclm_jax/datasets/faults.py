"""Many faults of a person's files in one exception, so that one run names all of them."""


def raise_faults(faults: list[str], heading: str) -> None:
  """Raises ValueError where there are faults: the only one, or `heading` with a note for each.

  The command line prints the notes of an exception below its message, one line each.
  """
  if len(faults) == 1:
    raise ValueError(faults[0])
  if faults:
    error = ValueError(heading)
    for fault in faults:
      error.add_note(fault)
    raise error
