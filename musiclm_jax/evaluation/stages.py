"""Held-out losses of the token models, against frequencies alone and another clip's condition.

Sequences are those of training, from the first crop of each clip.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.evaluation import metrics, page
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.lm.sampling import Sampling
from musiclm_jax.ranges import PositiveInt
from musiclm_jax.seeds import random_key
from musiclm_jax.sequences import codes_of, decoder_features, sequence
from musiclm_jax.sources import MeanQuantized
from musiclm_jax.tokens import Stage, Stream, unflatten

_MEASURES = (
  "nats_per_token",
  "nats_over_unigram",
  "nats_over_held_out_entropy",
  "own_condition_gain_nats",
  "own_condition_p",
  "text_condition_gain_nats",
)


@functools.partial(jax.jit, static_argnums=0)
def token_losses(model, variables, tokens, codes):
  """Nats [batch, frames, levels] of codes [batch, frames, levels] after tokens [batch, length].

  tokens are the decoder inputs of whole sequences.
  """
  scores = jax.nn.log_softmax(model.apply(variables, tokens, method="logits"), axis=-1)
  return -jnp.take_along_axis(scores, codes[..., None], axis=-1)[..., 0]


@dataclasses.dataclass(frozen=True)
class StageLoss:
  """Nats per token of `stage` over `clips` clips.

  The paired comparison takes the condition `swapped` from a clip of another work. Frequencies are
  those of the train split where it was extracted, else of the held-out tokens themselves. `wanted`
  is {figure: comparison} of the targets. Raises ValueError for a figure that there is not.
  """

  stage: str
  swapped: str
  clips: PositiveInt
  wanted: dict[str, str]
  batch_size: PositiveInt

  def __post_init__(self):
    metrics.check_wanted(self.wanted, _MEASURES)

  @property
  def name(self) -> str:
    """The stage's name."""
    return self.stage

  @property
  def parts(self) -> tuple[str, ...]:
    """The stage's run and the quantizer of its conditioning."""
    return (self.stage, "mulan_rvq")

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    part = held_out.part(self.stage)
    stage = part.module.stage
    check_tokens(held_out, part, self.stage)
    names = [stream.name for stream in stage.conditions]
    if self.swapped not in names:
      raise ValueError(f"stage {self.stage}: no condition {self.swapped!r} among {names}")
    records = held_out.shards[: len(held_out.first(self.clips))]
    codes = first_crops(held_out, stage, self.parts, records)
    partner = other_work(held_out.clips[: len(records)])
    swapped = [own | {self.swapped: codes[p][self.swapped]} for own, p in zip(codes, partner)]
    own, other = self._losses(part, codes), self._losses(part, swapped)
    target, known = padded([each[stage.target.name] for each in codes], stage)
    result = self._result(held_out, stage, own, other, target, known)
    if (prompted := of_text(stage, self.swapped)) != stage:  # what generation is conditioned on
      losses = self._losses(part, first_crops(held_out, prompted, self.parts, records))
      gain = metrics.paired(_by_clip(losses, known), _by_clip(other, known))
      measure = _compared(gain["difference"], 0.0, f"{self.swapped} of another work")
      result["figures"] |= metrics.figures({"text_condition_gain_nats": measure}, self.wanted)
    return result

  def _losses(self, part, codes: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Nats [clips, frames, levels], in batches of one shape; where there is no code, of code 0."""
    stage = part.module.stage
    ids = [sequence(stage, part.module.vocabulary, each, stage.crop_seconds) for each in codes]
    tokens = np.stack([decoder_features(*each)["decoder_input_tokens"] for each in ids])
    target, _ = padded([each[stage.target.name] for each in codes], stage)
    results = []
    for start in range(0, len(tokens), self.batch_size):
      rows = np.arange(start, start + self.batch_size) % len(tokens)
      losses = token_losses(part.module, part.variables, tokens[rows], target[rows])
      results.append(np.asarray(losses)[: len(tokens) - start])
    return np.concatenate(results)

  def _result(self, held_out, stage: Stage, own, other, codes, known) -> dict:
    target = stage.target
    shards = held_out.train_shards or held_out.shards
    seen = "train" if held_out.train_shards else "held-out"
    counts = _counts(shards, target)
    held_out_entropy = metrics.entropy(_counts(held_out.shards, target))
    levels = []
    for level in range(target.num_quantizers):
      values = codes[..., level][known]
      levels.append(
        {
          "level": target.first_quantizer + level,
          "loss": float(own[..., level][known].mean()),
          "other_condition": float(other[..., level][known].mean()),
          "unigram": metrics.cross_entropy(counts[level], values),
          "held_out_entropy": float(held_out_entropy[level]),
        }
      )
    loss, unigram = (float(np.mean([row[key] for row in levels])) for key in ("loss", "unigram"))
    test = metrics.paired(_by_clip(own, known), _by_clip(other, known))
    entropy = float(held_out_entropy.mean())
    uniform = math.log(target.codebook_size)
    measures = {
      "nats_per_token": _compared(loss, uniform, "all codes equally likely"),
      "nats_over_unigram": _compared(loss / unigram, 1.0, f"{seen} frequencies: {unigram:.3f}"),
      "nats_over_held_out_entropy": _compared(
        loss / entropy, 1.0, f"held-out frequencies: {entropy:.3f}"
      ),
      "own_condition_gain_nats": _compared(
        test["difference"], 0.0, f"{self.swapped} of another work"
      ),
      "own_condition_p": {"value": test["p"]},
    }
    figures = metrics.figures(measures, self.wanted)
    return {"figures": figures, "levels": levels, "stage": self.stage}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """A table of the levels."""
    keys = ("loss", "other_condition", "unigram", "held_out_entropy")
    rows = [
      [str(row["level"] + 1), *(page.amount(row[key]) for key in keys)] for row in results["levels"]
    ]
    head = ["level", "loss", "other clip's condition", "unigram", "held-out entropy"]
    note = "Held-out nats per token. Unigram: the code frequencies of the train split alone."
    return page.section(f"{results['stage'].capitalize()} stage", note, page.table(head, rows))


def of_text(stage: Stage, condition: str) -> Stage:
  """The stage with the texts' codes for those of audio in a condition that can have both."""

  def prompted(stream: Stream) -> Stream:
    has_text = isinstance(stream.made, MeanQuantized) and stream.made.text
    if stream.name != condition or not has_text:
      return stream
    return dataclasses.replace(stream, made=stream.made.of_text())

  return dataclasses.replace(stage, conditions=tuple(map(prompted, stage.conditions)))


def _compared(value: float, baseline: float, baseline_is: str) -> dict:
  return {"value": value, "baseline": baseline, "baseline_is": baseline_is}


def _by_clip(losses: np.ndarray, known: np.ndarray) -> np.ndarray:
  """The mean [clips] of losses [clips, frames, levels] over known frames, where any is."""
  frames = known.sum(axis=1)
  return (losses.mean(axis=-1) * known).sum(axis=1)[frames > 0] / frames[frames > 0]


def first_crops(
  held_out: HeldOut, stage: Stage, parts: tuple[str, ...], records: list[dict]
) -> list[dict[str, np.ndarray]]:
  """The codes {stream: [frames, levels]} of the first crop of each of these token records.

  `parts` are the runs that make codes from what the shards hold.
  """
  entries, directories = held_out.manifest["sources"], held_out.directories(parts)
  makers = {s.name: s.made.open(s, entries, directories) for s in stage.streams}
  return [codes_of(stage, makers, record, 0.0) for record in records]


def write(
  part, ids: np.ndarray, known: np.ndarray, frames: int, settings: Sampling, batch_size: int, seed
) -> np.ndarray:
  """The codes [clips, frames, levels] that a stage writes after the known ones of its target.

  ids and known [clips, tokens] are those of the conditions and of the target's beginning
  (`sequences.sequence`) in a span of `frames` frames. The clips run in batches of one shape.
  """
  vocabulary, target = part.module.vocabulary, part.module.stage.target
  keys, found = jax.random.split(random_key(seed), len(ids)), []
  for start in range(0, len(ids), batch_size):
    some = np.arange(start, start + batch_size) % len(ids)
    tokens = part("generate", ids[some], known[some], keys[some], frames=frames, settings=settings)
    found.append(unflatten(np.asarray(tokens), vocabulary.offsets(target))[: len(ids) - start])
  return np.concatenate(found)


def check_tokens(held_out: HeldOut, part, name: str) -> None:
  """The stage must have been trained on tokens of the tokenizers that made these shards."""
  for source, made in part.provenance["sources"].items():
    found = held_out.source(source)["encoder"]
    if made["encoder"] != found:
      raise ValueError(
        f"{held_out.tokens_dir}: its {source} is of encoder {found}, "
        f"but {held_out.runs_dir}/{name} was trained on that of {made['encoder']}"
      )


def padded(codes: list[np.ndarray], stage: Stage) -> tuple[np.ndarray, np.ndarray]:
  """Codes [clips, frames, levels] int32 of a target, and where there are any [clips, frames]."""
  frames = stage.target.frames(stage.crop_seconds)
  known = np.arange(frames) < np.array([len(each) for each in codes])[:, None]
  return np.stack([np.pad(x, ((0, frames - len(x)), (0, 0))) for x in codes]), known


def _counts(shards: list[dict], target: Stream) -> np.ndarray:
  """Counts of each code of the target, [levels, codebook_size]."""
  columns = slice(target.first_quantizer, target.last_quantizer)
  codes = np.concatenate([row[target.source][:, columns] for row in shards])
  return metrics.code_counts(codes, target.codebook_size)


def other_work(clips: list[dict]) -> np.ndarray:
  """For each clip the index of a clip of another work, [clips] int, each index once.

  Raises ValueError where more than half of the clips are of one work.
  """
  works = np.array([clip["work"] for clip in clips])
  order = np.argsort(works, kind="stable")
  largest = np.unique(works, return_counts=True)[1].max()
  partner = np.empty(len(clips), int)
  partner[order] = np.roll(order, -largest)
  if (works[partner] == works).any():
    raise ValueError(f"more than half of {len(clips)} held-out clips are of one work")
  return partner
