"""The licences in a model card: a README.md with YAML front matter, as on the Hugging Face hub."""

import dataclasses
import pathlib

import yaml


@dataclasses.dataclass(frozen=True)
class Licences:
  """All licences that a card states, and the address of their text, "" where it has none."""

  names: tuple[str, ...]
  link: str


def read(card: pathlib.Path) -> Licences:
  """The licences of a card, none where the file is missing or its front matter states none.

  `license` is a name or a list of names; for `other` the `license_name` counts. Raises ValueError,
  naming the file, where the front matter is not YAML.
  """
  matter = _front_matter(card)
  stated = matter.get("license")
  stated = stated if isinstance(stated, list) else [stated]
  names = [str(name).strip() for name in stated if name not in (None, "", False)]
  other = matter.get("license_name") or "other"
  names = [str(other) if name.lower() == "other" else name for name in names]
  return Licences(tuple(names), str(matter.get("license_link") or ""))


def _front_matter(card: pathlib.Path) -> dict:
  """The YAML between the first line, "---", and the next such line."""
  lines = card.read_text("utf-8-sig", errors="replace").splitlines() if card.is_file() else []
  rules = [index for index, line in enumerate(lines) if line.rstrip() == "---"]
  if len(rules) < 2 or rules[0] != 0:
    return {}
  try:
    matter = yaml.safe_load("\n".join(lines[1 : rules[1]]))
  except yaml.YAMLError as error:
    raise ValueError(f"{card}: its front matter is not YAML ({_one_line(error)})") from None
  return matter if isinstance(matter, dict) else {}


def _one_line(error: yaml.YAMLError) -> str:
  return " ".join(str(error).split())
