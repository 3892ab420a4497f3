"""Everything that is measured of finished runs, on works that no training has seen."""

import hashlib
import inspect
import json
import pathlib
import sys
import time

from musiclm_jax import descriptions, storage
from musiclm_jax.evaluation.held_out import HeldOut


def evaluate(
  *, runs_dir: str, data_dir: str, tokens_dir: str, bundle: str, out_dir: str, sections: tuple
) -> dict:
  """The results of all sections, which it also writes to out_dir/metrics.json.

  `sections` are instances of codec.Codec, semantic.W2vBert, layers.Layers, retrieval.MuLan,
  retrieval.Melody, stages.StageLoss and generated.Generation. The result of each is kept in
  out_dir/metrics/NAME.json and taken from there while its settings, its parts, the data and its
  source file are the same.

  Raises ValueError, naming the path, where a run is missing or not finished, or where the shards
  have no held-out split.
  """
  held_out = HeldOut(runs_dir, data_dir, tokens_dir, bundle)
  # all keys first: what is missing is said before anything long begins
  keys = [_key(section, held_out) for section in sections]
  results = {}
  for section, key in zip(sections, keys):
    path = pathlib.Path(out_dir, "metrics", f"{section.name}.json")
    result = _kept(path, key, out_dir)
    if result is None:
      began = time.perf_counter()
      result = {"key": key, **section(held_out, out_dir)}
      result["took_seconds"] = round(time.perf_counter() - began, 1)
      storage.write_text(path, json.dumps(result, indent=1) + "\n")
      print(f"evaluate {section.name}: {_summary(result)}", file=sys.stderr, flush=True)
    results[section.name] = result
  text = json.dumps(results, indent=1) + "\n"
  path = pathlib.Path(out_dir, "metrics.json")
  if not path.exists() or path.read_text() != text:
    storage.write_text(path, text)
  return results


def _key(section, held_out: HeldOut) -> str:
  """What changes when the section would have another result."""
  parts = {name: held_out.fingerprint(name) for name in section.parts}
  source = pathlib.Path(inspect.getfile(type(section))).read_text()
  settings = descriptions.describe(section)
  identity = json.dumps([settings, parts, held_out.data_fingerprint, source])
  return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _kept(path: pathlib.Path, key: str, out_dir: str) -> dict | None:
  """The result of before, if it is of the same key and the files it names are there."""
  if not path.is_file():
    return None
  result = json.loads(path.read_text())
  files = (pathlib.Path(out_dir, name) for name in result.get("files", []))
  return result if result["key"] == key and all(file.is_file() for file in files) else None


def _summary(result: dict) -> str:
  """One line: targets met, those missed by name, seconds."""
  targets = {name: f for name, f in result["figures"].items() if f["met"] is not None}
  missed = [
    f"{name} {f['value']:.3g} ({f['wanted']})" for name, f in targets.items() if not f["met"]
  ]
  line = f"{len(targets) - len(missed)} of {len(targets)} targets met"
  return f"{line}{', missed: ' if missed else ''}{', '.join(missed)}; {result['took_seconds']} s"
