"""A bundle: one self-describing directory with everything that generation needs.

bundle.json names the parts with their fingerprints, and the file of the text model; each part is a
folder of model.json and weights.safetensors. Paths of the machine that made it are nowhere in it.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import sys

from musiclm_jax import checkpointing
from musiclm_jax.ranges import PositiveInt
from musiclm_jax.text import file_name

_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Text:
  """The text model that the text tower was trained with, as `text.Tokenizer` takes it, and how many
  tokens it reads."""

  model: str
  length: PositiveInt


def export(
  *,
  output_dir: str,
  stages: tuple[str, ...],
  tokenizers: dict[str, str],
  text: Text,
  sample_rate: PositiveInt,
  to: str,
) -> None:
  """Writes a bundle, whole or not at all.

  `stages` are the model directories of the token models in the order in which they run;
  `tokenizers` maps a role (soundstream, mulan, mulan_rvq, and those that only prompts of audio
  need) to its model directory. Raises ValueError where a part is not trained to its end, where two
  parts do not belong together, the text model is not one of the text tower, or the codec is not of
  sample_rate Hz.
  """
  if to != "bundle":
    raise ValueError(f"export: wanted --to bundle, found --to {to}")
  text_model = file_name(text.model)
  parts = {pathlib.Path(stage).name: stage for stage in stages} | tokenizers
  prints = {}
  for role, directory in parts.items():
    module, _, provenance = checkpointing.read_part(directory)
    prints[role] = checkpointing.fingerprint(directory)
    if role == "soundstream" and module.sample_rate != sample_rate:
      raise ValueError(f"{directory}: is of {module.sample_rate} Hz, SAMPLE_RATE is {sample_rate}")
    if role == "mulan":
      _check_text(text, directory, module.text_tower, provenance["parts"])
  for stage in stages:
    _check_stage(stage, prints)
  partial = pathlib.Path(f"{output_dir}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  for role, directory in parts.items():
    (partial / role).mkdir(parents=True)
    for name in ("model.json", "weights.safetensors"):
      shutil.copy(pathlib.Path(directory, name), partial / role / name)
  if text_model:
    shutil.copy(text.model, partial / text_model)
  description = {
    "format": _FORMAT,
    "sample_rate": sample_rate,
    "stages": [pathlib.Path(stage).name for stage in stages],
    "text_model": text_model,
    "text_length": text.length,
    "parts": prints,
  }
  checkpointing.write_text(partial / "bundle.json", json.dumps(description, indent=1) + "\n")
  if pathlib.Path(output_dir).exists():
    _refuse_other(output_dir)
    shutil.rmtree(output_dir)
  os.replace(partial, output_dir)
  print(f"{output_dir}: {len(parts)} parts", file=sys.stderr)


def _refuse_other(output_dir: str) -> None:
  """Only a bundle may be replaced."""
  if not pathlib.Path(output_dir, "bundle.json").is_file():
    raise ValueError(f"{output_dir}: exists and is no bundle; choose another directory")


def _check_text(text: Text, mulan: str, tower, parts: dict[str, str]) -> None:
  """The text model must be that of the training, the only one of its `parts`; the text tower must
  have places for all tokens.
  """
  wanted = next(iter(parts.items()), ("bytes", ""))
  found = checkpointing.fingerprint(text.model) if text.model else ""
  if found != wanted[1]:
    wanted, found = " ".join(wanted).strip(), f"{text.model or 'bytes'} {found}".strip()
    raise ValueError(f"{mulan}: was trained on texts by {wanted}, TEXT_MODEL is {found}")
  places = getattr(tower, "max_length", text.length)  # published ones do not say
  if text.length > places:
    raise ValueError(f"{mulan}: reads at most {places} tokens, TEXT_LENGTH is {text.length}")


def _check_stage(stage: str, prints: dict[str, str]) -> None:
  """A stage must have been trained on tokens of these very tokenizers."""
  _, _, provenance = checkpointing.read_part(stage)
  used = dict(provenance["parts"])
  roles = {"acoustic": ("soundstream", "encoder"), "mulan": ("mulan", "encoder")}
  for source, entry in provenance["sources"].items():
    if source in roles:
      role, key = roles[source]
      used[role] = entry[key]
  for role, wanted in used.items():
    if role in prints and prints[role] != wanted:
      raise ValueError(
        f"{stage}: was trained on tokens of {role} {wanted}, the bundle would hold {prints[role]}"
      )


def load_description(directory: str) -> dict:
  """bundle.json, with the fingerprint of every part checked; text_model is a path, "" for bytes.

  Raises ValueError, naming the part, where the directory is no bundle, or a part is missing or
  has changed.
  """
  path = pathlib.Path(directory, "bundle.json")
  if not path.is_file():
    raise ValueError(f"{directory}: no bundle here (bundle.json is missing)")
  try:
    description = json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{path}: not JSON ({error})") from None
  if description.get("format") != _FORMAT:
    raise ValueError(f"{path}: wanted format {_FORMAT}, found {description.get('format')}")
  for role, wanted in description["parts"].items():
    part = pathlib.Path(directory, role)
    for name in ("model.json", "weights.safetensors"):
      if not (part / name).is_file():
        raise ValueError(f"{directory}: part {role} is incomplete ({name} is missing)")
    found = checkpointing.fingerprint(part)
    if found != wanted:
      raise ValueError(f"{part}: has fingerprint {found}, bundle.json wants {wanted}")
  name = description["text_model"]
  if name and not pathlib.Path(directory, name).is_file():
    raise ValueError(f"{directory}: {name} is missing")
  return {**description, "text_model": str(pathlib.Path(directory, name)) if name else ""}
