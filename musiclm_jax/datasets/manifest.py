"""The manifest of token shards: which tokenizers made them, and whether a training wants those."""

import json
import pathlib

from musiclm_jax import part_files
from musiclm_jax.tokens import Stream


def provenance(directory: str, sources: tuple[str | Stream, ...], parts: dict[str, str]) -> dict:
  """{"sources": their entries in the manifest, "parts": {role: fingerprint}}.

  `parts` is {role: model directory or file}, whatever these are called. A Stream among the sources
  is checked against its entries. Raises ValueError, naming the directory, where it has no such
  source, and where a part was trained on another encoder's.
  """
  fingerprints = {role: part_files.fingerprint(part) for role, part in parts.items()}
  if not sources:
    return {"sources": {}, "parts": fingerprints}
  path = pathlib.Path(directory, "manifest.json")
  if not path.is_file():
    raise ValueError(f"{directory}: no token shards here (manifest.json is missing)")
  made = json.loads(path.read_text())["sources"]
  streams = [source for source in sources if isinstance(source, Stream)]
  names = [source for source in sources if not isinstance(source, Stream)]
  names += [name for stream in streams for name in stream.made.features(stream)]
  for name in names:
    if name not in made:
      raise ValueError(f"{path}: no source {name!r}; the shards hold {', '.join(sorted(made))}")
  for stream in streams:
    try:
      stream.made.check(stream, made)
    except ValueError as error:
      raise ValueError(f"{path}: {error}") from None
  for part in parts.values():
    _check_part(part, made, directory)
  return {"sources": {name: made[name] for name in dict.fromkeys(names)}, "parts": fingerprints}


def merged(provenances: list[tuple[str, dict]]) -> dict:
  """The provenances [(directory, as above)] in one. Raises ValueError where an entry differs."""
  made = {"sources": {}, "parts": {}}
  for directory, one in provenances:
    for kind, entries in made.items():
      for name, entry in one[kind].items():
        if entries.setdefault(name, entry) != entry:
          raise ValueError(f"{directory}: its {name} is {entry}, another has {entries[name]}")
  return made


def _check_part(part: str, made: dict, directory: str) -> None:
  """A part must have been trained on sources of the encoders that made those of the shards."""
  _, trained = part_files.read_description(part)
  for name, entry in trained["sources"].items():
    if name in made and made[name]["encoder"] != entry["encoder"]:
      raise ValueError(
        f"{directory}: its {name} is of encoder {made[name]['encoder']}, "
        f"but {part} was trained on that of {entry['encoder']}"
      )
