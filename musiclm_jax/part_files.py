"""The files of a part: model.json, its description, and weights.safetensors, its values.

A model directory holds model.json (the module, rebuilt from its fields, and its provenance: what
its training data were made with), config.gin (for people), what training/checkpoints.py saves and,
when training has ended, weights.safetensors. A directory with both model.json and
weights.safetensors is a part: everything that runs the model loads it from there.
"""

import difflib
import json
import os
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from musiclm_jax import storage
from musiclm_jax.descriptions import build, describe, difference, without_computation
from musiclm_jax.old_names import FORMAT, check_format, renamed_description, renamed_parameters

DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"
STEP = ".step"  # ends the path of an array of steps


def describe_run(model_dir: str, module: nn.Module, provenance: dict) -> None:
  """Writes model.json; an existing one stays, and must be the same but for how it is computed.

  `provenance` is {"sources": manifest entries, "parts": {role: fingerprint}} of what the training
  data were made with. Raises ValueError with the differing lines where the directory belongs to
  another configuration.
  """
  description = {"format": FORMAT, "module": describe(module), "provenance": provenance}
  text = json.dumps(description, indent=1) + "\n"
  path = pathlib.Path(model_dir, DESCRIPTION)
  if not path.exists():
    storage.write_text(path, text)
    return
  found, _ = _description(path)
  if without_computation(found) != without_computation(json.loads(text)):
    before = (json.dumps(found, indent=1) + "\n").split("\n")
    lines = difflib.unified_diff(before, text.split("\n"), n=0, lineterm="")
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    raise ValueError(
      f"{path}: another configuration was trained here; choose another MODEL_DIR. "
      f"Differences (- before, + now): {'; '.join(' '.join(c.split()) for c in changed[:8])}"
    )


def copy_description(directory: str, out: str) -> int:
  """Writes the model.json of one directory to the directory `out`, under the names of now.

  Gives the format that it had. Raises ValueError where it is missing, or `out` has weights or
  another model already.
  """
  source, target = (pathlib.Path(path, DESCRIPTION) for path in (directory, out))
  if not source.is_file():
    raise ValueError(f"{directory}: {DESCRIPTION} is missing; no model was trained here")
  description, written = _description(source)
  text = json.dumps(description, indent=1) + "\n"
  another = target.exists() and target.read_text() != text
  if another or pathlib.Path(out, WEIGHTS).exists():
    raise ValueError(f"{out}: a model is here already; choose another directory")
  storage.write_text(target, text)
  return written


def _description(path: pathlib.Path) -> tuple[dict, int]:
  """A model.json under the names of now, and the format in which it was written.

  Raises ValueError where it is not JSON, or of a format that this version cannot read.
  """
  try:
    description = json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{path}: not a model description ({error})") from None
  if not isinstance(description, dict) or not {"module", "provenance"} <= set(description):
    raise ValueError(f"{path}: not a model description (wanted a module and its provenance)")
  written = description.get("format")
  check_format(written, 1, FORMAT, str(path))
  module = renamed_description(description["module"], written)
  return description | {"format": FORMAT, "module": module}, written


