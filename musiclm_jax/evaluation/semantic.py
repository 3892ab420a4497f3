"""How good the semantic codes are on held-out works: w2v-BERT, and the k-means of its frames."""

import dataclasses
import math

import jax
import numpy as np

from musiclm_jax.evaluation import metrics, page, probes
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Seed
from musiclm_jax.seeds import random_key


@dataclasses.dataclass(frozen=True)
class W2vBert:
  """Masked prediction on the first `seconds` of `clips` clips, and what is in the codes.

  What can be read from the codes linearly is measured in `folds` folds of the works of all clips
  (module probes); `wanted` has the targets of these probes by label, that of "codes_used", the
  share of a level's codes that occur, the least of the levels, and those of "masked_accuracy_0" and
  so on, the accuracy of a target over the share of its most frequent code.
  The mutual information of the codes and the melody's pitch class is compared with that of
  `shuffles` shuffles of the melodies, and with labels shifted in time within their clip, which
  keeps key and clip; that of the codes and the first instrument with shuffles of the clips.
  """

  clips: PositiveInt
  seconds: PositiveFloat
  shuffles: NonNegativeInt
  folds: PositiveInt
  wanted: dict[str, str]
  batch_size: PositiveInt
  seed: Seed

  name = "w2v_bert"
  parts = ("w2v_bert", "kmeans")

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    means = self._masked_prediction(held_out)
    figures = {}
    for index in range(len(held_out.part("w2v_bert").module.targets)):
      accuracy, share = means[f"masked_accuracy_{index}"], means[f"most_frequent_share_{index}"]
      figures[f"masked_accuracy_{index}_over_most_frequent"] = metrics.figure(
        accuracy / share,
        self.wanted.get(f"masked_accuracy_{index}", ""),
        baseline=1.0,
        baseline_is="always the most frequent code",
      )
      figures[f"masked_accuracy_{index}"] = metrics.figure(
        accuracy, baseline=share, baseline_is="share of the most frequent code"
      )
    entry = held_out.source("semantic")
    frames = min(len(row["semantic"]) for row in held_out.shards)
    levels = np.stack([row["semantic"][:frames] for row in held_out.shards]).astype(np.int64)
    codes = levels[:, :, 0]
    usage = metrics.code_usage(levels, entry["codebook_size"])
    used = min(row["used"] for row in usage)
    figures["kmeans_codes_used"] = metrics.figure(used, self.wanted.get("codes_used", ""))
    known = probes.truth(held_out.clips, frames, entry["frame_rate"])
    probed = probes.probe(levels, known, folds=self.folds, seed=self.seed)
    figures |= probes.figures(probed, self.wanted)
    pitch, instrument = labels(held_out, frames)
    melodies = [clip["melody"] or clip["id"] for clip in held_out.clips]
    rng = np.random.default_rng(self.seed)
    tests = {
      "pitch_class": self._information(codes, pitch, rng, other_melodies(melodies)),
      "pitch_class_in_time": self._information(codes, pitch, rng, _shifted_in_time),
      "instrument": self._information(codes, instrument, rng, _other_clips),
    }
    fewest = {
      "pitch_class": ("melodies", len(set(melodies))),
      "instrument": ("clips", len(codes)),
    }
    for name, test in tests.items():
      unit, count = fewest.get(name, ("clips", len(codes)))
      few = metrics.too_few(count, _fewest_to_shuffle(self.shuffles), unit)
      baseline = dict(baseline=test["shuffled"], baseline_is=f"{self.shuffles} shuffles")
      wanted = "" if name == "pitch_class_in_time" else "> 5"
      figures[f"information_{name}_nats"] = metrics.figure(test["value"], **baseline)
      figures[f"information_{name}_z"] = metrics.figure(
        test["z"],
        wanted,
        baseline=0.0,
        baseline_is=f"{self.shuffles} shuffles",
        too_few=few,
      )
    more = {"usage": usage, "information": tests, "probes": probed, "means": means}
    return {"figures": figures, **more}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """What the codes tell about the music, and the use of the codebook."""
    rows = [
      [name.replace("_", " "), *(page.amount(test[key]) for key in ("value", "shuffled", "z", "p"))]
      for name, test in results["information"].items()
    ]
    table = page.table(["about", "nats", "shuffled", "z", "p"], rows)
    note = (
      "Linear probes of the codes, fitted on some held-out works and judged on others: of the "
      "melody's pitch class, of the lead's family, of onsets within a frame. "
      "Mutual information of the semantic codes with the melody's pitch class and the first "
      "instrument, and of the same labels shuffled; z is in standard deviations of the shuffles."
    )
    probed = [
      [
        name.replace("_", " "),
        page.interval(test["value"], test["interval"]),
        page.amount(test["shuffled"]),
        page.amount(test["majority"]),
      ]
      for name, test in results["probes"].items()
    ]
    head = ["linear probe of", "right (onset: area)", "labels of other clips", "majority"]
    table = page.table(head, probed) + table + page.usage_table(results["usage"])
    return page.section("Semantic codes", note, table)

  def _masked_prediction(self, held_out: HeldOut) -> dict[str, float]:
    """The model's own metrics, masks fixed by the seed."""
    part = held_out.part("w2v_bert")
    waveforms = held_out.waveforms(self.seconds, self.clips)

    @jax.jit
    def step(variables, waveform, key):
      batch = {"waveform": waveform}
      return part.module.apply(variables, batch, train=False, rngs={"dropout": key})[1]

    totals: dict[str, np.ndarray] = {}
    for index in range(math.ceil(len(waveforms) / self.batch_size)):
      rows = waveforms[index * self.batch_size : (index + 1) * self.batch_size]
      key = jax.random.fold_in(random_key(self.seed), index)
      for name, pair in step(part.variables, rows, key).items():
        totals[name] = totals.get(name, 0) + np.array([float(v) for v in pair])
    return {name: float(total / weight) for name, (total, weight) in totals.items() if weight}

  def _information(self, codes, labels, rng, shuffle) -> dict[str, float]:
    """Mutual information of codes and labels [clips, frames] where the label is known (>= 0)."""

    def information(values):
      known = values >= 0
      return metrics.mutual_information(codes[known], values[known])

    shuffled = [information(shuffle(labels, rng)) for _ in range(self.shuffles)]
    return metrics.against_shuffled(information(labels), np.array(shuffled))


