"""MODEL_CARD.md: what a bundle is made of, how it was trained and what it does, with its logs.

Everything but the text that stands first is read from the files of the bundle, of the trainings, of
the token shards and of the evaluation, so that a card cannot say what they do not.
"""

import collections
import json
import math
import pathlib
import re
import shutil

from safetensors import safe_open

from musiclm_jax import part_files, storage
from musiclm_jax.evaluation import detector, page
from musiclm_jax.evaluation.report import read_results, read_runs
from musiclm_jax.export import bundle as bundles
from musiclm_jax.export.licences import of
from musiclm_jax.licence_terms import OWN, strictest
from musiclm_jax.quiet import quiet

CARD, LOGS, FIGURES = "MODEL_CARD.md", "logs", "metrics.json"
_PARTS = ("part", "model", "values", "MB", "stored in", "steps", "batch", "seed", "hours", "loss")
_FIGURES = ("", "figure", "value", "beside", "wanted", "")


def card(
  *,
  bundle: str,
  runs_dir: str,
  tokens_dir: str,
  out_dir: str,
  about: str,
  hardware: str,
  licence: str,
) -> str:
  """Writes the card of the directory `bundle`, and returns its path.

  It begins with the front matter that model hubs read, whose licence is that of the strictest part
  or, where all were trained here, `licence`; and the Markdown file `about`. Then it lists
  the parts with their trainings in runs_dir (model directories, named as the parts) on `hardware`,
  the data of tokens_dir, the sampling settings, and those figures of the evaluation in out_dir that
  have a target. Beside it are left logs/PART.jsonl, the metrics of every training, metrics.json,
  all figures, and the detector of its music, if it made any. Raises ValueError, naming the path,
  where a file is missing or not what it should be.
  """
  description = bundles.load_description(bundle)
  if not pathlib.Path(about).is_file():
    raise ValueError(f"{about}: no such file")
  runs, results = read_runs(runs_dir), read_results(out_dir)
  missing = [role for role in description["parts"] if role not in runs]
  if missing:
    raise ValueError(f"{runs_dir}: no training of {missing[0]} (metrics.jsonl is missing)")
  sections = (
    _front_matter(bundle, description["parts"], licence),
    pathlib.Path(about).read_text().strip(),
    _parts(bundle, description["parts"], runs_dir, runs, hardware),
    _data(tokens_dir),
    _sampling(description["sampling"]),
    _figures(results, hardware),
  )
  for role in description["parts"]:
    log = "".join(json.dumps(line) + "\n" for line in runs[role])
    storage.write_text(pathlib.Path(bundle, LOGS, f"{role}.jsonl"), log)
  for path in (pathlib.Path(out_dir, name) for name in (FIGURES, detector.FILE)):
    if path.is_file():  # an evaluation that generated no music trained no detector
      shutil.copy(path, pathlib.Path(bundle, path.name))
  target = pathlib.Path(bundle, CARD)
  storage.write_text(target, "\n\n".join(sections) + "\n")
  return str(target)


def _front_matter(bundle: str, roles: dict, licence: str) -> str:
  """The YAML that model hubs read."""
  provenances = (part_files.read_description(str(pathlib.Path(bundle, r)))[1] for r in roles)
  found = strictest(name for each in provenances for name in of(each))
  licence = licence if found == OWN else found
  lines = ("library_name: musiclm_jax", "pipeline_tag: text-to-audio", "tags: [music, jax, flax]")
  return "\n".join(("---", f"license: {licence.lower()}", *lines, "---"))


