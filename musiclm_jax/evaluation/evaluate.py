"""Measures finished runs on works that no training has seen, section by section."""

import inspect
import json
import pathlib
import sys
import time

from musiclm_jax import descriptions, storage
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.evaluation.section import Section

_JUDGES = ("musiclm_jax.evaluation.", "musiclm_jax.embedders.")  # their sources are part of a key


def evaluate(
  *,
  runs_dir: str,
  data_dir: str,
  tokens_dir: str,
  bundle: str,
  split: str,
  out_dir: str,
  sections: tuple[Section, ...],
) -> dict[str, dict]:
  """{name: result} of all sections, which it also writes to out_dir/metrics.json.

  A result is what the section gave, with "section" (the path of its class, by which the report
  finds it), "key" and "took_seconds". It is kept in out_dir/metrics/NAME.json, and taken from there
  as long as the section's settings, its source, that of the evaluation's modules that it uses, and
  the content of its parts and of the data are the same, wherever they are.

  Raises ValueError, naming the path, where a run is missing or not finished, where the shards have
  no held-out split, or where two sections have one name.
  """
  names = [section.name for section in sections]
  if len(set(names)) < len(names):
    raise ValueError(f"sections: each name may occur once, found {', '.join(names)}")
  held_out = HeldOut(runs_dir, data_dir, tokens_dir, bundle, split)
  # all keys first, so that a missing part is reported before anything long begins
  keys = [_key(section, held_out) for section in sections]
  results = {}
  for section, key in zip(sections, keys):
    path = pathlib.Path(out_dir, "metrics", f"{section.name}.json")
    result = _kept(path, key, out_dir)
    if result is None:
      began = time.perf_counter()
      cls = type(section)
      result = {"section": f"{cls.__module__}.{cls.__qualname__}", "key": key}
      result |= section(held_out, out_dir)
      result["took_seconds"] = round(time.perf_counter() - began, 1)
      storage.write_text(path, json.dumps(result, indent=1) + "\n")
      print(f"evaluate {section.name}: {_summary(result)}", file=sys.stderr, flush=True)
    results[section.name] = result
  text = json.dumps(results, indent=1) + "\n"
  path = pathlib.Path(out_dir, "metrics.json")
  if not path.exists() or path.read_text() != text:
    storage.write_text(path, text)
  return results


def _key(section: Section, held_out: HeldOut) -> str:
  """A digest of everything that the result of the section depends on."""
  parts = {name: held_out.fingerprint(name) for name in section.parts}
  sources = _sources(sys.modules[type(section).__module__], {})
  settings = descriptions.describe(section)
  identity = json.dumps([settings, parts, held_out.data_fingerprint, *sorted(sources.values())])
  return storage.digest(identity)


def _sources(module, found: dict[str, str]) -> dict[str, str]:
  """{name: source} of a module and of all modules of this package that it imports from."""
  if module.__name__ not in found:
    found[module.__name__] = pathlib.Path(inspect.getfile(module)).read_text()
    for value in vars(module).values():
      name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", "")
      if isinstance(name, str) and name.startswith(_JUDGES):
        _sources(sys.modules[name], found)
  return found


def _kept(path: pathlib.Path, key: str, out_dir: str) -> dict | None:
  """The earlier result, if it has the same key and all its files still exist."""
  if not path.is_file():
    return None
  result = json.loads(path.read_text())
  files = (pathlib.Path(out_dir, name) for name in result.get("files", []))
  return result if result["key"] == key and all(file.is_file() for file in files) else None


def _summary(result: dict) -> str:
  """One line: how many targets are met, which are missed, and the seconds it took."""
  targets = {name: f for name, f in result["figures"].items() if f["met"] is not None}
  missed = [
    f"{name} {f['value']:.3g} ({f['wanted']})" for name, f in targets.items() if not f["met"]
  ]
  line = f"{len(targets) - len(missed)} of {len(targets)} targets met"
  return f"{line}{', missed: ' if missed else ''}{', '.join(missed)}; {result['took_seconds']} s"
