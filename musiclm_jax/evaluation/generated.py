"""Music for held-out captions: whether its signal is in order, and whether it fits its prompt."""

import collections
import dataclasses
import html
import math
import pathlib
import time

import numpy as np
import soundfile

from musiclm_jax import audio
from musiclm_jax.datasets import clip_files
from musiclm_jax.embedders import packages
from musiclm_jax.embedders.batches import in_batches
from musiclm_jax.evaluation import (
  detector,
  listeners,
  metrics,
  page,
  pictures,
  prompted,
  transcriber,
)
from musiclm_jax.evaluation.families import Families
from musiclm_jax.evaluation.held_out import HeldOut, crop
from musiclm_jax.evaluation.retrieval import caption_cosines
from musiclm_jax.lm.composer import Composer
from musiclm_jax.lm.sampling import Changes
from musiclm_jax.lm.takes import best_of
from musiclm_jax.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Seed

_CLIPPED = 0.999  # the level from which a sample counts as clipped
_MEASURED = ("notes_share", "kernel_over_round_trip")  # figures that can have a target


def choose_prompts(clips: list[dict], count: int, seed: int) -> list[int]:
  """Indices of `count` clips with instruments, tempi and works as varied as possible.

  Raises ValueError where there are fewer clips.
  """
  if count > len(clips):
    raise ValueError(f"{count} prompts wanted, there are {len(clips)} held-out clips")
  order = [int(i) for i in np.random.default_rng(seed).permutation(len(clips))]
  seen: collections.Counter = collections.Counter()
  chosen = []

  def kinds(index):
    clip = clips[index]
    pair = (clip["family"], clip["tempo_word"])
    return [("work", clip["work"]), ("pair", pair), *zip(("family", "tempo"), pair)]

  while len(chosen) < count:
    best = min(order, key=lambda index: [seen[kind] for kind in kinds(index)])
    order.remove(best)
    chosen.append(best)
    seen.update(kinds(best))
  return chosen


def prompt(clip: dict, stated: str) -> str:
  """The caption of a clip, and `stated` filled with its fields where that is not "".

  >>> prompt({"caption": "A jig.", "bpm": 90.2, "key": "D minor"}, "It is in {key}, {bpm:.0f} bpm.")
  'A jig. It is in D minor, 90 bpm.'
  """
  return f"{clip['caption']} {stated.format(**clip)}".strip()


