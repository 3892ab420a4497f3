"""What the licences of a bundle's parts allow together."""

import pathlib

from musiclm_jax import part_files
from musiclm_jax.export import bundle as bundles
from musiclm_jax.licence_terms import OWN, meaning, strictest


def licences(bundle: str) -> dict[str, str]:
  """Prints the licence of every part of a bundle and the most restrictive one; {part: licence}.

  A trained part has none of its own: that of the part it started from, or of the tokenizers of its
  training data, counts. Raises ValueError where the directory is no bundle.
  """
  bundle, found = bundles.find(bundle), {}
  for role in bundles.load_description(bundle)["parts"]:
    _, provenance = part_files.read_description(str(pathlib.Path(bundle, role)))
    found[role] = strictest(of(provenance))
  width = max(map(len, found))
  for role, licence in found.items():
    print(f"{role:<{width}}  {licence}: {meaning(licence)}")
  whole = strictest(found.values())
  print(f"the bundle: {whole}: {meaning(whole)}")
  return found


def of(provenance: dict) -> list[str]:
  """All licences that a part is under, by its provenance."""
  entries = (provenance, *provenance["sources"].values(), *provenance.get("initial", {}).values())
  return [OWN, *(entry["licence"] for entry in entries if "licence" in entry)]
