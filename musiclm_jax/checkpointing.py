"""What a run leaves on disk: the model's description and its final weights.

A model directory holds model.json (the module, rebuilt from its fields, and where its data came
from), config.gin (for people), what training/checkpoints.py saves and, when training has ended,
weights.safetensors. A directory with both model.json and weights.safetensors is a part: everything
that runs the model loads it from there.
"""

import dataclasses
import difflib
import hashlib
import importlib
import json
import os
import pathlib
import sys

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

# Fields of modules that change no result but by rounding.
_HOW = ("attention", "query_block", "remat", "unroll")
_PACKAGE = __name__.split(".")[0]


def describe(value):
  """JSON for a module, dataclass, tuple or plain value; `build` makes the value from it again."""
  if isinstance(value, nn.Module) or dataclasses.is_dataclass(value):
    cls = type(value)
    linen = ("parent", "name") if isinstance(value, nn.Module) else ()
    names = [f.name for f in dataclasses.fields(value) if f.name not in linen]
    fields = {name: describe(getattr(value, name)) for name in names}
    return {"class": f"{cls.__module__}.{cls.__qualname__}", **fields}
  if isinstance(value, tuple | list):
    return [describe(v) for v in value]
  return value


def build(description):
  """The value that `describe` described. Raises ValueError for a class outside this package."""
  if isinstance(description, list):
    return tuple(build(d) for d in description)
  if not isinstance(description, dict):
    return description
  fields = {name: build(d) for name, d in description.items() if name != "class"}
  module, _, name = description["class"].rpartition(".")
  if module.split(".")[0] != _PACKAGE:
    raise ValueError(f"model.json names {description['class']}, which is not of {_PACKAGE}")
  cls = getattr(importlib.import_module(module), name, None)
  if cls is None:
    raise ValueError(f"model.json names {description['class']}, which this version does not have")
  return cls(**fields)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file whole or not at all."""
  write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file whole or not at all."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".partial")
  partial.write_bytes(content)
  os.replace(partial, path)


def describe_run(model_dir: str, module: nn.Module, provenance: dict) -> None:
  """Writes model.json; one that is there stays, and must be the same but for how it is computed.

  `provenance` says where the training data came from (fingerprints of tokenizers). Raises
  ValueError with the differing lines where the directory belongs to another configuration.
  """
  text = json.dumps({"module": describe(module), "provenance": provenance}, indent=1) + "\n"
  path = pathlib.Path(model_dir, "model.json")
  if not path.exists():
    write_text(path, text)
  elif _what(_description(path)) != _what(json.loads(text)):
    lines = difflib.unified_diff(path.read_text().split("\n"), text.split("\n"), n=0, lineterm="")
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    raise ValueError(
      f"{path}: another configuration was trained here; choose another MODEL_DIR. "
      f"Differences (- there, + now): {'; '.join(' '.join(c.split()) for c in changed[:8])}"
    )


def copy_description(directory: str, out: str) -> None:
  """Gives the directory `out` the model.json of another.

  Raises ValueError where there is none, or `out` has weights or another model already.
  """
  source, target = (pathlib.Path(path, "model.json") for path in (directory, out))
  if not source.is_file():
    raise ValueError(f"{directory}: model.json is missing; no model was trained here")
  another = target.exists() and target.read_text() != source.read_text()
  if another or pathlib.Path(out, "weights.safetensors").exists():
    raise ValueError(f"{out}: a model is here already; choose another directory")
  write_text(target, source.read_text())


def _description(path: pathlib.Path):
  """A model.json. Raises ValueError where it is none."""
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{path}: not a model description ({error})") from None


def _what(description):
  """A description without what says how a module computes."""
  if isinstance(description, dict):
    return {name: _what(value) for name, value in description.items() if name not in _HOW}
  return [_what(each) for each in description] if isinstance(description, list) else description


def difference(wanted: dict, found: dict, wanted_by: str, found_in: str) -> str:
  """One line that says how two {name: shape} differ, at most five names of each kind."""

  def some(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

  missing = sorted(set(wanted) - set(found))
  extra = sorted(set(found) - set(wanted))
  other = [
    f"{n} {found[n]} instead of {wanted[n]}"
    for n in sorted(set(wanted) & set(found))
    if wanted[n] != found[n]
  ]
  parts = [
    f"{found_in} lacks {some(missing)}" if missing else "",
    f"{found_in} has {some(extra)}, which {wanted_by} has not" if extra else "",
    f"{found_in} has {some(other)}" if other else "",
  ]
  return "; ".join(p for p in parts if p)


def write_weights(directory: str, variables) -> None:
  """Writes the variables (a dict of collections) as weights.safetensors, whole or not at all."""
  from safetensors import SafetensorError
  from safetensors.numpy import save_file

  path = pathlib.Path(directory, "weights.safetensors")
  flat = traverse_util.flatten_dict(variables, sep="/")
  partial = path.with_name(path.name + ".partial")
  arrays = {name: np.asarray(jax.device_get(value), order="C") for name, value in flat.items()}
  try:
    save_file(arrays, partial)
  except SafetensorError as error:
    raise OSError(f"{path}: {error}") from None
  os.replace(partial, path)


def read_weights(directory: str):
  """The variables in weights.safetensors as a tree of numpy arrays."""
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  path = pathlib.Path(directory, "weights.safetensors")
  try:
    return traverse_util.unflatten_dict(load_file(path), sep="/")
  except SafetensorError as error:
    raise ValueError(f"{path}: not a whole weights file ({error})") from None


def read_part(directory: str) -> tuple[nn.Module, dict, dict]:
  """(module, variables, provenance) of a part.

  Raises ValueError where a file is missing, or the weights do not fit the module exactly.
  """
  for name, reason in (
    ("model.json", "no model was trained here"),
    ("weights.safetensors", "its training has not ended: run the same command again"),
  ):
    if not pathlib.Path(directory, name).is_file():
      raise ValueError(f"{directory}: {name} is missing; {reason}")
  description = _description(pathlib.Path(directory, "model.json"))
  try:
    module = build(description["module"])
  except (KeyError, TypeError) as error:
    raise ValueError(f"{directory}/model.json: not a model description ({error})") from None
  return module, read_weights(directory), description["provenance"]


def load_initial_weights(variables: dict, initial: dict[str, str]) -> dict:
  """`variables` with the values of parts: `initial` is {path among the parameters: directory}.

  The path "" stands for the whole model, codebooks and statistics too. Says what it took. Raises
  ValueError with the differences where a part has not exactly what stands at its path.
  """
  flat = traverse_util.flatten_dict(variables, sep="/")
  for path, directory in initial.items():
    _, part, _ = read_part(directory)
    found = {
      "/".join(filter(None, (collection, path, name))): value
      for collection, tree in part.items()
      for name, value in traverse_util.flatten_dict(tree, sep="/").items()
    }
    prefix = f"params/{path}/" if path else ""
    wanted = {name: x.shape for name, x in flat.items() if name.startswith(prefix)}
    shapes = {name: x.shape for name, x in found.items()}
    if shapes != wanted:
      raise ValueError(f"{directory}: {difference(wanted, shapes, 'this model', 'the part')}")
    flat |= found
    print(f"{path or 'the model'} starts from {directory}: {len(found)} arrays", file=sys.stderr)
  return traverse_util.unflatten_dict(flat, sep="/")


def _part_files(directory: str) -> list[pathlib.Path]:
  return [pathlib.Path(directory, name) for name in ("model.json", "weights.safetensors")]


def origins(initial: dict[str, str]) -> dict:
  """What model.json says of the parts that a training starts from, if it starts from any."""
  entries = {}
  for path, directory in initial.items():
    _, _, provenance = read_part(directory)
    entries[path] = {"part": fingerprint(directory)}
    if "licence" in provenance:
      entries[path]["licence"] = provenance["licence"]
  return {"initial": entries} if entries else {}


def digest(text: str) -> str:
  """Twelve hexadecimal digits that name a text."""
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint(path: str) -> str:
  """Twelve hexadecimal digits that name a file, or the model.json and weights of a part."""
  files = [path] if pathlib.Path(path).is_file() else _part_files(path)
  digest = hashlib.sha256()
  for name in files:
    with open(name, "rb") as file:
      while block := file.read(1 << 20):
        digest.update(block)
  return digest.hexdigest()[:12]
