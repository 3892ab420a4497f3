"""Held-out losses of the token models: against frequencies alone, and what conditioning is worth.

The batches are made here in numpy, from the first crop of each clip; training makes its own.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.evaluation import metrics, page
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.tokens import PAD, Stage, Stream, flatten


@functools.partial(jax.jit, static_argnums=0)
def token_losses(model, variables, tokens, codes):
  """Nats [batch, frames, levels] of codes [batch, frames, levels] after tokens [batch, length].

  tokens are the decoder inputs of whole sequences.
  """
  scores = jax.nn.log_softmax(model.apply(variables, tokens, method="logits"), axis=-1)
  return -jnp.take_along_axis(scores, codes[..., None], axis=-1)[..., 0]


def first_crop(row: dict, stream: Stream, seconds: float) -> np.ndarray:
  """Codes [frames, levels] int32 of a stream in the first `seconds`; fewer in a shorter clip."""
  last = stream.first_quantizer + stream.num_quantizers
  codes = row[stream.source][: stream.frames(seconds), stream.first_quantizer : last]
  return codes.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class StageLoss:
  """Nats per token of `stage` over `clips` clips.

  `swapped` is the condition that another work's clip lends in the paired comparison. Frequencies
  are those of the train split where it was extracted, else of the held-out tokens themselves.
  """

  stage: str
  swapped: str
  clips: int
  batch_size: int

  @property
  def name(self) -> str:
    """The stage's."""
    return self.stage

  @property
  def parts(self) -> tuple[str, ...]:
    """The stage's run and the quantizer of its conditioning."""
    return (self.stage, "mulan_rvq")

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    part = held_out.part(self.stage)
    stage = part.module.stage
    _check_tokens(held_out, part, self.stage)
    names = [stream.name for stream in stage.conditions]
    if self.swapped not in names:
      raise ValueError(f"stage {self.stage}: no condition {self.swapped!r} among {names}")
    count = len(held_out.first(self.clips))
    conditions = {s.name: self._conditions(held_out, part, s)[:count] for s in stage.conditions}
    codes, known = _targets(held_out, stage, count)
    own = self._losses(part, conditions, codes)
    lent = conditions[self.swapped][_other_work(held_out.clips[:count])]
    other = self._losses(part, conditions | {self.swapped: lent}, codes)
    return self._result(held_out, stage, own, other, codes, known)

  def _conditions(self, held_out: HeldOut, part, stream: Stream) -> np.ndarray:
    """Tokens [clips, length] of a condition, null ids behind a short clip."""
    vocabulary, seconds = part.module.vocabulary, part.module.stage.crop_seconds
    if stream.frame_rate == 0:
      window = held_out.source(stream.source)["window_seconds"]
      spare = int(max(seconds - window, 0))
      means = [row[stream.source][: spare + 1].mean(axis=0) for row in held_out.shards]
      codes = np.asarray(
        held_out.part("mulan_rvq")("encode", metrics.unit(np.stack(means))[:, None])
      )
      last = stream.first_quantizer + stream.num_quantizers
      codes = codes[..., stream.first_quantizer : last]
      return flatten(codes, vocabulary.offsets(stream))
    length = stream.length(seconds)
    rows = np.full((len(held_out.shards), length), vocabulary.null(stream), np.int32)
    for row, shard in zip(rows, held_out.shards):
      ids = flatten(first_crop(shard, stream, seconds), vocabulary.offsets(stream))
      row[: len(ids)] = ids
    return rows

  def _losses(self, part, conditions: dict[str, np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Nats [clips, frames, levels], in batches of one shape."""
    target = flatten(codes, part.module.vocabulary.offsets(part.module.stage.target))
    begin = np.full((len(codes), 1), PAD, np.int32)
    tokens = np.concatenate([begin, *conditions.values(), target], axis=1)[:, :-1]
    results = []
    for start in range(0, len(codes), self.batch_size):
      rows = np.arange(start, start + self.batch_size) % len(codes)
      losses = token_losses(part.module, part.variables, tokens[rows], codes[rows])
      results.append(np.asarray(losses)[: len(codes) - start])
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
    weight = known.sum(axis=1)
    per_clip = [(x.mean(axis=-1) * known).sum(axis=1)[weight > 0] for x in (own, other)]
    test = metrics.paired(*(x / weight[weight > 0] for x in per_clip))
    entropy = float(held_out_entropy.mean())
    figures = {
      "nats_per_token": metrics.figure(
        loss, baseline=math.log(target.codebook_size), baseline_is="all codes equally likely"
      ),
      "nats_over_unigram": metrics.figure(
        loss / unigram, "<= 0.95", baseline=1.0, baseline_is=f"{seen} frequencies: {unigram:.3f}"
      ),
      "nats_over_held_out_entropy": metrics.figure(
        loss / entropy, baseline=1.0, baseline_is=f"held-out frequencies: {entropy:.3f}"
      ),
      "own_condition_gain_nats": metrics.figure(
        test["difference"], "> 0", baseline=0.0, baseline_is=f"{self.swapped} of another work"
      ),
      "own_condition_p": metrics.figure(test["p"], "< 0.01"),
    }
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


def _check_tokens(held_out: HeldOut, part, name: str) -> None:
  """The stage must have been trained on tokens of the tokenizers that made these shards."""
  for source, made in part.provenance["sources"].items():
    found = held_out.source(source)["encoder"]
    if made["encoder"] != found:
      raise ValueError(
        f"{held_out.tokens_dir}: its {source} is of encoder {found}, "
        f"but {held_out.runs_dir}/{name} was trained on that of {made['encoder']}"
      )


def _targets(held_out: HeldOut, stage: Stage, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Codes [clips, frames, levels] int32 of the target, and where there are any [clips, frames]."""
  target, frames = stage.target, stage.target.frames(stage.crop_seconds)
  codes = np.zeros((count, frames, target.num_quantizers), np.int32)
  known = np.zeros((count, frames), bool)
  for index, row in enumerate(held_out.shards[:count]):
    crop = first_crop(row, target, stage.crop_seconds)
    codes[index, : len(crop)], known[index, : len(crop)] = crop, True
  return codes, known


def _counts(shards: list[dict], target: Stream) -> np.ndarray:
  """How often each code of the target occurs, [levels, codebook_size]."""
  last = target.first_quantizer + target.num_quantizers
  codes = np.concatenate([row[target.source][:, target.first_quantizer : last] for row in shards])
  return metrics.code_counts(codes, target.codebook_size)


def _other_work(clips: list[dict]) -> np.ndarray:
  """For each clip the index of a clip of another work. Raises ValueError where one work rules."""
  works = np.array([clip["work"] for clip in clips])
  order = np.argsort(works, kind="stable")
  largest = np.unique(works, return_counts=True)[1].max()
  partner = np.empty(len(clips), int)
  partner[order] = np.roll(order, -largest)
  if (works[partner] == works).any():
    raise ValueError(f"more than half of {len(clips)} held-out clips are of one work")
  return partner
