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
from musiclm_jax.evaluation import adherence, metrics, page, pictures
from musiclm_jax.evaluation.held_out import HeldOut, crop, in_batches, read_split
from musiclm_jax.evaluation.retrieval import caption_cosines
from musiclm_jax.lm.composer import Composer
from musiclm_jax.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Seed

_CLIPPED = 0.999  # the level from which a sample counts as clipped
_SETS = {"generated": "generated", "real": "real clip", "roundtrip": "codec round trip"}


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


@dataclasses.dataclass(frozen=True)
class Generation:
  """Music of `seconds` for `num_prompts` captions; `num_shown` of them are shown on the page.

  Adherence is tested by `permutations` of the prompts, on the real clips, their codec round trips
  and the generated audio alike; the classifier of instruments learns from `train_clips` clips.
  """

  num_prompts: PositiveInt
  num_shown: NonNegativeInt
  seconds: PositiveFloat
  train_clips: PositiveInt
  permutations: NonNegativeInt
  batch_size: PositiveInt
  seed: Seed

  name = "generation"
  parts = ("soundstream", "mulan", "bundle")

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    indices = choose_prompts(held_out.clips, self.num_prompts, self.seed)
    clips = [held_out.clips[i] for i in indices]
    prompts = [clip["caption"] for clip in clips]
    composer = Composer(held_out.bundle)
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
    files = self._write(sets, rate, out_dir)
    figures = _signal_figures(music, round(self.seconds * rate))
    figures["seconds_of_music_per_second"] = metrics.figure(music.size / rate / took)
    shown = [
      {"caption": c["caption"], "bpm": float(c["bpm"]), "family": c["family"], "key": c["key"]}
      | {kind: _path(i, kind) for kind in sets}
      for i, c in enumerate(clips[: self.num_shown])
    ]
    result = self._adherence(held_out, clips, sets, rate)
    return {"figures": figures | result.pop("figures"), "shown": shown, "files": files, **result}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """A card with players for each shown prompt, and the tests of adherence."""
    cards = "".join(_card(shown, out_dir) for shown in results["shown"])
    note = (
      "Prompts are captions of held-out clips. Generated: from the text alone. Real clip: the one "
      "the caption was written for. Round trip: that clip through the codec, the best the music "
      "could sound. Pictures: 64 mel bands over time."
    )
    return page.section("Listen", note, cards) + _adherence_section(results)

  def _compose(self, composer: Composer, prompts: list[str]) -> np.ndarray:
    """Music [prompts, samples]; the last batch is padded, so that all have one shape."""
    music = []
    for start in range(0, len(prompts), self.batch_size):
      some = prompts[start : start + self.batch_size]
      filled = some + some[:1] * (self.batch_size - len(some))
      music.append(composer.waveforms(filled, self.seconds, self.seed)[: len(some)])
    return np.concatenate(music)

  def _write(self, sets: dict[str, np.ndarray], rate: int, out_dir: str) -> list[str]:
    """Writes all generated audio, and the other sets of the prompts shown; returns the paths."""
    files = []
    for kind, waveforms in sets.items():
      count = len(waveforms) if kind == "generated" else self.num_shown
      for index, waveform in enumerate(waveforms[:count]):
        files.append(_path(index, kind))
        audio.write(str(pathlib.Path(out_dir, files[-1])), waveform, rate)
    return files

  def _adherence(self, held_out: HeldOut, clips, sets, rate: int) -> dict:
    """{"figures", "adherence": {measure: {set: its test}}, ...}."""
    rng = np.random.default_rng(self.seed)
    families, bpm = [c["family"] for c in clips], np.array([c["bpm"] for c in clips])
    train = read_split(held_out.data_dir, "train")
    if len(train) < self.train_clips:
      raise ValueError(
        f"{held_out.data_dir}: {self.train_clips} train clips wanted for the classifier of "
        f"instrument families, split 'train' has {len(train)}"
      )
    train = train[: self.train_clips]
    samples = round(self.seconds * rate)
    classifier = adherence.FamilyClassifier(
      adherence.timbre(crop(train, samples), rate), [c["family"].decode() for c in train]
    )
    timbre = {kind: adherence.timbre(x, rate) for kind, x in sets.items()}
    scores = {
      "family": {k: classifier.scores(x, families) for k, x in timbre.items()},
      "tempo": {k: metrics.rank_agreement(bpm, adherence.tempo(x, rate)) for k, x in sets.items()},
      "onset_rate": {
        k: metrics.rank_agreement(bpm, adherence.onset_rate(x, rate)) for k, x in sets.items()
      },
      "own_mulan": {
        k: caption_cosines(held_out, clips, x, self.batch_size) for k, x in sets.items()
      },
    }
    tests = {
      measure: {k: metrics.matched(x, self.permutations, rng) for k, x in each.items()}
      for measure, each in scores.items()
    }
    everything = adherence.timbre(crop(held_out.clips, samples), rate)
    accuracies = {
      "held_out": classifier.accuracy(everything, [c["family"] for c in held_out.clips])
    } | {k: classifier.accuracy(x, families) for k, x in timbre.items()}
    means = [
      classifier.standardise(x)[:, : adherence.NUM_MFCC] for x in (everything, *timbre.values())
    ]
    distances = {k: metrics.frechet_distance(means[0], x) for k, x in zip(timbre, means[1:])}
    common = max(collections.Counter(c["family"] for c in held_out.clips).values())
    few = metrics.too_few(min(map(len, means)), means[0].shape[1] + 1, "clips")
    figures = _adherence_figures(tests, distances, accuracies, common / len(held_out.clips), few)
    return {"figures": figures, "adherence": tests, "accuracy": accuracies, "frechet": distances}


