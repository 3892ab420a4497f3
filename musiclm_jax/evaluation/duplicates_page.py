"""What held-out clips share with the train split, as tables and charts of the data report."""

import dataclasses
import html

import numpy as np

from musiclm_jax.evaluation import duplicates, page, pictures
from musiclm_jax.ranges import NonNegativeInt, PositiveFloat, PositiveInt

_BINS = 40
_USUAL, _CHANCE = "train, other works", "frames permuted"


@dataclasses.dataclass(frozen=True)
class Duplicates:
  """Comparisons of at most `clips` clips of each held-out split with all of the train split.

  Spans of `seconds` of the first level of codes are compared, as sets of runs of `run` codes; the
  `pairs` nearest clips of each split are listed. What is usual is the nearness of `clips` clips of
  train to those of other works. seed draws the clips.
  """

  seconds: PositiveFloat
  run: PositiveInt
  clips: PositiveInt
  pairs: PositiveInt
  seed: NonNegativeInt

  def of_codes(
    self,
    name: str,
    columns: dict[str, list[np.ndarray]],
    works: dict[str, list[str]],
    ids: dict[str, list[str]],
    frame_rate: float,
  ) -> str:
    """HTML about the codes [frames, levels], at frame_rate Hz, of every record of all splits.

    "" without a train split and another one, or where `seconds` are fewer codes than `run` + 1.
    """
    frames = round(frame_rate * self.seconds)
    if frames <= self.run or "train" not in columns or len(columns) < 2:
      return ""
    train = columns["train"]
    rows = []
    for split, column in columns.items():
      if split != "train":
        shares = duplicates.repeated(column, train, frames)
        rows.append([split, *(page.amount(share) for share in shares)])
    spans = f"spans of {self.seconds:g} s"
    head = ["split", f"{spans} that the train split has exactly", "records with such a span"]
    parts = [page.table(head, rows)]
    pairs, similarities = [], {}
    for what, split, indices, allowed in self._asked(works):
      clips = [columns[split][i] for i in indices]
      near = duplicates.nearest(clips, train, allowed, frames=frames, run=self.run)
      near.sort(key=lambda each: -each.similarity)
      similarities[what] = [each.similarity for each in near]
      for each in near[: self.pairs]:
        places = [f"{frame / frame_rate:.1f} s" for frame in (each.start, each.train_start)]
        names = (ids[split][indices[each.clip]], ids["train"][each.train_clip])
        pairs.append([what, names[0], places[0], names[1], places[1], page.amount(each.similarity)])
      if split != "train":
        chance = duplicates.permuted(clips, self.seed)
        near = duplicates.nearest(chance, train, allowed, frames=frames, run=self.run)
        similarities.setdefault(_CHANCE, []).extend(each.similarity for each in near)
    note = (
      f"Near-duplicates: of each clip the span of {self.seconds:g} s that resembles one of a train "
      "clip most, as the Jaccard similarity of the sets of their runs of "
      f"{self.run} codes (w-shingling): 1 where the runs are the same; held sounds and silence, "
      "which may be among the exact spans, are left out. What is usual is that of train clips to "
      "other works of train."
    )
    text = f"<p class=note>{html.escape(note)}</p>"
    parts += [text, _distribution(f"{name}: similarity", similarities)]
    head = ["split", "clip", "from", "nearest train clip", "from", "similarity"]
    parts.append(page.details(f"{name}: nearest pairs", page.table(head, pairs)))
    return "".join(parts)

  def of_embeddings(
    self,
    name: str,
    columns: dict[str, list[np.ndarray]],
    works: dict[str, list[str]],
    ids: dict[str, list[str]],
  ) -> str:
    """HTML about the embeddings [windows, dim] of every record; "" as in `of_codes`."""
    if "train" not in columns or len(columns) < 2:
      return ""
    means = {split: duplicates.mean_embeddings(column) for split, column in columns.items()}
    cosines, pairs = {}, []
    for what, split, indices, allowed in self._asked(works):
      near, places = duplicates.nearest_cosines(means[split][indices], means["train"], allowed)
      cosines[what] = near
      for i in np.argsort(-near)[: self.pairs]:
        names = (ids[split][indices[i]], ids["train"][places[i]])
        pairs.append([what, *names, f"{near[i]:.4f}"])
    note = (
      "Of each clip the largest cosine to a train clip. What is usual is that of train clips to "
      "other works of train."
    )
    parts = [f"<p class=note>{note}</p>", _distribution(f"{name}: cosine", cosines)]
    head = ["split", "clip", "nearest train clip", "cosine"]
    parts.append(page.details(f"{name}: nearest pairs", page.table(head, pairs)))
    return "".join(parts)

  def _asked(self, works: dict[str, list[str]]):
    """(what, split, indices, allowed [indices, train clips]) of the clips that are compared."""
    rng = np.random.default_rng(self.seed)
    train = np.array(works["train"])
    for split in sorted(works, key=lambda name: name == "train"):  # what is usual comes last
      every = works[split]
      count = min(self.clips, len(every))
      indices = np.sort(rng.choice(len(every), count, replace=False))
      allowed = np.ones((count, len(train)), bool)
      if split == "train":
        allowed = train[indices][:, None] != train[None]
      yield _USUAL if split == "train" else split, split, indices, allowed


def _distribution(title: str, values: dict[str, list[float]]) -> str:
  """A chart and a table of values {set: [clips]}; what is above all but 1 % of the usual ones."""
  finite = {what: np.asarray(x)[np.isfinite(x)] for what, x in values.items()}
  finite = {what: x for what, x in finite.items() if len(x)}
  if not finite:
    return "<p>no clips to compare</p>"
  figure, plot = pictures.axes(f"{title}, share of clips", "")
  edges = np.histogram_bin_edges(np.concatenate(list(finite.values())), bins=_BINS)
  for what, x in finite.items():
    plot.stairs(np.histogram(x, edges)[0] / len(x), edges, label=what)
  plot.legend(fontsize=7, frameon=False, labelcolor=pictures.INK)
  usual = finite.get(_USUAL)
  limit = np.inf if usual is None else np.percentile(usual, 99)
  rows = [
    [
      what,
      f"{len(x):,}",
      *(f"{value:.3f}" for value in np.percentile(x, (50, 90, 99, 100))),
      f"{(x > limit).sum():,}",
    ]
    for what, x in finite.items()
  ]
  head = ["", "clips", "50 %", "90 %", "99 %", "most", "above 99 % of the usual"]
  return page.bars(pictures.svg(figure, title)) + page.table(head, rows)
