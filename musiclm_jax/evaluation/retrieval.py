"""Retrieval among held-out clips: audio by text and text by audio, a melody by another rendition.

MuLan Section 4, MusicLM Appendix C.
"""

import dataclasses
import html

import numpy as np

from musiclm_jax.embedders.batches import in_batches
from musiclm_jax.evaluation import metrics, page, pictures
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.evaluation.humming import hum
from musiclm_jax.export import bundle as bundles
from musiclm_jax.ranges import PositiveInt
from musiclm_jax.sources import mean_embedding
from musiclm_jax.text import Tokenizer


def text_rows(bundle: str, texts: list[str]) -> np.ndarray:
  """Token ids [texts, text_length] int32 by the bundle's text model, truncated, 0 for padding."""
  description = bundles.load_description(bundle)
  return Tokenizer(description["text_model"]).fitted(texts, description["text_length"])


def clip_embedding(held_out: HeldOut, row: dict, seconds: float) -> np.ndarray:
  """The MuLan embedding [dim], of length 1, of the first `seconds` of the clip of these tokens."""
  source = held_out.source("mulan")
  sizes = source["window_seconds"], source["hop_seconds"]
  return mean_embedding(row["mulan"], 0.0, seconds, *sizes)


def clip_embeddings(held_out: HeldOut) -> np.ndarray:
  """MuLan embeddings [clips, dim] of length 1: the mean over the windows inside the clip."""
  pairs = zip(held_out.clips, held_out.shards)
  return np.stack(
    [clip_embedding(held_out, row, len(c["waveform"]) / held_out.sample_rate) for c, row in pairs]
  )


def caption_cosines(
  held_out: HeldOut, clips: list[dict], waveforms: np.ndarray, batch_size: int
) -> np.ndarray:
  """Cosines [captions, waveforms] of the clips' captions and waveforms [n, samples] by MuLan.

  Of a waveform that is longer than MuLan's window only the first window counts; a shorter one is
  padded by zeros.
  """
  model = held_out.part("mulan")
  text = model("embed_text", text_rows(held_out.bundle, [clip["caption"] for clip in clips]))
  samples = round(held_out.source("mulan")["window_seconds"] * held_out.sample_rate)
  some = waveforms[:, :samples]
  some = np.pad(some, ((0, 0), (0, samples - some.shape[1])))
  return np.asarray(text) @ in_batches(lambda x: model("embed_audio", x), some, batch_size).T


@dataclasses.dataclass(frozen=True)
class MuLan:
  """Retrieval between captions and audio over all held-out clips, zero-shot tags, and the use of
  the codes. `wanted` is {figure: comparison} of the targets of a size, for
  {text_to_audio,audio_to_text}_recall_at_10. Raises ValueError for another figure.
  """

  batch_size: PositiveInt
  wanted: dict[str, str]

  name = "mulan"
  parts = ("mulan", "mulan_rvq", "bundle")

  def __post_init__(self):
    names = ("text_to_audio_recall_at_10", "audio_to_text_recall_at_10")
    metrics.check_wanted(self.wanted, names)

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    rows = text_rows(held_out.bundle, [clip["caption"] for clip in held_out.clips])
    model, quantizer = held_out.part("mulan"), held_out.part("mulan_rvq")
    text = in_batches(lambda x: model("embed_text", x), rows, self.batch_size)
    audio = clip_embeddings(held_out)
    same = (rows[:, None] == rows[None]).all(axis=-1)
    similarities = {"text_to_audio": text @ audio.T, "audio_to_text": audio @ text.T}
    directions = {name: metrics.retrieval(x, same) for name, x in similarities.items()}
    works = [clip["work"] for clip in held_out.clips]
    figures = {"clips": metrics.figure(len(rows), ">= 200")}
    for (name, found), similarity in zip(directions.items(), similarities.values()):
      figures |= _recalls(name, found, ">= 4")
      recall = {
        "value": found["recall_at_10"],
        "baseline": found["chance_at_10"],
        "baseline_is": "chance",
        "interval": metrics.bootstrap(metrics.ranks(similarity, same) <= 10, works),
      }
      figures |= metrics.figures({f"{name}_recall_at_10": recall}, self.wanted)
    every = np.concatenate([row["mulan"] for row in held_out.shards])
    encode = lambda x: quantizer("encode", x[:, None])[:, 0]  # noqa: E731
    size = quantizer.module.codebook_size
    usage = metrics.code_usage(in_batches(encode, every, 16 * self.batch_size), size)
    tags = self._tags(held_out, audio)
    figures["zero_shot_tags"] = metrics.figure(len(tags))
    if tags:
      figures["zero_shot_tagging_auc"] = metrics.figure(
        np.mean(list(tags.values())), baseline=0.5, baseline_is="chance"
      )
    return {"figures": figures, "retrieval": directions, "usage": usage, "tags": tags}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """Recall in both directions, the tags, and the use of the codebooks."""
    areas = sorted(results["tags"].items(), key=lambda item: -item[1])
    rows = [[tag, page.amount(area)] for tag, area in areas]
    tags = page.details("tags", page.table(["aspect, by its text alone", "ROC AUC"], rows))
    inner = _table(results["retrieval"]) + tags + _usage("MuLan", results["usage"])
    return page.section("MuLan: text and audio", _RECALL, inner)

  def _tags(self, held_out: HeldOut, audio: np.ndarray) -> dict[str, float]:
    """{aspect: area under the ROC curve} of those that at least 5 clips have and 5 have not.

    A clip's score is the similarity of its audio to the aspect's text (MuLan Section 4.3).
    """
    from sklearn.metrics import roc_auc_score

    aspects = [set(clip["aspect_list"]) for clip in held_out.clips]
    has = {tag: np.array([tag in each for each in aspects]) for tag in sorted(set.union(*aspects))}
    has = {tag: clips for tag, clips in has.items() if 5 <= clips.sum() <= len(clips) - 5}
    if not has:
      return {}
    model = held_out.part("mulan")
    rows = text_rows(held_out.bundle, list(has))
    text = in_batches(lambda x: model("embed_text", x), rows, self.batch_size)
    scores = text @ audio.T
    return {tag: float(roc_auc_score(has[tag], row)) for tag, row in zip(has, scores)}


