"""What a score is, and what measures it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np

from musiclm_jax.embedders.embedder import Classifier, Embedder, Joint
from musiclm_jax.evaluation import metrics
from musiclm_jax.scoring.clips import Clips

Need = Literal["reference", "real", "captions", "bpm", "key"]


@dataclasses.dataclass(frozen=True)
class Judged:
  """Clips of one system, and what they are judged by.

  works [clips] group clips that are not independent; `reference` is a set of real clips of other
  works; real [clips] are the real clips of the same names; captions, bpm and key [clips].
  """

  clips: Clips
  works: tuple[str, ...]
  reference: Clips | None = None
  real: Clips | None = None
  captions: tuple[str, ...] | None = None
  bpm: tuple[float, ...] | None = None
  key: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Score:
  """A value with its 95 % interval, and what a paired test needs: of a mean over clips its values
  and weights [clips], of another statistic its draws [draws] from works that are drawn anew.
  """

  value: float
  interval: tuple[float, float] | None
  values: np.ndarray | None = None
  weights: np.ndarray | None = None
  draws: np.ndarray | None = None


class Measure(Protocol):
  """What measures audio: a frozen dataclass of its settings.

  `label` is what it is called in tables; `better` is "less" or "more"; `needs` are the fields of
  Judged that must be there. Its value depends on these, on the audio, on its `settings` and on its
  `embedder`, if it has one, and on nothing else: `spec_of`.
  """

  label: str
  better: Literal["less", "more"]
  needs: tuple[Need, ...]
  settings: Mapping[str, str | int | float]
  embedder: Embedder | Classifier | Joint | None

  def __call__(self, judged: Judged) -> Score:
    """The score of clips. Raises TooFew where they do not suffice."""


@functools.cache  # the fingerprint of an embedder reads all its weights
def spec_of(measure: Measure) -> dict[str, str | int | float]:
  """The name of a measure and all that its value depends on besides what it judges."""
  own = measure.embedder.spec if measure.embedder else {}
  name = f"{measure.label} ({own['embedder']})" if own else measure.label
  return {"measure": name, **own, **measure.settings}


def name_of(measure: Measure) -> str:
  """What a measure is called in tables: its label and its embedder."""
  return spec_of(measure)["measure"]


class TooFew(Exception):
  """The clips do not suffice for a measure; the message says how many there are and how many are
  needed.
  """


def require(count: int, least: int, unit: str) -> None:
  """Raises TooFew for a count below the least."""
  if count < least:
    raise TooFew(f"{count} {unit}, at least {least} are needed")


def of_clips(values, works: tuple[str, ...], weights=None) -> Score:
  """The score that is the mean of values [clips], or the ratio of their sum to that of weights."""
  values = np.asarray(values, np.float64)
  interval = metrics.bootstrap(values, works, weights)
  return Score(metrics.ratio(values, weights), interval, values, weights)


def recentred(draws: np.ndarray, value: float) -> np.ndarray:
  """Draws [draws] with the mean `value`: repeated clips have less spread than others, which moves
  the draws of a distance of distributions all alike.
  """
  return draws - draws.mean() + value if len(draws) else draws


def of_draws(value: float, draws: np.ndarray) -> Score:
  """The score of a statistic with draws [draws] of it, [0] where there are none."""
  interval = tuple(np.percentile(draws, (2.5, 97.5)).tolist()) if len(draws) else None
  return Score(float(value), interval, draws=draws)
