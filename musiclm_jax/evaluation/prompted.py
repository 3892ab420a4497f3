"""Whether music has what its prompts asked for, by listeners, beside shuffled prompts."""

import collections

import numpy as np

from musiclm_jax.evaluation import adherence, metrics, page, transcriber
from musiclm_jax.evaluation.families import Classifier
from musiclm_jax.evaluation.listeners import Heard

SETS = {"generated": "generated", "real": "real clip", "roundtrip": "codec round trip"}
# {measure: what the mean over prompts is}; own MuLan is not among them, it conditions the music
MEASURES = {
  "family": "mean probability of the prompted instrument family",
  "tempo": "share within 4 % of the prompted tempo, of half or of twice",
  "key": "MIREX score of the key",
  "tonic": "share with the prompted tonic",
  "mode": "share in a major or a minor mode as prompted",
  "in_key": "share of the notes' time in the prompted scale",
  "onset_rate": "rank correlation of prompted bpm and onsets per second",
}
OF_REAL = tuple(name for name in MEASURES if name != "onset_rate")  # a correlation may be 0
_JUDGES = {"real": "real", "roundtrip": "round_trip", "generated": "round_trip"}


def scores(
  clips: list[dict],
  sets: dict[str, np.ndarray],
  heard: dict[str, Heard],
  classifiers: dict[str, Classifier],
  sample_rate: int,
) -> dict[str, dict[str, np.ndarray]]:
  """{measure: {set: scores [prompts, outputs]}} for metrics.matched.

  clips [prompts] are those of the prompts; sets {set: waveforms [outputs, samples]}, `heard` what
  listeners hear in them, `classifiers` those of families.Families.
  """
  families, bpm = [clip["family"] for clip in clips], np.array([clip["bpm"] for clip in clips])
  keys = [adherence.parse_key(clip["key"]) for clip in clips]
  chroma = {kind: transcriber.note_chroma(each.notes) for kind, each in heard.items()}
  found = {kind: adherence.keys(each) for kind, each in chroma.items()}
  return {
    "family": {
      k: classifiers[_JUDGES[k]].scores(each.embeddings, families) for k, each in heard.items()
    },
    "tempo": {
      k: adherence.tempo_agreement(bpm, adherence.tempo(x, sample_rate)) for k, x in sets.items()
    },
    "key": {k: adherence.key_agreement(keys, each) for k, each in found.items()},
    "tonic": {k: adherence.equal(keys, each, 0) for k, each in found.items()},
    "mode": {k: adherence.equal(keys, each, 1) for k, each in found.items()},
    "in_key": {
      k: adherence.share_in_key([clip["key"] for clip in clips], each) for k, each in chroma.items()
    },
    "onset_rate": {
      k: metrics.rank_agreement(bpm, adherence.onset_rate(x, sample_rate)) for k, x in sets.items()
    },
  }


def wanted_names() -> tuple[str, ...]:
  """What a target of `figures` can be of: a measure, its p, and its value over that of real."""
  return (*MEASURES, *(f"{name}_p" for name in MEASURES), *(f"{name}_of_real" for name in OF_REAL))


def figures(scores: dict, tests: dict, works: list[str], wanted: dict[str, str]) -> dict[str, dict]:
  """Figures of generated music, also over those of real clips.

  `scores` {measure: {set: [prompts, outputs]}} and their tests {measure: {set: metrics.matched}};
  intervals are bootstraps over works [prompts]; `wanted` is {one of wanted_names(): comparison}.
  """
  found = {}
  for measure in MEASURES:
    test, real = (tests[measure][kind] for kind in ("generated", "real"))
    own = [np.diagonal(scores[measure][kind]) for kind in ("generated", "real")]
    found[measure] = {
      "value": test["value"],
      "interval": metrics.bootstrap(own[0], works),
      "baseline": test["shuffled"],
      "baseline_is": "shuffled prompts",
    }
    found[f"{measure}_p"] = {"value": test["p"]}
    if measure in OF_REAL:
      found[f"{measure}_of_real"] = {
        "value": test["value"] / max(real["value"], 1e-9),
        "interval": metrics.bootstrap(own[0], works, own[1]),
        "baseline": test["shuffled"] / max(real["value"], 1e-9),
        "baseline_is": "shuffled prompts",
      }
  best = min(tests[measure]["generated"]["p"] for measure in MEASURES)
  found = {f"adherence_{k}": v for k, v in metrics.figures(found, wanted).items()}
  found["adherence_best_p_corrected"] = metrics.figure(
    min(1.0, len(MEASURES) * best), "< 0.05", baseline_is=f"{len(MEASURES)} measures (Bonferroni)"
  )
  return found


def accuracies(
  clips: list[dict], waveforms: np.ndarray, heard: Heard, classifier: Classifier, sample_rate: int
) -> dict[str, dict]:
  """{figure: arguments of metrics.figure}: how often each measure is right on real clips.

  clips and waveforms [clips, samples] are held-out, `classifier` that of real clips.
  """
  works, families = ([clip[name] for clip in clips] for name in ("work", "family"))
  bpm, wanted = [clip["bpm"] for clip in clips], [adherence.parse_key(c["key"]) for c in clips]
  tempi = adherence.tempo_agreement(bpm, adherence.tempo(waveforms, sample_rate))
  keys = adherence.key_agreement(wanted, adherence.keys(transcriber.note_chroma(heard.notes)))
  common = max(collections.Counter(families).values()) / len(families)
  rows = {
    "family_accuracy": (
      classifier.right(heard.embeddings, families),
      common,
      "always the most frequent",
    ),
    "tempo_accuracy": (np.diagonal(tempi), tempi.mean(), "another clip's tempo"),
    "key_score": (np.diagonal(keys), keys.mean(), "another clip's key"),
    "key_exact": (np.diagonal(keys) == 1, (keys == 1).mean(), "another clip's key"),
  }
  return {
    f"{name}_on_real_clips": {
      "value": float(np.mean(right)),
      "interval": metrics.bootstrap(right, works),
      "baseline": float(chance),
      "baseline_is": chance_is,
    }
    for name, (right, chance, chance_is) in rows.items()
  }


def show(tests: dict, distances: dict, heard: dict) -> str:
  """Tables of the tests {measure: {set: test}}, distances and notes at once, as HTML."""
  rows = []
  for measure, by_set in tests.items():
    for kind, label in SETS.items():
      test = by_set[kind]
      values = [page.amount(test["value"]), page.amount(test["shuffled"]), f"{test['p']:.2g}"]
      rows.append([measure.replace("_", " "), label, *values])
  inner = page.table(["measure", "audio", "own prompt", "shuffled", "p"], rows)
  labelled = {SETS[kind]: each for kind, each in distances.items()}
  inner += page.table(
    ["audio", "notes at once"], [[SETS[k], page.amount(v)] for k, v in heard.items()]
  ) + page.distances(labelled)
  note = (
    "Does the output fit its own prompt better than shuffled prompts? One-sided permutation tests. "
    + "; ".join(f"{name.replace('_', ' ')}: {text}" for name, text in MEASURES.items())
    + ". Families are told by classifiers of musicnn embeddings, of real clips for real clips and "
    "of round trips for the others. Own MuLan is the model that conditioned the music, so it is "
    "not independent. Real clips and round trips show the best that a measure can reach; how "
    "often each is right on all held-out clips is among the figures of round_trip. Distances "
    "are those of musicnn embeddings to real train clips."
  )
  return page.section("Does it follow the prompt?", note, inner)
