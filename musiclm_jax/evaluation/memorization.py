"""Whether a stage recites what it was trained on (MusicLM Sections 4.4 and 5)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.embedders.batches import in_batches
from musiclm_jax.evaluation import metrics, page, pictures
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.evaluation.stages import first_crops, write
from musiclm_jax.lm.sampling import Sampling
from musiclm_jax.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Seed
from musiclm_jax.sequences import sequence
from musiclm_jax.tokenizers.quantizer import dequantize
from musiclm_jax.tokens import unflatten

_SHARPNESS, _ROUNDS = 20.0, 100  # of Sinkhorn's algorithm; the paper has neither
_MEASURES = ("exact_share", "approximate_share", "codes_right")


@dataclasses.dataclass(frozen=True)
class Memorization:
  """How many of `clips` train clips `stage` continues as they go on, beside held-out clips.

  The stage gets the conditions of a clip and the codes of its first seconds, in all the lengths
  `prompt_seconds`, and writes `seconds` more, the likeliest code each time. A match is exact where
  all codes are the clip's, and approximate where it costs less than the threshold to turn the
  written codes into the clip's in any order: `transport_cost`. The threshold is that under which a
  share `false_positives` of continuations of other works' clips is. `quantizer` is the run whose
  vectors the codes name. `wanted` is {measure: comparison} for all lengths; raises ValueError for
  another measure.
  """

  stage: str
  quantizer: str
  clips: PositiveInt
  prompt_seconds: tuple[NonNegativeFloat, ...]
  seconds: PositiveFloat
  false_positives: Fraction
  wanted: dict[str, str]
  batch_size: PositiveInt
  seed: Seed

  name = "memorization"

  def __post_init__(self):
    metrics.check_wanted(self.wanted, _MEASURES)

  @property
  def parts(self) -> tuple[str, ...]:
    """The stage's run and the quantizers of its conditioning and of its codes."""
    return (self.stage, "mulan_rvq", self.quantizer)

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    part = held_out.part(self.stage)
    streams = part.module.stage.streams
    features = tuple({name for stream in streams for name in stream.made.features(stream)})
    train = held_out.train_rows(("work",), features, self.clips)
    sets = {
      "train": [tokens for _, tokens in train],
      "held_out": held_out.shards[: self.clips],
    }
    vectors = held_out.part(self.quantizer).variables["codebooks"]["quantizer"]["vectors"]
    rows = {
      kind: [self._continue(held_out, part, tokens, length) for length in self.prompt_seconds]
      for kind, tokens in sets.items()
    }
    others = _others([clip["work"] for clip, _ in train], self.false_positives)
    false = np.concatenate(
      [
        transport_cost(written[others[:, 0]], own[others[:, 1]], vectors)
        for written, own in rows["train"]
      ]
    )
    threshold = float(np.quantile(false, self.false_positives))
    found = {
      kind: [_measure(written, own, vectors, threshold) for written, own in each]
      for kind, each in rows.items()
    }
    figures = {}
    for index, length in enumerate(self.prompt_seconds):
      for measure in _MEASURES:
        figures[f"{measure}_after_{length:g}_s"] = metrics.figure(
          found["train"][index][measure],
          self.wanted.get(measure, ""),
          baseline=found["held_out"][index][measure],
          baseline_is="held-out clips",
        )
    return {
      "figures": figures,
      "threshold": threshold,
      "lengths": list(self.prompt_seconds),
    } | found

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """A chart of each share by the length of the prompt, and a table."""
    rows = [
      [f"{length:g} s"]
      + [page.amount(results[kind][i][m]) for kind in ("train", "held_out") for m in _MEASURES]
      for i, length in enumerate(results["lengths"])
    ]
    names = [name.replace("_", " ") for name in _MEASURES]
    head = ["prompt", *names, *(f"{name}, held out" for name in names)]
    note = (
      "How often the stage, given the first seconds of a clip that it was trained on, goes on "
      "exactly as the clip does, or with nearly the same codes in any order; beside clips that it "
      "never saw."
    )
    charts = page.charts(*(_chart(results, name) for name in _MEASURES))
    return page.section("Memorization", note, charts + page.table(head, rows))

  def _continue(self, held_out: HeldOut, part, tokens: list[dict], length: float):
    """(written codes, the clips' own) [clips, frames, levels] after `length` seconds."""
    stage, vocabulary = part.module.stage, part.module.vocabulary
    target, total = stage.target, length + self.seconds
    span = dataclasses.replace(stage, crop_seconds=total)
    codes = first_crops(held_out, span, self.parts, tokens)
    ids = [sequence(stage, vocabulary, each, total) for each in codes]
    conditions, own = (np.stack(each) for each in zip(*ids))
    known = target.length(length)
    if (own[:, known:] < vocabulary.first_id(target)).any():
      raise ValueError(f"{held_out.tokens_dir}: {total:g} s of {target.name} wanted of each clip")
    settings = Sampling(self.stage, temperature=0.0, guidance=0.0, stride_fraction=1.0)
    found = write(
      part, conditions, own[:, :known], target.frames(total), settings, self.batch_size, self.seed
    )
    return found, unflatten(own[:, known:], vocabulary.offsets(target))