def _path(index: int, kind: str) -> str:
  return f"audio/{index:02}_{kind}.wav"


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


_MEASURES = {
  "family": "mean probability of the prompted instrument family (MFCC classifier of real clips)",
  "tempo": "rank correlation of prompted bpm and estimated tempo",
  "onset_rate": "rank correlation of prompted bpm and onsets per second",
}


def _adherence_figures(tests, distances, accuracies, common: float, few: str) -> dict:
  figures = {}
  for measure in _MEASURES:
    test = tests[measure]["generated"]
    figures[f"adherence_{measure}"] = metrics.figure(
      test["value"], baseline=test["shuffled"], baseline_is="shuffled prompts"
    )
    figures[f"adherence_{measure}_p"] = metrics.figure(test["p"])
  best = min(tests[measure]["generated"]["p"] for measure in _MEASURES)
  figures["adherence_best_p_corrected"] = metrics.figure(
    min(1.0, len(_MEASURES) * best), "< 0.05", baseline_is=f"{len(_MEASURES)} measures (Bonferroni)"
  )
  figures["family_accuracy_on_real_clips"] = metrics.figure(
    accuracies["held_out"], baseline=common, baseline_is="always the most frequent family"
  )
  figures["frechet_mfcc_generated"] = metrics.figure(
    distances["generated"],
    baseline=distances["roundtrip"],
    baseline_is="codec round trips",
    too_few=few,
  )
  return figures


def _card(shown: dict, out_dir: str) -> str:
  """Caption, players and spectrograms of one prompt, as HTML."""
  players = []
  for kind, label in _SETS.items():
    picture = pictures.spectrogram(*_read(pathlib.Path(out_dir, shown[kind])))
    source = html.escape(shown[kind], quote=True)
    players.append(
      f"<figure><figcaption>{label}</figcaption>"
      f'<img src="{picture}" alt="mel spectrogram, {label}">'
      f'<audio controls preload="none" src="{source}"></audio></figure>'
    )
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


def _adherence_section(results: dict) -> str:
  rows = []
  for measure, tests in results["adherence"].items():
    for kind, label in _SETS.items():
      test = tests[kind]
      values = [page.amount(test["value"]), page.amount(test["shuffled"]), f"{test['p']:.2g}"]
      rows.append([measure.replace("_", " "), label, *values])
  labels = {**_SETS, "held_out": "all held-out clips"}
  accuracies = [[labels[k], page.amount(v)] for k, v in results["accuracy"].items()]
  distances = [[_SETS[k], page.amount(v)] for k, v in results["frechet"].items()]
  few = results["figures"]["frechet_mfcc_generated"]["too_few"]
  inner = page.table(["measure", "audio", "own prompt", "shuffled", "p"], rows)
  inner += page.table(["audio", "accuracy of the family classifier"], accuracies)
  title = "Fréchet distance of MFCC means" + (f" ({few})" if few else "")
  inner += page.table(["audio", title], distances)
  note = (
    "Does the output fit its own prompt better than shuffled prompts? One-sided permutation tests; "
    "family: mean probability of the prompted instrument family by a classifier of MFCC statistics "
    "that learned from real clips; tempo and onset rate: rank correlation with the prompted bpm. "
    "Own MuLan is the model that conditioned the music, so it is not independent. Real clips and "
    "round trips show the best that a measure can reach. The Fréchet distance is that of the MFCC "
    "means to all held-out clips; it is not FAD."
  )
  return page.section("Does it follow the prompt?", note, inner)