def _fewest_to_shuffle(shuffles: int) -> int:
  """The smallest number of things that have at least as many orders as there are shuffles."""
  return next(count for count in range(1, shuffles + 2) if math.factorial(count) >= shuffles)


def other_melodies(melodies: list[str]):
  """A shuffle of rows [clips, ...] that keeps the clips of one melody together.

  Renditions of a melody have nearly the same notes: shuffled one by one, each would count as an
  independent observation.
  """
  groups = [np.flatnonzero(np.array(melodies) == melody) for melody in sorted(set(melodies))]

  def shuffle(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shuffled = np.empty_like(rows)
    order = [groups[index] for index in rng.permutation(len(groups))]
    shuffled[np.concatenate(groups)] = rows[np.concatenate(order)]
    return shuffled

  return shuffle


def _other_clips(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  return rows[rng.permutation(len(rows))]


def _shifted_in_time(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  shifts = rng.integers(1, rows.shape[1], len(rows))
  return np.stack([np.roll(row, shift) for row, shift in zip(rows, shifts)])


def labels(held_out: HeldOut, frames: int) -> tuple[np.ndarray, np.ndarray]:
  """The melody's pitch class and the index of the first instrument, [clips, frames] int each.

  The pitch class is that of `probes.truth`.
  """
  rate = held_out.source("semantic")["frame_rate"]
  pitch = probes.truth(held_out.clips, frames, rate).pitch_class
  names = sorted({clip["instruments"][0] for clip in held_out.clips})
  instrument = np.array([names.index(clip["instruments"][0]) for clip in held_out.clips])
  return pitch, np.repeat(instrument[:, None], frames, axis=1)
