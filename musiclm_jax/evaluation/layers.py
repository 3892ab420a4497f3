"""Which layer of w2v-BERT the semantic codes should come from: probes of codes, ABX, codebook use.

AudioLM chose its layer by a sweep of ABX on speech (2209.03143, III-B). The corpus has the notes
and instruments of each clip, so the same is possible on music; but vectors may separate what their
codes do not, so the layer is chosen by linear probes of k-means codes.
"""

import dataclasses
import functools

import jax
import numpy as np

from musiclm_jax.embedders.batches import in_batches
from musiclm_jax.evaluation import metrics, page, probes
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.evaluation.semantic import labels
from musiclm_jax.ranges import PositiveFloat, PositiveInt, Seed
from musiclm_jax.seeds import random_key
from musiclm_jax.tokenizers.kmeans import kmeans, nearest, squared_lengths

_kmeans = jax.jit(kmeans, static_argnames=("codebook_size", "iterations"))


def abx(embeddings: np.ndarray, triples: np.ndarray) -> float:
  """The share of triples (a, b, x) with x nearer to a than to b by the cosine; chance is 0.5.

  embeddings [frames, dim], triples [n, 3] int; ties count half.
  """
  embeddings = metrics.unit(embeddings)
  a, b, x = (embeddings[column] for column in triples.T)
  margin = (a * x).sum(axis=1) - (b * x).sum(axis=1)
  return float((margin > 0).mean() + (margin == 0).mean() / 2)


def draw_triples(same, other, clip, work, count: int, rng: np.random.Generator) -> np.ndarray:
  """Frames (a, b, x) [count, 3] int for `abx` of the label `same`; all labels are int [frames].

  a and x have the same label `same`, b has another. x differs from a in the label `other` and in
  its work; b has the `other` of a, and is of the same clip where `same` changes within clips. A
  label below 0 is unknown. Raises ValueError where there are too few such frames.
  """
  known = np.flatnonzero((same >= 0) & (other >= 0))
  starts = np.flatnonzero(np.r_[True, np.diff(clip[known]) != 0])
  within = any(len(set(part)) > 1 for part in np.split(same[known], starts[1:]))
  found, size = [], 0
  for _ in range(200 if len(known) else 0):
    if size >= count:
      break
    a, b, x = rng.choice(known, (3, 16 * count))
    if within:  # a frame of a's own clip
      order = np.searchsorted(clip[known], clip[a])
      length = np.searchsorted(clip[known], clip[a], side="right") - order
      b = known[order + rng.integers(0, length)]
    valid = (same[a] == same[x]) & (same[a] != same[b]) & (other[a] == other[b])
    valid &= (work[a] != work[x]) & (other[a] != other[x])
    found.append(np.stack([a, b, x], axis=1)[valid])
    size += int(valid.sum())
  if size < count:
    raise ValueError(f"layers: wanted {count} ABX triples, the held-out clips have {size}")
  return np.concatenate(found)[:count]


