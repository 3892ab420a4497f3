"""A bundle: one self-describing directory with everything that generation needs.

bundle.json has the stages in their order and how each is sampled, what generation must know of the
sources that condition them, the fingerprints of all parts, the file of the text model, and what
words of a prompt mean; each part is a folder of model.json and weights.safetensors. No path of the
machine that made it is kept.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import sys

from musiclm_jax import old_names, part_files, storage
from musiclm_jax.ranges import PositiveInt
from musiclm_jax.text import file_name
from musiclm_jax.tokenizers import protocols

FORMAT = 4  # of bundle.json; those of older formats were never published

# Wheels carry the released bundles in the package, an editable install leaves them beside it.
_INSTALLED = pathlib.Path(__file__).parent.parent / "models"
RELEASED = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parent.parent / "models"

# Which part is a maker of a source's tokens, by the source and the key of its manifest entry.
MAKERS = {
  ("acoustic", "encoder"): "soundstream",
  ("semantic", "encoder"): "w2v_bert",
  ("semantic", "quantizer"): "kmeans",
  ("w2v_bert", "encoder"): "w2v_bert",
  ("mulan", "encoder"): "mulan",
  ("melody", "encoder"): "melody",
  ("melody", "quantizer"): "melody_rvq",
  ("melody_embedding", "encoder"): "melody",
}
_WINDOWS = ("window_seconds", "hop_seconds")  # of a source's manifest entry, for generation


@dataclasses.dataclass(frozen=True)
class Text:
  """How prompts are read: by the text model that the text tower was trained with, as
  `text.Tokenizer` takes it, at most `length` tokens; and by `words`, tables of what words mean in
  the terms of the stages' labels (`lm.prompt_words`).
  """

  model: str
  length: PositiveInt
  words: tuple[dict[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class _Part:
  """A part to export: its directory, module, provenance and fingerprint."""

  directory: str
  module: object
  provenance: dict
  fingerprint: str


def export(
  *,
  output_dir: str,
  stages: tuple[str, ...],
  tokenizers: dict[str, str],
  text: Text,
  samplings: tuple,
  sample_rate: PositiveInt,
  to: str,
) -> None:
  """Writes a bundle, whole or not at all.

  `stages` are the model directories of the token models in the order in which they run;
  `tokenizers` maps a role (soundstream, mulan, mulan_rvq, and those that only prompts of audio
  need) to its model directory; `samplings` are dataclasses, one for each stage, whose `stage` is
  its name and whose other fields are its default settings. Raises ValueError where a part is not
  trained to its end or cannot do what its role asks, two parts do not belong together, a stage has
  no sampling settings, the text model is not that of the text tower, or the codec is not of
  sample_rate Hz.
  """
  if to != "bundle":
    raise ValueError(f"export: wanted --to bundle, found --to {to}")
  text_model = file_name(text.model)
  named = _stages(stages)
  parts = _tokenizers(tokenizers, named) | named
  if "soundstream" in parts and (rate := parts["soundstream"].module.sample_rate) != sample_rate:
    directory = parts["soundstream"].directory
    raise ValueError(f"{directory}: is of {rate} Hz, SAMPLE_RATE is {sample_rate}")
  if "mulan" in parts:
    _check_text(text, parts["mulan"])
  _check_makers(parts)
  description = {
    "format": FORMAT,
    "sample_rate": sample_rate,
    "stages": list(named),
    "sampling": _sampling(samplings, named),
    "sources": _sources(named),
    "text_model": text_model,
    "text_length": text.length,
    "words": text.words,
    "parts": {role: part.fingerprint for role, part in parts.items()},
  }
  _write(output_dir, description, parts, text.model if text_model else "")
  print(f"{output_dir}: {len(parts)} parts", file=sys.stderr)


def _read(directory: str) -> _Part:
  module, _, provenance = part_files.read_part(directory)
  return _Part(directory, module, provenance, part_files.fingerprint(directory))


def _stages(directories: tuple[str, ...]) -> dict[str, _Part]:
  """The stages by their own names. Raises ValueError where two have one name."""
  named = {}
  for directory in directories:
    part = _read(directory)
    protocols.check_kind(part.module, protocols.StageModel, directory)
    name = part.module.stage.name
    if name in named:
      raise ValueError(f"{directory}: is stage {name}, as {named[name].directory} is")
    named[name] = part
  return named


def _tokenizers(directories: dict[str, str], stages: dict[str, _Part]) -> dict[str, _Part]:
  """The other parts by their roles."""
  parts = {}
  for role, directory in directories.items():
    parts[role] = _read(directory)
    protocols.check_kind(parts[role].module, protocols.ROLES.get(role, protocols.Part), directory)
    if role in stages:
      raise ValueError(f"{stages[role].directory}: is a stage of the name {role}, which is a role")
  return parts


def _makers(provenance: dict) -> dict[str, str]:
  """{role: fingerprint} of all parts that a part's training data were made with."""
  makers = {
    MAKERS.get((source, key), f"{key} of {source}"): entry[key]
    for source, entry in provenance["sources"].items()
    for key in ("encoder", "quantizer")
    if key in entry
  }
  return makers | provenance["parts"]