@dataclasses.dataclass(frozen=True)
class Generation:
  """Music of `seconds` for `num_prompts` captions; `num_shown` of them are shown on the page.

  What captions leave out cannot be followed: `stated` says it at their end (`prompt`). `changes`
  are made to the bundle's sampling settings, and of `best_of` takes the one is kept that fits its
  prompt best by MuLan.

  Adherence is tested by `permutations` of the prompts, on the real clips, their codec round trips
  and the generated audio alike, with the classifiers of `families`. A detector
  of generated audio is trained and left in detector.json. `wanted` has the targets of
  adherence {name of prompted.wanted_names(): comparison}, and of "notes_share" and
  "kernel_over_round_trip". Raises ValueError for a target of another figure, and where a package of
  the listeners is not installed.
  """

  num_prompts: PositiveInt
  num_shown: NonNegativeInt
  seconds: PositiveFloat
  stated: str
  changes: Changes
  best_of: PositiveInt
  families: Families
  detector: detector.Training
  wanted: dict[str, str]
  permutations: NonNegativeInt
  batch_size: PositiveInt
  seed: Seed

  name = "generation"
  parts = ("soundstream", "mulan", "bundle")

  def __post_init__(self):
    packages.check()
    metrics.check_wanted(self.wanted, (*_MEASURED, *prompted.wanted_names()))

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    indices = choose_prompts(held_out.clips, self.num_prompts, self.seed)
    clips = [held_out.clips[i] for i in indices]
    prompts = [prompt(clip, self.stated) for clip in clips]
    composer = Composer(held_out.bundle, self.changes)
    rate = composer.sample_rate
    if rate != held_out.sample_rate:
      raise ValueError(f"{held_out.bundle}: {rate} Hz, the clips are {held_out.sample_rate} Hz")
    began = time.perf_counter()
    music = self._compose(composer, prompts)
    took = time.perf_counter() - began
    real = crop(clips, round(self.seconds * rate))
    codec = held_out.part("soundstream")
    round_trip = in_batches(lambda x: codec("decode", codec("encode", x)), real, self.batch_size)[
      :, : real.shape[1]
    ]
    sets = {"real": real, "roundtrip": round_trip, "generated": music}
    files = self._write(clips, sets, rate, out_dir)
    figures = _signal_figures(music, round(self.seconds * rate))
    figures["seconds_of_music_per_second"] = metrics.figure(music.size / rate / took)
    shown = [
      {
        "caption": prompt(c, self.stated),
        "bpm": float(c["bpm"]),
        "family": c["family"],
        "key": c["key"],
      }
      | {kind: _path(i, kind) for kind in sets}
      for i, c in enumerate(clips[: self.num_shown])
    ]
    result = self._listen(held_out, clips, sets, rate)
    figures |= result.pop("figures") | self._detect(codec, clips, sets, out_dir)
    files.append(detector.FILE)
    return {"figures": figures, "shown": shown, "files": files, **result}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """A card with players for each shown prompt, and what the listeners hear."""
    cards = "".join(_card(shown, out_dir) for shown in results["shown"])
    note = (
      "Prompts are captions of held-out clips. Generated: from the text alone. Real clip: the one "
      "the caption was written for. Round trip: that clip through the codec, the best the music "
      "could sound. Pictures: time and frequency from 0 to 8 kHz, loud is bright."
    )
    heard = prompted.show(results["adherence"], results["distances"], results["notes_at_once"])
    return page.section("Listen", note, cards) + heard

  def _compose(self, composer: Composer, prompts: list[str]) -> np.ndarray:
    """Music [prompts, samples]; the last batch is padded, so that all have one shape."""
    music = []
    for start in range(0, len(prompts), self.batch_size):
      some = prompts[start : start + self.batch_size]
      filled = some + some[:1] * (self.batch_size - len(some))
      music.append(best_of(composer, filled, self.seconds, self.seed, self.best_of)[: len(some)])
    return np.concatenate(music)

  def _write(self, clips: list[dict], sets: dict[str, np.ndarray], rate: int, out_dir: str):
    """Writes what `musiclm score` needs, the generated and the real clips and their table, and the
    round trips of the prompts shown; returns the paths.
    """
    files = ["audio/clips.csv"]
    rows = [
      {"file": f"{i:03}.wav", **clip, "caption": prompt(clip, self.stated)}
      for i, clip in enumerate(clips)
    ]
    clip_files.write_table(str(pathlib.Path(out_dir, files[0])), rows)
    for kind, waveforms in sets.items():
      count = self.num_shown if kind == "roundtrip" else len(waveforms)
      for index, waveform in enumerate(waveforms[:count]):
        files.append(_path(index, kind))
        audio.write(str(pathlib.Path(out_dir, files[-1])), waveform, rate)
    return files

  def _detect(self, codec, clips: list[dict], sets: dict[str, np.ndarray], out_dir: str) -> dict:
    """Figures of the detector, which is written into out_dir."""
    works = [clip["work"] for clip in clips]
    rows = {kind: detector.examples(codec, x, self.batch_size) for kind, x in sets.items()}
    measures = detector.figures(self.detector.judged(rows, works), works)
    trained = self.detector.train(
      rows["roundtrip"], rows["generated"], codec.fingerprint, self.seconds
    )
    trained.save(str(pathlib.Path(out_dir, detector.FILE)))
    return metrics.figures(measures, {})

  def _listen(self, held_out: HeldOut, clips, sets: dict[str, np.ndarray], rate: int) -> dict:
    """{"figures", "adherence": {measure: {set: its test}}, "distances", "notes_at_once"}."""
    rng = np.random.default_rng(self.seed)
    works = [clip["work"] for clip in clips]
    heard = {kind: listeners.listen(x, rate) for kind, x in sets.items()}
    scores = prompted.scores(clips, sets, heard, self.families.classifiers(held_out), rate)
    scores["own_mulan"] = {
      kind: caption_cosines(held_out, clips, x, self.batch_size) for kind, x in sets.items()
    }
    tests = {
      measure: {k: metrics.matched(x, self.permutations, rng) for k, x in each.items()}
      for measure, each in scores.items()
    }
    found = listeners.compare_sets(
      self.families.real_embeddings(held_out),
      {kind: each.embeddings for kind, each in heard.items()},
      works,
    )
    measures = listeners.compare(heard["real"], heard["generated"], works)
    kept = {name: measures[name] for name in ("notes_at_once", "notes_share")}
    kept |= listeners.distance_figures(found, "generated")
    kept["kernel_over_round_trip"] = listeners.kernel_ratio(found, "generated", "roundtrip")
    figures = metrics.figures(kept, self.wanted)
    return {
      "figures": figures | prompted.figures(scores, tests, works, self.wanted),
      "adherence": tests,
      "distances": listeners.shown_distances(found),
      "notes_at_once": {
        kind: float(transcriber.notes_at_once(each.notes).mean()) for kind, each in heard.items()
      },
    }


