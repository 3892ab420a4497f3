"""What independent listeners hear in codec round trips of held-out works, beside the real clips."""

import dataclasses
import functools
import math
import time

import jax
import numpy as np

from musiclm_jax.embedders import packages
from musiclm_jax.embedders.batches import in_batches
from musiclm_jax.evaluation import listeners, metrics, page, persistence, prompted
from musiclm_jax.evaluation.codec import through_opus
from musiclm_jax.evaluation.families import Families
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.evaluation.retrieval import caption_cosines
from musiclm_jax.ranges import PositiveFloat, PositiveInt
from musiclm_jax.tokenizers.soundstream import log_mel_distance

TARGETS = (  # figures for which targets can be set
  "bits_per_second",
  "notes_share",
  "note_f_measure",
  "chroma_correlation",
  "note_chroma_correlation",
  "band_difference_to_4_khz_db",
  "band_difference_to_8_khz_db",
  "family_accuracy_share",
  "mulan_cosine_share",
  "log_mel_over_opus",
  "kernel_distance",
  "persistence_of_first_2_levels",
  "persistence_in_tones_of_first_2_levels",
)
_log_mel_distance = jax.jit(log_mel_distance, static_argnums=2)


@dataclasses.dataclass(frozen=True)
class RoundTrip:
  """The first `seconds` of `clips` clips through the codec: all levels, and the first `levels`.

  Measured by listeners.compare, by the log-mel distance beside Opus at `opus_kbps`, by the cosine
  of own MuLan to the caption and by the classifiers of `families`; also how long codes stay the
  same, and the cost of the codec.

  `wanted` is {figure: comparison} of the targets, for instance {"notes_share": ">= 0.8"}: they
  depend on the size of the codec. Raises ValueError for a figure that is not among TARGETS, and
  where a package of the listeners is not installed.
  """

  clips: PositiveInt
  seconds: PositiveFloat
  levels: PositiveInt
  opus_kbps: PositiveFloat
  families: Families
  wanted: dict[str, str]
  batch_size: PositiveInt

  name = "round_trip"
  parts = ("soundstream", "mulan", "bundle")

  def __post_init__(self):
    packages.check()
    metrics.check_wanted(self.wanted, TARGETS)

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    codec, rate = held_out.part("soundstream"), held_out.sample_rate
    clips = held_out.first(self.clips)
    works = [clip["work"] for clip in clips]
    waveforms = held_out.waveforms(self.seconds, self.clips)
    codes, encode_factor = self._timed(functools.partial(codec, "encode"), waveforms, rate)
    most = codes.shape[2]
    music, decode_factor = {}, 0.0
    for levels in sorted({min(self.levels, most), most}):
      decoded, decode_factor = self._timed(
        functools.partial(codec, "decode"), codes[..., :levels], codec.module.frame_rate
      )
      music[levels] = decoded[:, : waveforms.shape[1]]
    real = listeners.listen(waveforms, rate)
    heard = {levels: listeners.listen(x, rate) for levels, x in music.items()}
    rows = {
      levels: listeners.compare(real, heard[levels], works)
      | self._log_mel(waveforms, x, rate, works)
      | self._own_mulan(held_out, clips, waveforms, x, works)
      for levels, x in music.items()
    }
    embeddings = {"real": real.embeddings} | {
      f"{levels} levels": each.embeddings for levels, each in heard.items()
    }
    found = listeners.compare_sets(self.families.real_embeddings(held_out), embeddings, works)
    measures = (
      rows[most]
      | self._family(held_out, clips, real, heard[most])
      | listeners.distance_figures(found, f"{most} levels")
      | _persistence(codec, codes, real, works)
      | _cost(codec, encode_factor, decode_factor)
      | prompted.accuracies(
        clips, waveforms, real, self.families.classifiers(held_out)["real"], rate
      )
    )
    return {
      "figures": metrics.figures(measures, self.wanted),
      "levels": list(rows),
      "rows": [metrics.figures(row, {}) for row in rows.values()],
      "distances": listeners.shown_distances(found),
    }

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """Tables of the measures by number of levels, and of the distances."""
    head = ["", "baseline", *(f"{levels} levels" for levels in results["levels"])]
    rows = [
      [name.replace("_", " "), page.amount(each["baseline"])]
      + [page.interval(row[name]["value"], row[name]["interval"]) for row in results["rows"]]
      for name, each in results["rows"][-1].items()
    ]
    note = (
      "Published listeners and librosa on real held-out clips and their round trips: notes by "
      "basic-pitch, chroma by librosa and of those notes. In brackets: 95 % intervals by bootstrap "
      "over works. Distances are those of musicnn embeddings to real train clips."
    )
    inner = page.table(head, rows) + page.distances(results["distances"])
    return page.section("What is heard after the codec", note, inner)

  def _timed(self, function, rows: np.ndarray, rate: float) -> tuple[np.ndarray, float]:
    """`function` of rows [n, frames, ...] at `rate` Hz, and the seconds of them per second."""
    in_batches(function, rows[: self.batch_size], self.batch_size)  # compiles
    began = time.perf_counter()
    result = in_batches(function, rows, self.batch_size)
    return result, len(rows) * rows.shape[1] / rate / (time.perf_counter() - began)

  def _log_mel(self, real, other, rate: int, works: list[str]) -> dict[str, dict]:
    """The log-mel distance of round trips over that of Opus."""
    opus = np.stack([through_opus(waveform, rate, self.opus_kbps)[0] for waveform in real])
    size = self.batch_size
    starts = range(0, len(real), size)
    distances = [
      np.concatenate([_log_mel_distance(real[i : i + size], x[i : i + size], rate) for i in starts])
      for x in (other, opus)
    ]
    measure = listeners.measure(works, *distances)
    over = {"baseline": 1.0, "baseline_is": f"Opus at {self.opus_kbps:g} kbit/s"}
    return {"log_mel_over_opus": measure | over}

  def _own_mulan(self, held_out, clips, real, other, works: list[str]) -> dict[str, dict]:
    """The cosine of audio to its caption by the MuLan that conditions the stages."""
    cosines = [
      np.diagonal(caption_cosines(held_out, clips, x, self.batch_size)) for x in (real, other)
    ]
    return {
      "mulan_cosine": listeners.measure(works, cosines[1], real=cosines[0].mean()),
      "mulan_cosine_share": listeners.measure(works, *reversed(cosines)),
    }

  def _family(self, held_out, clips, real, other) -> dict[str, dict]:
    """How often the family is told, each by the classifier of its kind."""
    works, families = ([clip[name] for clip in clips] for name in ("work", "family"))
    judges = self.families.classifiers(held_out)
    right = {
      kind: judges[kind].right(each.embeddings, families)
      for kind, each in (("real", real), ("round_trip", other))
    }
    return {
      "family_accuracy": listeners.measure(works, right["round_trip"], real=right["real"].mean()),
      "family_accuracy_share": listeners.measure(works, right["round_trip"], right["real"]),
    }


