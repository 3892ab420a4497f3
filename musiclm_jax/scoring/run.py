"""The job that scores systems by their audio files, beside anchors."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator

import soxr

from musiclm_jax import storage
from musiclm_jax.datasets.clip_files import read_table
from musiclm_jax.datasets.file_table import subset_hash
from musiclm_jax.export import bundle as bundles
from musiclm_jax.ranges import PositiveFloat, PositiveInt, Seed
from musiclm_jax.scoring import anchors, show, table
from musiclm_jax.scoring.clips import Clips, find
from musiclm_jax.scoring.score import Judged, Measure, Score, TooFew, name_of, spec_of
from musiclm_jax.tokenizers import frozen, protocols

SCORES = "scores.json"
_PER_CLIP = ("real", "captions", "bpm", "key")  # needs that are shuffled


@dataclasses.dataclass(frozen=True)
class Material:
  """What systems are judged by; see `score`."""

  reference: str
  real: str
  clip_table: str
  codec: str
  noise_rate: PositiveInt
  seed: Seed


def score(
  *,
  systems: dict[str, str],
  material: Material,
  measures: tuple[Measure, ...],
  seconds: PositiveFloat,
  out_dir: str,
) -> None:
  """Scores of `systems` {name: glob pattern of files} by all measures; writes out_dir/scores.json
  and out_dir/index.html, and prints them.

  Of every file the first `seconds` count. `material.reference` is a glob pattern of real clips of
  other works, `real` one of the real clips that the systems' clips are versions of, by equal names;
  `clip_table` a CSV with the column `file` and any of `caption`, `work`, `bpm` and `key` of the
  clips of these names; each may be "". A measure whose needs are not there is left
  out, which is stated. Beside the systems stand the real clips, halves of the reference against
  each other, the real clips through the `codec` of a bundle, each system with the prompts of other
  works, and noise.

  Raises ValueError, naming the file, where one cannot be read, is too short, or is not in the table
  or among the real clips.
  """
  found = {name: find(pattern, seconds) for name, pattern in systems.items()}
  if not found:
    raise ValueError("systems: wanted {'NAME': 'FOLDER/*.wav'}, found none")
  rows, used = {}, []
  for name, judged in _rows(found, material, seconds, pathlib.Path(out_dir)):
    rows[name] = {}
    for measure in measures:
      if all(getattr(judged, need) is not None for need in measure.needs):
        rows[name][name_of(measure)] = _scored(measure, judged)
        used.append(measure)
    print(
      f"score {name}: {len(rows[name])} measures of {len(judged.clips.paths)} clips",
      file=sys.stderr,
      flush=True,
    )
  for measure in (each for each in measures if each not in used):
    needs = ", ".join(measure.needs)
    print(f"score: left out {name_of(measure)}: it needs {needs}", file=sys.stderr)
  better = {name_of(each): each.better for each in measures if each in used}
  content = {"systems": list(found), "better": better, "rows": rows}
  storage.write_text(pathlib.Path(out_dir, SCORES), json.dumps(content) + "\n")
  storage.write_text(pathlib.Path(out_dir, "index.html"), show.document(content))
  print(show.text(content))


def _rows(
  systems: dict[str, Clips], material: Material, seconds: float, out: pathlib.Path
) -> Iterator[tuple[str, Judged]]:
  """(name, what is judged) of every row, the anchors before and after the systems."""
  facts = read_table(material.clip_table) if material.clip_table else {}
  reference = find(material.reference, seconds) if material.reference else None
  real = find(material.real, seconds) if material.real else None
  first = next(iter(systems.values()))

  def judged(clips: Clips, paired: bool = True) -> Judged:
    return Judged(
      clips,
      table.works(facts, clips.names),
      reference,
      real.named(clips.names) if real and paired else None,
      **table.facts(facts, clips.names),
    )

  found = {name: judged(clips) for name, clips in systems.items()}  # checks all before it is long
  if reference:
    works = table.works(facts, reference.names)
    one, other = (
      reference.named(reference.names[i] for i in half)
      for half in anchors.halves(works, material.seed)
    )
    yield anchors.HALVES, Judged(one, table.works(facts, one.names), other)
  if real:
    own = real.named(first.names)
    yield anchors.REAL, judged(own, paired=False)
    if material.codec:
      codec = frozen.load(
        str(pathlib.Path(bundles.find(material.codec), "soundstream")), protocols.Codec
      )
      made = anchors.round_trip(own, out / "clips" / "round_trip", codec)
      yield anchors.ROUND_TRIP, judged(made)
  for name, each in found.items():
    yield name, each
    if any(getattr(each, need) is not None for need in _PER_CLIP):
      yield f"{name}, {anchors.SHUFFLED}", _shuffled(each)
  if real:
    folder = out / "clips" / "noise"
    yield anchors.NOISE, judged(anchors.noise(own, folder, material.noise_rate, material.seed))


def _shuffled(judged: Judged) -> Judged:
  """The clips judged by what belongs to clips of other works."""
  order = anchors.rotated(judged.works)

  def moved(values):
    return None if values is None else tuple(values[i] for i in order)

  real = judged.real and dataclasses.replace(judged.real, paths=moved(judged.real.paths))
  others = {name: moved(getattr(judged, name)) for name in table.FACTS}
  return dataclasses.replace(judged, reference=None, real=real, **others)


def _scored(measure: Measure, judged: Judged) -> dict:
  """The row of scores.json of one measure: its value, or why there is none."""
  spec = spec_of(measure) | _spec(measure, judged)
  try:
    found = measure(judged)
  except TooFew as error:
    return {"too_few": str(error), "spec": spec}
  return {
    "value": found.value,
    "interval": found.interval,
    "spec": spec,
    "works": list(judged.works),
    **_draws(found),
  }


def _draws(found: Score) -> dict:
  """What a paired test needs, as JSON."""
  arrays = {name: getattr(found, name) for name in ("values", "weights", "draws")}
  return {name: x.tolist() for name, x in arrays.items() if x is not None}


def _spec(measure: Measure, judged: Judged) -> dict:
  """What the value depends on besides the measure's settings and the clips themselves."""
  spec = {
    "clips": len(judged.clips.paths),
    "subset": subset_hash(judged.works),
    "seconds": judged.clips.seconds,
    "channels": "mean",
    "resampler": f"soxr {soxr.__version__} HQ",
  }
  for need in measure.needs:
    value = getattr(judged, need)
    if isinstance(value, Clips):
      spec |= {need: value.fingerprint, f"{need}_clips": len(value.paths)}
    else:
      spec[need] = storage.digest(json.dumps(value))
  return spec