def _path(index: int, kind: str) -> str:
  return f"audio/{kind}/{index:03}.wav"


def _signal_figures(music: np.ndarray, samples: int) -> dict:
  """Figures of the signal of the audio [prompts, samples], as it is written to files."""
  finite = np.isfinite(music).all(axis=1)
  music = np.nan_to_num(music).astype(np.float64)
  peaks = np.abs(music).max(axis=1, keepdims=True)
  rms = np.sqrt(np.square(music).mean(axis=1))
  clipped = (np.abs(music) / np.maximum(peaks, 1) >= _CLIPPED).mean(axis=1)
  return {
    "prompts": metrics.figure(len(music), ">= 8"),
    "share_finite": metrics.figure(finite.mean(), ">= 1"),
    "share_of_exact_length": metrics.figure(float(music.shape[1] == samples), ">= 1"),
    "quietest_dbfs": metrics.figure(
      20 * math.log10(max(rms.min(), 1e-10)), "> -60", baseline=-200.0, baseline_is="silence"
    ),
    "most_clipped_samples_share": metrics.figure(clipped.max(), "<= 0.001"),
    "highest_peak": metrics.figure(
      peaks.max(), baseline=1.0, baseline_is="full scale; louder music is scaled down when written"
    ),
  }


def _card(shown: dict, out_dir: str) -> str:
  """Caption, players and spectrograms of one prompt, as HTML."""
  players = []
  for kind, label in prompted.SETS.items():
    picture = pictures.spectrogram(*_read(pathlib.Path(out_dir, shown[kind])))
    players.append(page.player(label, picture, shown[kind]))
  facts = f"{shown['family']}, {shown['bpm']:.0f} bpm, {shown['key']}"
  return (
    f"<article><blockquote>{html.escape(shown['caption'])}</blockquote>"
    f"<p class=note>{html.escape(facts)}</p><div class=players>{''.join(players)}</div></article>"
  )


def _read(path: pathlib.Path) -> tuple[np.ndarray, int]:
  """(waveform [samples], sample rate) of a file; silence too, unlike audio.read."""
  try:
    return soundfile.read(path, dtype="float32")
  except soundfile.LibsndfileError as error:
    raise ValueError(f"{path}: {error.error_string} Run the evaluation again.") from None