def _check_makers(parts: dict[str, _Part]) -> None:
  """All parts must have been trained on tokens of the same makers, and of those in the bundle."""
  known = {role: (part.fingerprint, f"{part.directory} is") for role, part in parts.items()}
  for part in parts.values():
    for role, wanted in _makers(part.provenance).items():
      found, where = known.setdefault(role, (wanted, f"{part.directory} was on those of"))
      if found != wanted:
        raise ValueError(
          f"{part.directory}: was trained on tokens of {role} {wanted}, {where} {found}"
        )


def _check_text(text: Text, mulan: _Part) -> None:
  """The text model must be that of the training, and TEXT_LENGTH no more than the tower reads."""
  wanted = mulan.provenance["parts"].get("text_model", "")
  found = part_files.fingerprint(text.model) if text.model else ""
  if found != wanted:
    found = f"{text.model or 'bytes'} {found}".strip()
    wanted = f"text model {wanted}" if wanted else "bytes"
    raise ValueError(f"{mulan.directory}: was trained with {wanted}, TEXT_MODEL is {found}")
  most = mulan.module.max_tokens
  if text.length > most:
    raise ValueError(
      f"{mulan.directory}: reads at most {most} tokens, TEXT_LENGTH is {text.length}"
    )


def _sampling(samplings: tuple, stages: dict[str, _Part]) -> dict[str, dict]:
  """{stage: its settings} of the stages."""
  settings = {sampling.stage: dataclasses.asdict(sampling) for sampling in samplings}
  for name, part in stages.items():
    if name not in settings:
      raise ValueError(f"{part.directory}: stage {name} has no sampling settings")
  return {name: {k: v for k, v in settings[name].items() if k != "stage"} for name in stages}


def _sources(stages: dict[str, _Part]) -> dict[str, dict]:
  """{source: its window and hop in seconds} of the sources that were made in windows."""
  sources, of = {}, {}
  for part in stages.values():
    for name, entry in part.provenance["sources"].items():
      if not entry.get("window_seconds"):
        continue
      windows = {key: entry[key] for key in _WINDOWS if key in entry}
      if sources.setdefault(name, windows) != windows:
        raise ValueError(
          f"{part.directory}: was trained on {name} in windows of {windows}, {of[name]} on"
          f" {sources[name]}"
        )
      of.setdefault(name, part.directory)
  return sources


def _write(output_dir: str, description: dict, parts: dict[str, _Part], text_model: str) -> None:
  """Makes the directory; an existing bundle is replaced."""
  out = pathlib.Path(output_dir).resolve()
  partial = out.with_name(out.name + ".partial")
  shutil.rmtree(partial, ignore_errors=True)
  for role, part in parts.items():
    (partial / role).mkdir(parents=True)
    for name in (part_files.DESCRIPTION, part_files.WEIGHTS):
      shutil.copy(pathlib.Path(part.directory, name), partial / role / name)
  if text_model:
    shutil.copy(text_model, partial / description["text_model"])
  storage.write_text(partial / "bundle.json", json.dumps(description, indent=1) + "\n")
  if out.exists():
    if not (out / "bundle.json").is_file():
      raise ValueError(f"{output_dir}: exists and is no bundle; choose another directory")
    shutil.rmtree(out)
  os.replace(partial, out)


def find(bundle: str) -> str:
  """The directory of a bundle, which is given by its path or, if released, by its name."""
  named = pathlib.Path(RELEASED, bundle)
  here = pathlib.Path(bundle, "bundle.json").is_file()
  return str(named) if not here and (named / "bundle.json").is_file() else bundle


def load_description(directory: str) -> dict:
  """bundle.json, with the fingerprint of every part checked; text_model is a path, "" for bytes.

  Raises ValueError, naming the part, where the directory is no bundle, is of another format, or a
  part is missing or has changed.
  """
  path = pathlib.Path(directory, "bundle.json")
  if not path.is_file():
    raise ValueError(f"{directory}: no bundle here (bundle.json is missing)")
  try:
    description = json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{path}: not JSON ({error})") from None
  old_names.check_format(description.get("format"), FORMAT, FORMAT, str(path))
  for role, wanted in description["parts"].items():
    part = pathlib.Path(directory, role)
    for name in (part_files.DESCRIPTION, part_files.WEIGHTS):
      if not (part / name).is_file():
        raise ValueError(f"{directory}: part {role} is incomplete ({name} is missing)")
    found = part_files.fingerprint(part)
    if found != wanted:
      raise ValueError(f"{part}: has fingerprint {found}, bundle.json wants {wanted}")
  name = description["text_model"]
  if name and not pathlib.Path(directory, name).is_file():
    raise ValueError(f"{directory}: {name} is missing")
  return {**description, "text_model": str(pathlib.Path(directory, name)) if name else ""}
