"""Retrieval among held-out clips: music by its text and text by its music, and one melody in
another rendition (MuLan Section 4, MusicLM Appendix C).
"""

import dataclasses

import numpy as np

from musiclm_jax.evaluation import metrics
from musiclm_jax.evaluation.held_out import HeldOut, in_batches
from musiclm_jax.evaluation.humming import hum
from musiclm_jax.export import bundle as bundles
from musiclm_jax.ranges import PositiveInt
from musiclm_jax.text import Tokenizer


def text_rows(bundle: str, texts: list[str]) -> np.ndarray:
  """Token ids [texts, text_length] int32 of the bundle's text model, cut to length, 0 = padding."""
  description = bundles.load_description(bundle)
  return Tokenizer(description["text_model"]).fitted(texts, description["text_length"])


def clip_embeddings(held_out: HeldOut) -> np.ndarray:
  """MuLan embeddings [clips, dim] of length 1: the mean over the windows that lie in the clip."""
  window = held_out.source("mulan")["window_seconds"]
  rows = []
  for clip, row in zip(held_out.clips, held_out.shards):
    spare = len(clip["waveform"]) / held_out.sample_rate - window
    rows.append(row["mulan"][: 1 + int(max(spare, 0))].mean(axis=0))
  return metrics.unit(np.stack(rows))


@dataclasses.dataclass(frozen=True)
class MuLan:
  """Text to audio and audio to text over all held-out clips, and the codes of both sides."""

  batch_size: PositiveInt

  name = "mulan"
  parts = ("mulan", "mulan_rvq", "bundle")

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    rows = text_rows(held_out.bundle, [clip["caption"] for clip in held_out.clips])
    model, quantizer = held_out.part("mulan"), held_out.part("mulan_rvq")
    text = in_batches(lambda x: model("embed_text", x), rows, self.batch_size)
    sound = clip_embeddings(held_out)
    same = (rows[:, None] == rows[None]).all(axis=-1)
    directions = {
      "text_to_audio": metrics.retrieval(text @ sound.T, same),
      "audio_to_text": metrics.retrieval(sound @ text.T, same),
    }
    figures = {"clips": metrics.figure(len(rows), ">= 200")}
    for name, found in directions.items():
      figures |= _recalls(name, found, ">= 4")
    encode = lambda x: quantizer("encode", x[:, None])[:, 0]  # noqa: E731
    codes = [in_batches(encode, x, self.batch_size) for x in (sound, text)]
    windows = np.concatenate([row["mulan"] for row in held_out.shards])
    size = quantizer.module.quantizer.codebook_size
    usage = metrics.code_usage(in_batches(encode, windows, 16 * self.batch_size), size)
    agreement = metrics.matched(
      (codes[1][:, None, 0] == codes[0][None, :, 0]).astype(float), 1000, np.random.default_rng(0)
    )
    figures["text_and_audio_share_first_code"] = metrics.figure(
      agreement["value"], baseline=agreement["shuffled"], baseline_is="another clip's text"
    )
    tags = self._tags(held_out, sound)
    if tags:
      figures["zero_shot_tagging_auc"] = metrics.figure(
        np.mean(list(tags.values())), baseline=0.5, baseline_is=f"chance; {len(tags)} tags"
      )
    return {"figures": figures, "retrieval": directions, "usage": usage, "tags": tags}

  def _tags(self, held_out: HeldOut, sound: np.ndarray) -> dict[str, float]:
    """{aspect: area under the ROC curve} of the aspects that some clips have and others not.

    A clip's score is the similarity of its sound to the aspect's text (MuLan Section 4.3); aspects
    of fewer than 5 clips, or of all but 5, are left out.
    """
    from sklearn.metrics import roc_auc_score

    aspects = [set(clip["aspect_list"]) for clip in held_out.clips]
    has = {
      tag: np.array([tag in some for some in aspects]) for tag in sorted(set().union(*aspects))
    }
    has = {tag: right for tag, right in has.items() if 5 <= right.sum() <= len(right) - 5}
    if not has:
      return {}
    model = held_out.part("mulan")
    rows = text_rows(held_out.bundle, list(has))
    text = in_batches(lambda x: model("embed_text", x), rows, self.batch_size)
    scores = text @ sound.T
    return {tag: float(roc_auc_score(has[tag], row)) for tag, row in zip(has, scores)}


@dataclasses.dataclass(frozen=True)
class Melody:
  """The same melody in another rendition, among all other held-out clips; and when it is hummed.

  `hums` name the ways to hum it: (how much faster than the clip, semitones higher).
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


def _recalls(name: str, found: dict, wanted: str) -> dict:
  """Figures of recall@1 and @10; `wanted` is about recall@10 over its chance."""
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
