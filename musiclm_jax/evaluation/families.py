"""The family of the leading instrument: classifiers of musicnn's embeddings, by what they judge.

The timbre of codec round trips is not that of real clips, and a classifier of real clips is at
chance on them. So there is one of real clips, and one of round trips for these and for generated
music.
"""

import dataclasses
import functools

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from musiclm_jax.embedders import musicnn
from musiclm_jax.embedders.batches import in_batches
from musiclm_jax.evaluation.held_out import HeldOut, crop, read_split
from musiclm_jax.ranges import PositiveFloat, PositiveInt


class Classifier:
  """Tells families by embeddings [clips, patches, dim] of clips of known families.

  A logistic regression on the mean over patches. Raises ValueError where all clips are of one
  family.
  """

  def __init__(self, embeddings: np.ndarray, families: list[str]):
    if len(set(families)) < 2:
      raise ValueError(
        f"{len(families)} train clips of {sorted(set(families))}: the classifier of instrument "
        "families needs clips of at least two families"
      )
    self._model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))
    self._model.fit(embeddings.mean(axis=1), families)
    self.families = list(self._model.classes_)

  def right(self, embeddings: np.ndarray, families: list[str]) -> np.ndarray:
    """Whether the given family is the most probable one, [clips] float."""
    found = self._model.predict(embeddings.mean(axis=1))
    return (found == np.array(families)).astype(float)

  def scores(self, embeddings: np.ndarray, families: list[str]) -> np.ndarray:
    """Probability [prompts, outputs] of the family of prompt i in the embeddings of output j.

    0 for a family that no train clip has.
    """
    shares = self._model.predict_proba(embeddings.mean(axis=1))
    column = {family: i for i, family in enumerate(self.families)}
    zeros = np.zeros(len(embeddings))
    return np.stack([shares[:, column[f]] if f in column else zeros for f in families])


@dataclasses.dataclass(frozen=True)
class Families:
  """Classifiers that learn from the first `seconds` of `clips` train clips."""

  clips: PositiveInt
  seconds: PositiveFloat
  batch_size: PositiveInt

  def classifiers(self, held_out: HeldOut) -> dict[str, Classifier]:
    """{"real": that of real clips, "round_trip": that of their codec round trips}.

    Raises ValueError where the train split has fewer clips, or of one family only.
    """
    families, embeddings = _train_clips(self, held_out)
    return {kind: Classifier(each, families) for kind, each in embeddings.items()}

  def real_embeddings(self, held_out: HeldOut) -> np.ndarray:
    """musicnn's embeddings [clips, patches, dim] of the train clips. Raises as `classifiers`."""
    return _train_clips(self, held_out)[1]["real"]


@functools.lru_cache(maxsize=1)  # several sections ask for the same
def _train_clips(settings: Families, held_out: HeldOut) -> tuple[list[str], dict[str, np.ndarray]]:
  """The families of train clips, and embeddings {"real", "round_trip"} of them."""
  train = read_split(held_out.data_dir, "train", count=settings.clips)
  families = [clip["family"].decode() for clip in train]
  rate, codec = held_out.sample_rate, held_out.part("soundstream")
  real = crop(train, round(settings.seconds * rate))
  music = in_batches(lambda x: codec("decode", codec("encode", x)), real, settings.batch_size)
  sets = {"real": real, "round_trip": music[:, : real.shape[1]]}
  return families, {kind: musicnn.embed(x, rate)[0] for kind, x in sets.items()}
