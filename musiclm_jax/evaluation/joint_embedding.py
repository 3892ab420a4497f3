"""What text and audio share in the joint embedding: the codes of both, and facts read from both.

The stages are trained on codes of audio and generate from codes of texts.
"""

import dataclasses

import numpy as np

from musiclm_jax.datasets.captions import brightness
from musiclm_jax.embedders.batches import in_batches
from musiclm_jax.evaluation import metrics, page
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.evaluation.retrieval import clip_embedding, clip_embeddings, text_rows
from musiclm_jax.ranges import PositiveFloat, PositiveInt

_FACTS = {
  "tempo_word": lambda clip: clip["tempo_word"],
  "family": lambda clip: clip["family"],
  "mode": lambda clip: brightness(clip["key"]),
}


def agreement(audio: np.ndarray, text: np.ndarray, works: np.ndarray) -> list[dict]:
  """How often a text has the code of its own clip, and of a clip of another work, by level.

  audio and text [clips, levels] are codes, works [clips]. Gives {"own", "other", "interval",
  "own_prefix", "other_prefix"} of each level; a prefix is all levels up to this one, the interval
  that of `own`. Raises ValueError where all clips are of one work.
  """
  same = text[:, None] == audio[None]
  others = works[:, None] != works[None]
  if not others.any():
    raise ValueError(f"agreement: wanted clips of several works, found {works[0]} alone")
  levels = []
  for level in range(audio.shape[-1]):
    one, prefix = same[..., level], same[..., : level + 1].all(axis=-1)
    levels.append(
      {
        "own": float(one.diagonal().mean()),
        "other": float(one[others].mean()),
        "interval": [*metrics.bootstrap(one.diagonal(), works)],
        "own_prefix": float(prefix.diagonal().mean()),
        "other_prefix": float(prefix[others].mean()),
      }
    )
  return levels


def relative_errors(quantizer, embeddings: np.ndarray, codes: np.ndarray) -> list[float]:
  """The mean squared error of the codes' first 1, 2, ... levels over the embeddings' variance.

  embeddings [n, dim] and codes [n, levels].
  """
  variance = embeddings.var(axis=0).sum()
  errors = []
  for count in range(1, codes.shape[-1] + 1):
    decoded = np.asarray(quantizer("decode", codes[:, None, :count]))[:, 0]
    errors.append(float(np.square(embeddings - decoded).sum(axis=1).mean() / variance))
  return errors


@dataclasses.dataclass(frozen=True)
class Codes:
  """Whether the codes of a caption are those of its clip, and the errors of the quantizer.

  The agreement at each level is given by itself and over that with clips of other works. `wanted`
  is {figure: comparison} of the targets of a size. Raises ValueError for a target of no figure.
  """

  batch_size: PositiveInt
  wanted: dict[str, str]

  name = "mulan_codes"
  parts = ("mulan", "mulan_rvq", "bundle")

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    quantizer = held_out.part("mulan_rvq")
    audio = clip_embeddings(held_out)
    text = text_embeddings(held_out, held_out.clips, self.batch_size)

    def encode(x):
      return in_batches(lambda y: quantizer("encode", y[:, None])[:, 0], x, self.batch_size)

    codes = {"audio": encode(audio), "text": encode(text)}
    works = np.array([clip["work"] for clip in held_out.clips])
    levels = agreement(codes["audio"], codes["text"], works)
    for name, x in (("audio", audio), ("text", text)):
      for level, error in zip(levels, relative_errors(quantizer, x, codes[name])):
        level[f"{name}_error"] = error
    measures = {}
    for index, level in enumerate(levels):
      measures[f"level_{index + 1}_agreement"] = {
        "value": level["own"],
        "baseline": level["other"],
        "baseline_is": "clips of other works",
        "interval": level["interval"],
      }
      # where no clip of another work has a text's code, as if one of all had
      other = max(level["other"], len(works) ** -2)
      over = {"value": level["own"] / other, "baseline": 1.0}
      measures[f"level_{index + 1}_agreement_over_other"] = over
    metrics.check_wanted(self.wanted, tuple(measures))
    return {"figures": metrics.figures(measures, self.wanted), "levels": levels}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """A table of the levels."""
    keys = ("own", "other", "own_prefix", "other_prefix", "audio_error", "text_error")
    rows = [
      [str(index + 1), *(page.amount(level[key]) for key in keys)]
      for index, level in enumerate(results["levels"])
    ]
    head = ["level", "same code", "other work", "same up to here", "other work"]
    note = (
      "Share of captions with the code of their clip, of a clip of another work, and the squared "
      "error of the levels up to this one over the variance."
    )
    inner = page.table([*head, "error, audio", "error, text"], rows)
    return page.section("MuLan codes of text and of audio", note, inner)