@dataclasses.dataclass(frozen=True)
class Layers:
  """Every layer of w2v-BERT: probes of its codes and their use, ABX of pitch class and instrument.

  On the first `seconds` of `clips` clips, with `triples` triples and codebooks of `codebook_size`
  by k-means on these clips; probes in `folds` folds (module probes).
  """

  clips: PositiveInt
  seconds: PositiveFloat
  triples: PositiveInt
  codebook_size: PositiveInt
  folds: PositiveInt
  batch_size: PositiveInt
  seed: Seed

  name = "layers"
  parts = ("w2v_bert",)

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    part = held_out.part("w2v_bert")
    waveforms = held_out.waveforms(self.seconds, self.clips)
    rows, triples = [], None
    for layer in part.module.layers:
      embed = functools.partial(part, "embed", layer=layer)
      embeddings = in_batches(embed, waveforms, self.batch_size)
      if triples is None:
        triples = self._triples(held_out, *embeddings.shape[:2])
      flat = embeddings.reshape(-1, embeddings.shape[-1])
      if layer is not None:  # the views are scaled as they are quantized
        flat = (flat - flat.mean(axis=0)) / np.maximum(flat.std(axis=0), 1e-6)
      row = {name: abx(flat, chosen) for name, chosen in triples.items()}
      codes, use = self._codes(flat)
      codes = codes.reshape(*embeddings.shape[:2], 1)
      known = self._truth(held_out, *embeddings.shape[:2])
      probed = probes.probe(codes, known, folds=self.folds, seed=self.seed)
      rows.append({"layer": layer, **row, "codebook_use": use, "probes": probed})
    best = max(rows, key=lambda row: _total(row["probes"]))
    figures = {
      f"best_layer_{name}": each for name, each in probes.figures(best["probes"], {}).items()
    }
    figures["best_layer"] = metrics.figure(_number(best["layer"]))
    for name in triples:
      best = max(rows, key=lambda row: row[name])  # noqa: B023
      figures[f"{name}_abx_best"] = metrics.figure(best[name], baseline=0.5, baseline_is="chance")
      figures[f"{name}_abx_best_layer"] = metrics.figure(_number(best["layer"]))
    return {"figures": figures, "rows": rows}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """A table of the layers."""
    keys = ("pitch", "instrument", "codebook_use")
    names = ("pitch_class", "family", "onset")
    rows = [
      [
        "views" if row["layer"] is None else str(row["layer"]),
        *(page.interval(*(row["probes"][key][x] for x in ("value", "interval"))) for key in names),
        *(page.amount(row[key]) for key in keys),
      ]
      for row in results["rows"]
    ]
    head = ["layer", *(f"probe of {label.replace('_', ' ')}" for label in names)]
    head += ["ABX pitch class", "ABX instrument", "k-means use"]
    note = (
      "Linear probes of k-means codes, as for the semantic codes, with a smaller codebook. ABX: is "
      "a frame nearer to one of the same pitch class (instrument) in another work than to one "
      "that differs in that alone? Chance is 0.5. Layer 0 is the input of the masked Conformer; "
      "the views are what codes can be made of without any layer."
    )
    return page.section("Layers of w2v-BERT", note, page.table(head, rows))

  def _triples(self, held_out: HeldOut, clips: int, frames: int) -> dict[str, np.ndarray]:
    pitch, instrument = (x[:clips].reshape(-1) for x in labels(held_out, frames))
    clip = np.repeat(np.arange(clips), frames)
    works = [c["work"] for c in held_out.clips[:clips]]
    work = np.repeat(np.unique(works, return_inverse=True)[1], frames)
    rng = np.random.default_rng(self.seed)
    return {
      "pitch": draw_triples(pitch, instrument, clip, work, self.triples, rng),
      "instrument": draw_triples(instrument, pitch, clip, work, self.triples, rng),
    }

  @staticmethod
  def _truth(held_out: HeldOut, clips: int, frames: int) -> probes.Truth:
    rate = held_out.source("semantic")["frame_rate"]
    return probes.truth(held_out.clips[:clips], frames, rate)

  def _codes(self, x: np.ndarray) -> tuple[np.ndarray, float]:
    """k-means codes [frames] of x [frames, dim]; their perplexity as a share of the codebook."""
    key, weights = random_key(self.seed), np.ones(len(x), np.float32)
    centres, counts = _kmeans(key, x, weights, codebook_size=self.codebook_size, iterations=10)
    codes = np.asarray(nearest(x, centres, squared_lengths(centres)))
    return codes, float(np.exp(metrics.entropy(np.asarray(counts)))) / self.codebook_size


def _number(layer: int | None) -> int:
  """The layer as a figure has it: -1 for the views."""
  return -1 if layer is None else layer


def _total(probed: dict[str, dict]) -> float:
  """The sum of what probes of codes find above the most frequent label."""
  return sum(each["value"] - each["majority"] for each in probed.values())