def _persistence(codec, codes, real, works: list[str]) -> dict[str, dict]:
  """How often codes are those of the frame before, by level, in clips and in tones."""
  rate = codec.module.frame_rate
  counted = persistence.steady(real.notes, real.onsets, codes.shape[1], rate)
  same = persistence.persistence(codes, counted)
  chance = persistence.by_chance(codes, counted)
  total = counted.sum(axis=1)
  tones = codec("encode", persistence.tones(codec.module.sample_rate))
  by_level = {
    f"persistence_of_level_{level + 1}": listeners.measure(works, same[:, level], total, real=share)
    | {"baseline_is": "two steady frames at random"}
    for level, share in enumerate(chance)
  }
  first = list(by_level.values())[:2]
  inner = persistence.within_tones(np.asarray(tones), rate)
  return by_level | {
    "persistence_of_first_2_levels": min(first, key=lambda each: each["value"]),
    "persistence_in_tones_of_first_2_levels": {"value": inner[:2].min()},
    "steady_frames_share": {"value": counted.mean()},
  }


def _cost(codec, encode_factor: float, decode_factor: float) -> dict[str, dict]:
  kept = {
    name: each for name, each in codec.variables["params"].items() if name != "discriminators"
  }
  module = codec.module
  size = sum(x.size for x in jax.tree.leaves(kept))
  return {
    "bits_per_second": {
      "value": module.frame_rate * module.num_quantizers * math.log2(module.codebook_size)
    },
    "parameters": {"value": size},
    "seconds_encoded_per_second": {"value": encode_factor},
    "seconds_decoded_per_second": {"value": decode_factor},
  }