@dataclasses.dataclass(frozen=True)
class Melody:
  """Retrieval of a melody by another rendition, among all other held-out clips, and by humming it.

  `hums` is {name of a way to hum: (speed over that of the clip, semitones higher)}.
  """

  hums: dict[str, tuple[float, int]]
  batch_size: PositiveInt

  name = "melody"
  parts = ("melody",)

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    encoder = held_out.part("melody")
    waveforms = held_out.waveforms(held_out.source("melody")["window_seconds"])
    embeddings = in_batches(lambda x: encoder("embed", x), waveforms, self.batch_size)
    names = np.array([clip["melody"] or f"clip {i}" for i, clip in enumerate(held_out.clips)])
    itself = np.eye(len(names), dtype=bool)
    similarity = np.where(itself, -np.inf, embeddings @ embeddings.T)
    right = (names[:, None] == names[None]) & ~itself
    found = metrics.retrieval(similarity, right)
    size = held_out.source("melody")["codebook_size"]
    usage = metrics.code_usage(np.concatenate([row["melody"] for row in held_out.shards]), size)
    figures = _recalls("melody", found, "")
    figures["melody_mrr"] = metrics.figure(
      found["mrr"], baseline=found["chance_mrr"], baseline_is="chance"
    )
    seconds, rate = waveforms.shape[1] / held_out.sample_rate, held_out.sample_rate
    retrieval = {"melody": found}
    for name, (faster, higher) in self.hums.items():
      notes = [clip["onsets"] * [1 / faster, 1] + [0, higher] for clip in held_out.clips]
      hums = np.stack([hum(onsets, seconds, rate) for onsets in notes])
      queries = in_batches(lambda x: encoder("embed", x), hums, self.batch_size)
      retrieval[name] = metrics.retrieval(queries @ embeddings.T, names[:, None] == names[None])
      figures |= _recalls(name, retrieval[name], "")
    return {"figures": figures, "retrieval": retrieval, "usage": usage}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """Recall for each kind of query, and the use of the codebooks."""
    inner = _table(results["retrieval"]) + _usage("melody", results["usage"])
    return page.section("Melodies", _RECALL, inner)


_RECALL = "Share of queries with a right answer among the first 1 and 10; chance in brackets."


def _table(retrieval: dict[str, dict]) -> str:
  """A row for each kind of query, as HTML."""
  pairs = (("recall_at_1", "chance_at_1"), ("recall_at_10", "chance_at_10"), ("mrr", "chance_mrr"))
  rows = []
  for name, found in retrieval.items():
    cells = [
      f"{page.amount(found[key])} <small>({page.amount(found[chance])})</small>"
      for key, chance in pairs
    ]
    rows.append([html.escape(name.replace("_", " ")), *cells, str(found["queries"])])
  return page.table(["", "recall@1", "recall@10", "MRR", "queries"], rows, safe=True)


def _usage(name: str, usage: list[dict]) -> str:
  return page.charts(pictures.usage_chart(name, usage)) + page.usage_table(usage)


def _recalls(name: str, found: dict, wanted: str) -> dict:
  """Figures of recall@1 and @10; `wanted` is the target of recall@10 over its chance."""
  figures = {
    f"{name}_recall_at_{k}": metrics.figure(
      found[f"recall_at_{k}"], baseline=found[f"chance_at_{k}"], baseline_is="chance"
    )
    for k in (1, 10)
  }
  figures[f"{name}_recall_at_10_over_chance"] = metrics.figure(
    found["recall_at_10"] / found["chance_at_10"], wanted, baseline=1.0, baseline_is="chance"
  )
  return figures
