"""What the licences of a bundle's parts allow together."""

import pathlib
import re

from musiclm_jax import part_files
from musiclm_jax.export import bundle as bundles

_OWN = "trained here"
# From the freest to the most restrictive: (pattern of names, what it means).
_TERMS = (
  (_OWN, "yours; what its training data allow holds"),
  (r"cc0|public|unlicense|mit|apache|bsd|isc", "any use"),
  (r"cc-by-\d|cc-by$", "any use that names the authors"),
  (r"-sa\b|gpl", "any use; derived works under the same licence"),
  (r"-nd\b", "no derived works"),
  (r"\bnc\b|non-?commercial", "no commercial use"),
)
_UNKNOWN = "not known here: read it"


def licences(bundle: str) -> dict[str, str]:
  """Prints the licence of every part of a bundle and the most restrictive one; gives {part: it}.

  A part that was trained has none of its own: that of what it started from, or of the tokenizers
  of what it was trained on, counts. Raises ValueError where the directory is no bundle.
  """
  found = {}
  for role in bundles.load_description(bundle)["parts"]:
    _, _, provenance = part_files.read_part(str(pathlib.Path(bundle, role)))
    found[role] = _strictest(_of(provenance))
  width = max(map(len, found))
  for role, licence in found.items():
    print(f"{role:<{width}}  {licence}: {_terms(licence)[1]}")
  strictest = _strictest(found.values())
  print(f"the bundle: {strictest}: {_terms(strictest)[1]}")
  return found


def _of(provenance: dict) -> list[str]:
  """All licences that a part is under."""
  entries = (provenance, *provenance["sources"].values(), *provenance.get("initial", {}).values())
  return [_OWN, *(entry["licence"] for entry in entries if "licence" in entry)]


def _strictest(licences) -> str:
  return max(licences, key=lambda licence: _terms(licence)[0])


def _terms(licence: str) -> tuple[int, str]:
  """(how restrictive, what it means); the strictest term that the name has counts."""
  for rank in reversed(range(len(_TERMS))):
    if re.search(_TERMS[rank][0], licence.lower()):
      return rank, _TERMS[rank][1]
  return len(_TERMS), _UNKNOWN
