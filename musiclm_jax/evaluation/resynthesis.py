"""Whether a stage writes the music of its conditions: real codes in, the codec's music out."""

import dataclasses

import numpy as np

from musiclm_jax.embedders import packages
from musiclm_jax.embedders.batches import in_batches
from musiclm_jax.evaluation import listeners, metrics, page
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.evaluation.stages import check_tokens, first_crops, other_work, padded, write
from musiclm_jax.export import bundle as bundles
from musiclm_jax.lm.sampling import Sampling
from musiclm_jax.ranges import PositiveInt, Seed
from musiclm_jax.sequences import sequence

_MEASURES = (
  "chroma_correlation",
  "note_chroma_correlation",
  "note_f_measure",
  "notes_share",
)


@dataclasses.dataclass(frozen=True)
class Resynthesis:
  """What `stage` writes from the conditions of real clips, by the listeners, beside these clips.

  One crop of each of `clips` clips, sampled as the bundle does, is decoded by the codec. For
  comparison the condition `swapped` is taken from a clip of another work, and the clip's own codes
  are decoded, which no stage can surpass. `wanted` is {figure: comparison} of the targets. Raises
  ValueError where the stage does not write the codec's first level, for a target of another figure,
  and where a package of the listeners is not installed.
  """

  stage: str
  swapped: str
  clips: PositiveInt
  wanted: dict[str, str]
  batch_size: PositiveInt
  seed: Seed

  name = "resynthesis"

  def __post_init__(self):
    packages.check()
    metrics.check_wanted(self.wanted, _MEASURES)

  @property
  def parts(self) -> tuple[str, ...]:
    """The stage's run, the quantizer of its conditioning, the codec and the bundle."""
    return (self.stage, "mulan_rvq", "soundstream", "bundle")

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    part, codec = held_out.part(self.stage), held_out.part("soundstream")
    stage, rate = part.module.stage, held_out.sample_rate
    check_tokens(held_out, part, self.stage)
    if stage.target.source != "acoustic" or stage.target.first_quantizer:
      raise ValueError(
        f"stage {self.stage} writes {stage.target.name}, wanted the codec's first level"
      )
    if self.swapped not in (names := [stream.name for stream in stage.conditions]):
      raise ValueError(f"stage {self.stage}: no condition {self.swapped!r} among {names}")
    clips = held_out.first(self.clips)
    works = [clip["work"] for clip in clips]
    codes = first_crops(held_out, stage, self.parts[:2], held_out.shards[: len(clips)])
    partner = other_work(clips)
    swapped = [own | {self.swapped: codes[p][self.swapped]} for own, p in zip(codes, partner)]
    written = {
      "round_trip": padded([each[stage.target.name] for each in codes], stage)[0],
      "own": self._write(part, codes, held_out),
      "swapped": self._write(part, swapped, held_out),
    }
    samples = min(x.shape[1] for x in written.values()) * codec.module.hop
    real = listeners.listen(held_out.waveforms(samples / rate, len(clips)), rate)
    rows = {}
    for kind, each in written.items():
      music = in_batches(lambda x: codec("decode", x), each, self.batch_size)[:, :samples]
      measures = listeners.compare(real, listeners.listen(music, rate), works)
      rows[kind] = {name: measures[name] for name in _MEASURES}
    beside = f"{self.swapped} of another work"
    measures = {
      name: each | {"baseline": rows["swapped"][name]["value"], "baseline_is": beside}
      for name, each in rows["own"].items()
    }
    measures |= {f"{name}_of_round_trip": rows["round_trip"][name] for name in _MEASURES[:3]}
    return {
      "figures": metrics.figures(measures, self.wanted),
      "rows": {kind: metrics.figures(row, {}) for kind, row in rows.items()},
      "stage": self.stage,
    }

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """A table of the measures."""
    labels = {"own": "own conditions", "swapped": "another clip's", "round_trip": "real codes"}
    rows = [
      [name.replace("_", " ")]
      + [
        page.interval(results["rows"][k][name]["value"], results["rows"][k][name]["interval"])
        for k in labels
      ]
      for name in results["rows"]["own"]
    ]
    note = (
      f"What the {results['stage']} stage writes from the codes of real held-out clips, decoded "
      "and compared with these clips; the same with one condition of another work; and the clips' "
      "own codes decoded."
    )
    return page.section(
      "Resynthesis from real conditions", note, page.table(["", *labels.values()], rows)
    )

  def _write(self, part, codes: list[dict[str, np.ndarray]], held_out: HeldOut) -> np.ndarray:
    """The target's codes [clips, frames, levels], in batches of one shape."""
    stage, vocabulary = part.module.stage, part.module.vocabulary
    sampling = bundles.load_description(held_out.bundle)["sampling"][self.stage]
    settings, target = Sampling(self.stage, **sampling), stage.target
    ids = np.stack([sequence(stage, vocabulary, each, stage.crop_seconds)[0] for each in codes])
    frames, nothing = target.frames(stage.crop_seconds), np.zeros((len(ids), 0), np.int32)
    return write(part, ids, nothing, frames, settings, self.batch_size, self.seed)