def _chart(results: dict, name: str) -> str:
  """A share by the length of the prompt, of train clips and of held-out ones."""
  label = name.replace("_", " ")
  figure, plot = pictures.axes(label, "seconds of the prompt")
  for kind, series in (("train", "train"), ("held_out", "eval")):
    shares = [each[name] for each in results[kind]]
    colour = pictures.SERIES[series]
    plot.plot(results["lengths"], shares, "o-", color=colour, markersize=3, label=kind)
  plot.set_ylim(bottom=0)
  plot.legend(fontsize=7, frameon=False, labelcolor=pictures.INK)
  return pictures.svg(figure, f"{label} by the length of the prompt")


def _others(works: list[str], share: float) -> np.ndarray:
  """Pairs [pairs, 2] of clips of different works, ten times as many as one in `share`, if any."""
  count, pairs = len(works), []
  for step in range(1, count):
    if len(pairs) * share >= 10:
      break
    pairs += [
      (i, (i + step) % count) for i in range(count) if works[i] != works[(i + step) % count]
    ]
  if not pairs:
    raise ValueError(f"memorization: {count} train clips are all of one work")
  return np.array(pairs)


def _measure(written, own, vectors, threshold: float) -> dict[str, float]:
  same = written == own
  near = transport_cost(written, own, vectors) < threshold
  values = (same.all(axis=(1, 2)), near, same)
  return {name: float(value.mean()) for name, value in zip(_MEASURES, values)}


def transport_cost(a: np.ndarray, b: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """The cost [pairs] of turning codes a [pairs, frames, levels] into b in any order.

  The mean distance of the vectors [levels, codebook_size, dim] of codes that are matched one to
  one, with as small a sum as there is, softened by Sinkhorn's algorithm (MusicLM Section 4.4).
  """
  costs = _sinkhorn(jnp.asarray(vectors[: a.shape[-1]]))
  return in_batches(
    lambda pair: costs(pair[:, 0], pair[:, 1]), np.stack([a, b], axis=1), min(64, len(a))
  )


def _sinkhorn(vectors: jax.Array):
  @jax.jit
  def costs(a, b):
    return jax.lax.map(lambda pair: cost(*pair), (dequantize(a, vectors), dequantize(b, vectors)))

  def cost(x, y):
    squares = jnp.square(x).sum(axis=1)[:, None] + jnp.square(y).sum(axis=1)[None] - 2 * x @ y.T
    distances = jnp.sqrt(jnp.maximum(squares, 0.0))
    mean = jnp.maximum(distances.mean(), 1e-9)
    kernel = jnp.exp(-_SHARPNESS * distances / mean)
    rows = jnp.ones(len(x))

    def balance(_, rows):
      columns = 1 / jnp.maximum(kernel.T @ rows, 1e-30)
      return 1 / jnp.maximum(kernel @ columns, 1e-30)

    rows = jax.lax.fori_loop(0, _ROUNDS, balance, rows)
    columns = 1 / jnp.maximum(kernel.T @ rows, 1e-30)
    plan = rows[:, None] * kernel * columns[None]
    return (plan * distances).sum() / len(x)

  return costs