@dataclasses.dataclass(frozen=True)
class Probes:
  """Facts of a clip that a linear classifier reads from its embeddings of text and of audio.

  Figures are balanced accuracies: every value of a fact counts alike, because most music is major.
  The classifier is a logistic regression of the strength `penalty`, trained on the first
  `train_clips` clips of the train split and tested on held-out works. Embeddings of audio are means
  over as long a span as the first held-out clip. `wanted` is {figure: comparison} of the targets of
  a size. Raises ValueError for a target of no figure.
  """

  train_clips: PositiveInt
  penalty: PositiveFloat
  batch_size: PositiveInt
  wanted: dict[str, str]

  name = "mulan_probes"
  parts = ("mulan", "bundle")

  def __post_init__(self):
    names = tuple(f"{fact}_from_{side}" for fact in _FACTS for side in ("audio", "text"))
    metrics.check_wanted(self.wanted, names)

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    fields = ("caption", "tempo_word", "family", "key")
    train = held_out.train_rows(fields, ("mulan",), self.train_clips)
    clips = {"train": [clip for clip, _ in train], "test": held_out.clips}
    shards = {"train": [tokens for _, tokens in train], "test": held_out.shards}
    seconds = len(held_out.clips[0]["waveform"]) / held_out.sample_rate
    sides = {
      "audio": {
        split: np.stack([clip_embedding(held_out, row, seconds) for row in rows])
        for split, rows in shards.items()
      },
      "text": {
        split: text_embeddings(held_out, some, self.batch_size) for split, some in clips.items()
      },
    }
    measures, works = {}, [clip["work"] for clip in held_out.clips]
    for fact, of in _FACTS.items():
      labels = {split: np.array([of(clip) for clip in some]) for split, some in clips.items()}
      if len(set(labels["train"])) < 2:
        raise ValueError(
          f"{held_out.data_dir}: {fact} is {labels['train'][0]} in all of {len(train)} train clips:"
          " a probe of it needs two values or more"
        )
      values, value, counts = np.unique(labels["test"], return_inverse=True, return_counts=True)
      weights = (1 / counts)[value]  # each value of the fact counts alike
      for side, x in sides.items():
        right = self._right(x, labels) * weights
        measures[f"{fact}_from_{side}"] = {
          "value": right.sum() / weights.sum(),
          "baseline": 1 / len(values),
          "baseline_is": "always the same",
          "interval": metrics.bootstrap(right, works, weights),
        }
    return {"figures": metrics.figures(measures, self.wanted)}

  @staticmethod
  def show(results: dict, out_dir: str) -> None:
    """Nothing beyond the figures."""

  def _right(self, x: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> np.ndarray:
    """Which held-out clips get their label, [clips] bool."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=1 / self.penalty, max_iter=1000, class_weight="balanced")
    model = make_pipeline(StandardScaler(), regression)
    model.fit(x["train"], labels["train"])
    return model.predict(x["test"]) == labels["test"]


def text_embeddings(held_out: HeldOut, clips: list[dict], batch_size: int) -> np.ndarray:
  """Embeddings [clips, dim] of the captions of clips."""
  rows = text_rows(held_out.bundle, [clip["caption"] for clip in clips])
  model = held_out.part("mulan")
  return in_batches(lambda x: model("embed_text", x), rows, batch_size)
