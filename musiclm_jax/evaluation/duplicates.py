"""What held-out clips share with the train split: equal spans of codes, near-duplicates, nearness.

Near-duplicates are found by w-shingling: a span of codes is the set of its runs of `run` codes, and
the resemblance of two spans is the Jaccard similarity of their sets (Broder, "On the Resemblance
and Containment of Documents", 1997). It is computed exactly, without sketches: a table of which
runs of the asked spans each train clip has, made of a block of clips at a time, gives the clips
that share most; each is then compared at the place where it shares most.
"""

import dataclasses

import numpy as np
from scipy import sparse

from musiclm_jax.evaluation import metrics

_BLOCK = 512  # train clips whose runs are in memory at once
_CANDIDATES = 5  # train clips that share most runs with a span, which are compared with it
_LEAST = 1 / 3  # of the runs of a span that must differ; a held sound is like any other


@dataclasses.dataclass(frozen=True)
class Near:
  """The span of a train clip that is nearest to one of a held-out clip: indices, first frames."""

  similarity: float
  clip: int
  start: int
  train_clip: int
  train_start: int


def hashes(codes: np.ndarray, length: int) -> np.ndarray:
  """A hash uint64 of each run of `length` codes of the first level of codes [frames, levels]."""
  first = np.asarray(codes)[:, 0].astype(np.uint64) + np.uint64(1)
  if len(first) < length:
    return np.zeros(0, np.uint64)
  factors = np.random.default_rng(0).integers(1, 2**63, length, np.uint64) | np.uint64(1)
  windows = np.lib.stride_tricks.sliding_window_view(first, length)
  return (windows * factors).sum(axis=1, dtype=np.uint64)


def repeated(column: list[np.ndarray], train: list[np.ndarray], frames: int) -> tuple[float, float]:
  """How many spans of `frames` codes of clips occur in the train split, in this order.

  column and train are lists of codes [frames, levels], of which the first level counts. Returns the
  share of all spans, and the share of clips with such a span.
  """
  known = np.unique(np.concatenate([hashes(codes, frames) for codes in train]))
  found = [_among(hashes(codes, frames), known) for codes in column]
  every = np.concatenate(found)
  return float(every.mean()) if len(every) else 0.0, float(np.mean([x.any() for x in found]))


def nearest(
  asked: list[np.ndarray],
  train: list[np.ndarray],
  allowed: np.ndarray,
  *,
  frames: int,
  run: int,
) -> list[Near]:
  """For each of the `asked` clips that can be compared its span nearest to one of a train clip.

  asked and train are lists of codes [frames, levels], of which the first level counts; allowed
  [asked, train] bool tells which may be compared. Spans of `frames` codes follow each other in an
  asked clip; those that have fewer different runs of `run` codes than a third of all are left out,
  and so are clips without others. Train spans begin anywhere. Memory grows with the number of asked
  clips, and with that of train clips only by `allowed`.
  """
  spans = [
    (clip, start, runs)
    for clip, codes in enumerate(asked)
    for start in range(0, len(codes) - frames + 1, frames)
    if len(runs := np.unique(hashes(codes[start : start + frames], run)))
    >= _LEAST * (frames - run + 1)
  ]
  if not spans:
    return []
  clips = np.array([clip for clip, _, _ in spans])
  vocabulary = np.unique(np.concatenate([runs for _, _, runs in spans]))
  table = _table([runs for _, _, runs in spans], vocabulary)
  shared = np.zeros((len(spans), 0), np.int32)
  candidates = np.zeros((len(spans), 0), np.int64)
  for start in range(0, len(train), _BLOCK):
    block = train[start : start + _BLOCK]
    counts = (table @ _table([np.unique(hashes(x, run)) for x in block], vocabulary).T).toarray()
    counts[~allowed[clips, start : start + len(block)]] = -1
    numbers = np.broadcast_to(np.arange(start, start + len(block)), counts.shape)
    shared = np.concatenate([shared, counts], axis=1)
    candidates = np.concatenate([candidates, numbers], axis=1)
    best = np.argsort(-shared, axis=1, kind="stable")[:, :_CANDIDATES]
    shared, candidates = (np.take_along_axis(x, best, axis=1) for x in (shared, candidates))
  best = {}
  for (clip, start, runs), counts, numbers in zip(spans, shared, candidates):
    for number in numbers[counts >= 0]:
      similarity, place = _compare(runs, hashes(train[number], run), frames - run + 1)
      if clip not in best or similarity > best[clip].similarity:
        best[clip] = Near(similarity, clip, start, int(number), place)
  return list(best.values())


def permuted(codes: list[np.ndarray], seed: int) -> list[np.ndarray]:
  """The clips with their frames in a random order: what resemblance has by chance."""
  rng = np.random.default_rng(seed)
  return [rng.permutation(each) for each in codes]


def mean_embeddings(column: list[np.ndarray]) -> np.ndarray:
  """The mean of each clip's embeddings [windows, dim], of length 1: [clips, dim] float32."""
  return metrics.unit(np.stack([np.asarray(x, np.float32).mean(axis=0) for x in column]))


def nearest_cosines(
  asked: np.ndarray, train: np.ndarray, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The largest cosine [asked] to a train clip that may be compared, and the index of that clip.

  asked and train [clips, dim] of length 1; allowed [asked, train] bool.
  """
  cosines = np.where(allowed, asked @ train.T, -np.inf)
  return cosines.max(axis=1), cosines.argmax(axis=1)


def _table(sets: list[np.ndarray], vocabulary: np.ndarray) -> sparse.csr_array:
  """Which of the ordered vocabulary each set has, [sets, vocabulary] int32 of 0 and 1."""
  kept = [np.searchsorted(vocabulary, each[_among(each, vocabulary)]) for each in sets]
  ends = np.concatenate([[0], np.cumsum([len(each) for each in kept])])
  columns = np.concatenate(kept)
  ones = np.ones(len(columns), np.int32)
  return sparse.csr_array((ones, columns, ends), shape=(len(sets), len(vocabulary)))


def _compare(runs: np.ndarray, other: np.ndarray, count: int) -> tuple[float, int]:
  """The Jaccard similarity of a set of runs and the `count` runs of a clip that share most with it,
  and the place where these begin.
  """
  sums = np.concatenate([[0], np.cumsum(_among(other, runs))])
  count = min(count, len(other))
  place = int(np.argmax(sums[count:] - sums[:-count])) if count else 0
  span = np.unique(other[place : place + count])
  both = int(_among(span, runs).sum())
  return both / (len(runs) + len(span) - both), place


def _among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
  """Whether each of values is among the ordered ones."""
  places = np.minimum(np.searchsorted(ordered, values), max(len(ordered) - 1, 0))
  return ordered[places] == values if len(ordered) else np.zeros(len(values), bool)