def write_weights(
  directory: str, variables, *, dtype: str = "float32", written: int = FORMAT
) -> None:
  """Writes the variables (a dict of collections) as weights.safetensors, whole or not at all.

  Real numbers are written in `dtype`; the paths are those of the format `written`. In int8 the
  arrays of two axes or more are, each row of the last axis in steps of its largest number / 127,
  which is an array of its own, PATH + ".step"; the others are float32.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import save_file

  path = pathlib.Path(directory, WEIGHTS)
  flat = renamed_parameters(traverse_util.flatten_dict(variables, sep="/"), written)
  partial = path.with_name(path.name + ".partial")
  try:
    save_file(_stored(flat, dtype), partial)
  except SafetensorError as error:  # a full disk
    raise OSError(f"{path}: {error}") from None
  partial.chmod(0o666 & ~_umask())  # safetensors lets nobody else read it
  os.replace(partial, path)


def _umask() -> int:
  """The permissions that new files of this process lack; it can be read only by setting it."""
  mask = os.umask(0o077)
  os.umask(mask)
  return mask


def _stored(flat: dict, dtype: str) -> dict[str, np.ndarray]:
  """The arrays of a file by their paths."""
  arrays = {}
  for name, value in flat.items():
    arrays[name] = array = np.asarray(jax.device_get(value), order="C")
    if not jnp.issubdtype(array.dtype, jnp.floating):
      continue
    if dtype != "int8":
      arrays[name] = array.astype(dtype)
    elif array.ndim > 1:
      array = array.astype(np.float32)
      step = np.maximum(np.abs(array).max(axis=-1, keepdims=True), 1e-30) / np.float32(127)
      arrays |= {name: np.rint(array / step).astype(np.int8), name + STEP: step}
    else:
      arrays[name] = array.astype(np.float32)
  return arrays


def _restored(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """What `_stored` stored, real numbers in float32."""
  steps = {name: arrays.pop(name) for name in list(arrays) if name.endswith(STEP)}
  for name, array in arrays.items():
    if name + STEP in steps:
      arrays[name] = array * steps[name + STEP]
    elif jnp.issubdtype(array.dtype, jnp.floating):
      arrays[name] = array.astype(np.float32)
  return arrays


def read_weights(directory: str, written: int = FORMAT) -> dict:
  """The variables in weights.safetensors as a tree of NumPy arrays, under the names of now.

  Real numbers are float32, in whichever dtype they are stored; `written` is the format of the
  part's model.json. Raises ValueError for a file cut short.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  path = pathlib.Path(directory, WEIGHTS)
  try:
    arrays = load_file(path)
  except SafetensorError as error:
    raise ValueError(f"{path}: not a whole weights file ({error})") from None
  arrays = renamed_parameters(_restored(arrays), written)
  return traverse_util.unflatten_dict(arrays, sep="/")


def read_part(directory: str) -> tuple[nn.Module, dict, dict]:
  """(module, variables, provenance) of a part.

  Raises ValueError, naming the directory, where a file is missing or of a newer format, or the
  module cannot be rebuilt.
  """
  module, provenance, written = _read_description(directory)
  return module, read_weights(directory, written), provenance


def read_description(directory: str) -> tuple[nn.Module, dict]:
  """(module, provenance) of a part, without reading its weights; raises as `read_part`."""
  return _read_description(directory)[:2]


def _read_description(directory: str) -> tuple[nn.Module, dict, int]:
  for name, reason in (
    (DESCRIPTION, "no model was trained here"),
    (WEIGHTS, "its training has not ended: run the same command again"),
  ):
    if not pathlib.Path(directory, name).is_file():
      raise ValueError(f"{directory}: {name} is missing; {reason}")
  path = pathlib.Path(directory, DESCRIPTION)
  description, written = _description(path)
  try:
    module = build(description["module"])
  except (KeyError, TypeError) as error:
    raise ValueError(f"{path}: not a model description ({error})") from None
  return module, description["provenance"], written


def fingerprint(path: str) -> str:
  """Twelve hexadecimal digits that identify a file, or the model.json and weights of a part."""
  if pathlib.Path(path).is_file():
    return storage.fingerprint([path])
  return storage.fingerprint([pathlib.Path(path, name) for name in (DESCRIPTION, WEIGHTS)])


def load_initial_weights(variables: dict, initial: dict[str, str]) -> dict:
  """`variables` with the values of parts: `initial` is {path among the parameters: directory}.

  The path "" is the whole model, codebooks and statistics too. Prints a line for each part. Raises
  ValueError with the differences where a part does not have exactly the arrays at its path.
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


def origins(initial: dict[str, str]) -> dict:
  """The entry of model.json on the parts that a training starts from; {} where it starts fresh."""
  entries = {}
  for path, directory in initial.items():
    _, provenance = read_description(directory)
    entries[path] = {"part": fingerprint(directory)}
    if "licence" in provenance:
      entries[path]["licence"] = provenance["licence"]
  return {"initial": entries} if entries else {}
