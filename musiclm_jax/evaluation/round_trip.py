"""What independent listeners hear in codec round trips of held-out works, beside the real clips."""

import dataclasses
import difflib

import numpy as np

from musiclm_jax.evaluation import listeners, metrics, page
from musiclm_jax.evaluation.held_out import HeldOut, in_batches
from musiclm_jax.ranges import PositiveFloat, PositiveInt


@dataclasses.dataclass(frozen=True)
class RoundTrip:
  """The first `seconds` of `clips` clips through all levels of the codec and through the first
  `levels`, as listeners.compare measures them.

  `wanted` is {figure: comparison} of the targets, for instance {"notes_share": ">= 0.8"}: they
  depend on the size of the codec. Raises ValueError for a figure that there is not.
  """

  clips: PositiveInt
  seconds: PositiveFloat
  levels: PositiveInt
  wanted: dict[str, str]
  batch_size: PositiveInt

  name = "round_trip"
  parts = ("soundstream",)

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    codec = held_out.part("soundstream")
    works = [clip["work"] for clip in held_out.first(self.clips)]
    waveforms = held_out.waveforms(self.seconds, self.clips)
    rate, most = held_out.sample_rate, codec.module.num_quantizers
    real = listeners.listen(waveforms, rate)
    rows = {}
    for levels in sorted({min(self.levels, most), most}):
      music = through(codec, waveforms, levels, self.batch_size)
      rows[levels] = listeners.compare(real, listeners.listen(music, rate), works)
    return {
      "figures": figures(rows[most], self.wanted),
      "levels": list(rows),
      "rows": list(rows.values()),
    }

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """A table of the measures by number of levels."""
    head = ["", "real", *(f"{levels} levels" for levels in results["levels"])]
    rows = [
      [name.replace("_", " "), page.amount(measure["real"])]
      + [page.interval(row[name]["value"], row[name]["interval"]) for row in results["rows"]]
      for name, measure in results["rows"][-1].items()
    ]
    note = (
      "Published listeners and librosa on real held-out clips and their round trips: notes by "
      "basic-pitch, chroma by librosa and of those notes. In brackets: 95 % intervals by bootstrap "
      "over works."
    )
    return page.section("What is heard after the codec", note, page.table(head, rows))


def through(codec, waveforms: np.ndarray, levels: int, batch_size: int) -> np.ndarray:
  """Round trips [clips, samples] of waveforms [clips, samples] through the codec's first levels."""

  def round_trip(x):
    return codec("decode", codec("encode", x)[..., :levels])

  return in_batches(round_trip, waveforms, batch_size)[:, : waveforms.shape[1]]


def figures(measures: dict[str, dict], wanted: dict[str, str]) -> dict[str, dict]:
  """{name: figure} of {name: {value, interval, real}}, with the targets that are wanted.

  Raises ValueError where a target is that of no figure.
  """
  for name in wanted:
    if name not in measures:
      close = ", ".join(difflib.get_close_matches(name, measures)) or ", ".join(measures)
      raise ValueError(f"wanted: no figure {name!r}; nearest {close}")
  return {
    name: metrics.figure(
      measure["value"],
      wanted.get(name, ""),
      baseline=measure["real"],
      baseline_is="real clips",
      interval=measure["interval"],
    )
    for name, measure in measures.items()
  }
