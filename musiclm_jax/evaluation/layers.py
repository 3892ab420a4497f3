"""Which layer of w2v-BERT the semantic tokens should come from: ABX discrimination, codebook use.

AudioLM chose its layer by such a sweep on speech (2209.03143, III-B). The corpus has the notes and
instruments of each clip, so the same is possible on music.
"""

import dataclasses
import functools

import jax
import numpy as np

from musiclm_jax.evaluation import metrics, page
from musiclm_jax.evaluation.held_out import HeldOut, in_batches
from musiclm_jax.evaluation.semantic import labels
from musiclm_jax.ranges import PositiveFloat, PositiveInt, Seed
from musiclm_jax.seeds import random_key
from musiclm_jax.tokenizers.kmeans import kmeans

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
  """ABX of pitch class and of instrument, and k-means use, of every layer of w2v-BERT.

  On the first `seconds` of `clips` clips, with `triples` triples and codebooks of `codebook_size`.
  """

  clips: PositiveInt
  seconds: PositiveFloat
  triples: PositiveInt
  codebook_size: PositiveInt
  batch_size: PositiveInt
  seed: Seed

  name = "layers"
  parts = ("w2v_bert",)

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    part = held_out.part("w2v_bert")
    waveforms = held_out.waveforms(self.seconds, self.clips)
    depth = part.module.num_layers
    rows, triples = [], None
    for layer in range(depth + 1):
      embed = functools.partial(part, "embed", layer=layer)
      embeddings = in_batches(embed, waveforms, self.batch_size)
      if triples is None:
        triples = self._triples(held_out, *embeddings.shape[:2])
      flat = embeddings.reshape(-1, embeddings.shape[-1])
      flat = (flat - flat.mean(axis=0)) / np.maximum(flat.std(axis=0), 1e-6)
      row = {name: abx(flat, chosen) for name, chosen in triples.items()}
      rows.append({"layer": layer, **row, "codebook_use": self._use(flat)})
    figures = {}
    for name in triples:
      best = max(rows, key=lambda row: row[name])  # noqa: B023
      figures[f"{name}_abx_best"] = metrics.figure(best[name], baseline=0.5, baseline_is="chance")
      figures[f"{name}_abx_best_layer"] = metrics.figure(best["layer"])
    return {"figures": figures, "rows": rows}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """A table of the layers."""
    keys = ("pitch", "instrument", "codebook_use")
    rows = [
      [str(row["layer"]), *(page.amount(row[key]) for key in keys)] for row in results["rows"]
    ]
    head = ["layer", "ABX pitch class", "ABX instrument", "k-means use"]
    note = (
      "Is a frame nearer to one of the same pitch class (instrument) in another work than to one "
      "that differs in that alone? Chance is 0.5. Layer 0 is the input of the masked Conformer."
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

  def _use(self, x: np.ndarray) -> float:
    """Perplexity of k-means codes of x [frames, dim] as a share of the codebook."""
    key, weights = random_key(self.seed), np.ones(len(x), np.float32)
    _, counts = _kmeans(key, x, weights, codebook_size=self.codebook_size, iterations=10)
    return float(np.exp(metrics.entropy(np.asarray(counts)))) / self.codebook_size
