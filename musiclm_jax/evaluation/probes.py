"""Linear probes of codes: how much of the notes and instruments can be read from them, frame by
frame.

A probe is a multinomial logistic regression on one-hot codes. It is fitted on some works and judged
on others of the same held-out clips, in folds, so that every clip is judged by a probe that has
seen no rendition of its work.
"""

import dataclasses

import numpy as np

from musiclm_jax.evaluation import metrics
from musiclm_jax.quiet import quiet

_FIRMNESS = 3.0  # inverse weight of the squared coefficients: a code seen once decides nothing


@dataclasses.dataclass(frozen=True)
class Truth:
  """What is known of the frames of clips: integers [clips, frames], negative where unknown.

  The melody's pitch class; the index of the lead's family of instruments; whether (1 or 0) a note
  of the melody begins in the frame or one beside it. works [clips] names the work of each clip.
  """

  pitch_class: np.ndarray
  family: np.ndarray
  onset: np.ndarray
  works: np.ndarray

  def first(self, clips: int) -> "Truth":
    """That of the first clips."""
    fields = dataclasses.fields(self)
    return Truth(**{field.name: getattr(self, field.name)[:clips] for field in fields})


def truth(clips: list[dict], frames: int, frame_rate: float) -> Truth:
  """The truth of the first `frames` of corpus clips at frame_rate Hz.

  The pitch class is that of the last onset before the middle of the frame, -1 before the first.
  """
  middles = (np.arange(frames) + 0.5) / frame_rate
  pitch, onset = np.full((len(clips), frames), -1), np.zeros((len(clips), frames), int)
  for pitches, begins, clip in zip(pitch, onset, clips):
    onsets = clip["onsets"][np.argsort(clip["onsets"][:, 0], kind="stable")]
    last = np.searchsorted(onsets[:, 0], middles, side="right") - 1
    if len(onsets):
      pitches[:] = np.where(last >= 0, np.round(onsets[last, 1]).astype(int) % 12, -1)
    near = np.floor(onsets[:, :1] * frame_rate).astype(int) + np.array([[-1, 0, 1]])
    begins[near[(near >= 0) & (near < frames)]] = 1
  family = np.unique([clip["family"] for clip in clips], return_inverse=True)[1]
  works = np.array([clip["work"] for clip in clips])
  return Truth(pitch, np.repeat(family[:, None], frames, axis=1), onset, works)


def probe(codes: np.ndarray, known: Truth, *, folds: int, seed: int) -> dict[str, dict]:
  """{label: {value, interval, shuffled, majority}} of probes of codes [clips, frames, levels].

  The value is the share of frames that are right for pitch_class and family, and for onset the area
  under the ROC curve. `interval` is a bootstrap over works (95 %), `shuffled` the value where clips
  get the labels of other clips, for probes fitted to such labels, and `majority` that of always the
  most frequent label. Raises ValueError where there are fewer works than folds.
  """
  order = np.random.default_rng(seed).permutation(len(codes))
  found = {}
  for name, measure in (("pitch_class", _accuracy), ("family", _accuracy), ("onset", _area)):
    labels = getattr(known, name)
    values, groups = measure(_scores(codes, labels, known.works, folds), labels, known.works)
    shuffled = labels[order]
    other = measure(_scores(codes, shuffled, known.works, folds), shuffled, known.works)[0]
    counts = np.bincount(labels[labels >= 0])
    interval = metrics.bootstrap(values, groups)
    found[name] = {
      "value": float(values.mean()),
      "interval": interval and list(interval),  # as JSON has it
      "shuffled": float(other.mean()),
      "majority": 0.5 if measure is _area else float(counts.max() / counts.sum()),
    }
  return found


def figures(found: dict[str, dict], wanted: dict[str, str]) -> dict[str, dict]:
  """The figures of what `probe` found; `wanted` has the target of each label, where it has one."""
  return {
    f"probe_{name}": metrics.figure(
      each["value"],
      wanted.get(name, ""),
      baseline=each["shuffled"],
      baseline_is="labels of other clips",
      interval=each["interval"],
    )
    for name, each in found.items()
  }


def _scores(codes: np.ndarray, labels: np.ndarray, works: np.ndarray, folds: int) -> np.ndarray:
  """Log-probabilities [clips, frames, labels] by probes of the other folds' works."""
  with quiet():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.preprocessing import OneHotEncoder

  if len(set(works)) < folds:
    count = len(set(works))
    raise ValueError(f"probes: wanted {folds} works or more, the held-out clips have {count}")
  scores = np.full((*labels.shape, int(labels.max()) + 1), -np.inf)
  for fitted, judged in GroupKFold(folds).split(codes, groups=works):
    seen = labels[fitted] >= 0
    rows = np.concatenate([codes[fitted][seen], labels[fitted][seen][:, None]], axis=1)
    rows, counts = np.unique(rows, axis=0, return_counts=True)  # codes repeat: far fewer rows
    encoder = OneHotEncoder(handle_unknown="ignore", dtype=np.float32)
    one_hot = encoder.fit_transform(rows[:, :-1])
    model = LogisticRegression(C=_FIRMNESS, tol=1e-3, max_iter=200)
    model.fit(one_hot, rows[:, -1], sample_weight=counts)
    rows = encoder.transform(codes[judged].reshape(-1, codes.shape[-1]))
    found = model.predict_log_proba(rows).reshape(*labels[judged].shape, -1)
    scores[np.ix_(judged, np.arange(labels.shape[1]), model.classes_)] = found
  return scores


def _accuracy(scores: np.ndarray, labels: np.ndarray, works: np.ndarray):
  """Whether each known frame is right [n], and its work [n]."""
  known = labels >= 0
  right = (scores.argmax(axis=-1) == labels)[known]
  return right.astype(float), np.repeat(works[:, None], labels.shape[1], axis=1)[known]


def _area(scores: np.ndarray, labels: np.ndarray, works: np.ndarray):
  """Of each frame with an onset [n]: the share of frames without one that score lower, half of
  those that score as high; and its work [n]. Their mean is the area under the ROC curve.
  """
  margin = scores[..., 1] - scores[..., 0]
  without = np.sort(margin[labels == 0])
  with_onset = margin[labels == 1]
  below = np.searchsorted(without, with_onset, side="left")
  upto = np.searchsorted(without, with_onset, side="right")
  groups = np.repeat(works[:, None], labels.shape[1], axis=1)[labels == 1]
  return (below + upto) / 2 / len(without), groups