def _parts(bundle: str, roles: dict, runs_dir: str, runs: dict, hardware: str) -> str:
  rows = []
  for role in roles:
    module, _ = part_files.read_description(str(pathlib.Path(bundle, role)))
    weights = pathlib.Path(bundle, role, part_files.WEIGHTS)
    values, stored = _stored(weights)
    train = [line for line in runs[role] if line["split"] == "train"]
    held_out = [line for line in runs[role] if line["split"] != "train"]
    last = (held_out or train)[-1]
    loss = page.amount(last["loss"])
    loss += f" (chance {page.amount(last['chance'])})" if "chance" in last else ""
    batch, seed = (_macro(pathlib.Path(runs_dir, role), name) for name in ("BATCH_SIZE", "SEED"))
    hours = sum(line["seconds"] for line in train) / 3600
    sizes = (f"{values:,}", f"{weights.stat().st_size / 1e6:.2f}", stored)
    steps = (f"{train[-1]['step']:,}", batch, seed, f"{hours:.2f}", loss)
    rows.append((role, type(module).__name__, *sizes, *steps))
  note = (
    f"Trained on {hardware}. The loss is the last held-out one where the training measures it; "
    f"all metrics are in `{LOGS}/`."
  )
  return f"## Parts\n\n{note}\n\n{_table(_PARTS, rows)}"


def _stored(weights: pathlib.Path) -> tuple[int, str]:
  """How many values a file of weights holds, and in which type most of them are."""
  counts: collections.Counter = collections.Counter()
  with safe_open(weights, framework="numpy") as file:
    for name in file.keys():  # noqa: SIM118 - it has no iterator
      if not name.endswith(part_files.STEP):
        each = file.get_slice(name)
        counts[each.get_dtype()] += math.prod(each.get_shape())
  return counts.total(), counts.most_common(1)[0][0]


def _macro(model_dir: pathlib.Path, name: str) -> str:
  """A macro of the training's config.gin, as written. Raises ValueError where it is missing."""
  path = model_dir / "config.gin"
  found = re.search(rf"^{name} = (.*)$", path.read_text() if path.is_file() else "", re.MULTILINE)
  if not found:
    raise ValueError(f"{path}: no {name} here")
  return found[1]


def _data(tokens_dir: str) -> str:
  """Clips and hours of every split of the token shards, by the longest of their sources."""
  path = pathlib.Path(tokens_dir, "manifest.json")
  if not path.is_file():
    raise ValueError(f"{tokens_dir}: no token shards here (manifest.json is missing)")
  manifest = json.loads(path.read_text())
  rates = {n: e["frame_rate"] for n, e in manifest["sources"].items() if e.get("frame_rate")}
  name = min(rates, key=lambda each: (manifest["sources"][each]["width"], -rates[each]))
  rows = []
  with quiet():  # TensorFlow is loaded when the first record is read
    from musiclm_jax.datasets.tfds_reader import Records

    for split, clips in manifest["records"].items():
      seconds = sum(len(row) for row in Records(tokens_dir, split).column(name)) / rates[name]
      rows.append((split, f"{clips:,}", f"{seconds / 3600:.2f}"))
  return f"## Data\n\n{_table(('split', 'clips', 'hours'), rows)}"


def _sampling(settings: dict[str, dict]) -> str:
  names = list(next(iter(settings.values())))
  rows = [(stage, *(str(each[name]) for name in names)) for stage, each in settings.items()]
  head = ("stage", *(name.replace("_", " ") for name in names))
  return f"## How it is sampled, if nothing else is asked for\n\n{_table(head, rows)}"


def _figures(results: dict, hardware: str) -> str:
  rows = []
  for section, result in results.items():
    for name, each in result["figures"].items():
      if each["met"] is None:
        continue
      beside = "" if each["baseline"] is None else page.amount(each["baseline"])
      value = page.interval(each["value"], each["interval"])
      words = (name.replace("_", " "), value, f"{beside} {each['baseline_is']}".strip())
      rows.append((section, *words, each["wanted"], "met" if each["met"] else "**missed**"))
  met = sum(row[-1] == "met" for row in rows)
  note = (
    f"{met} of {len(rows)} targets met, on works that no training saw; measured by "
    f"`musiclm evaluate` on {hardware}. In brackets: 95 % intervals by bootstrap over works. "
    f"All figures are in `{FIGURES}`."
  )
  return f"## Figures\n\n{note}\n\n{_table(_FIGURES, rows)}"


def _table(head, rows) -> str:
  lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
  return "\n".join(lines)
