"""What independent listeners hear in clips, and how much of it is in other renderings of them.

They are methods and published models that share nothing with what is judged: basic-pitch for notes,
librosa for chroma, musicnn for embeddings.
"""

import dataclasses
import itertools

import numpy as np

from musiclm_jax.embedders import musicnn
from musiclm_jax.evaluation import chroma, distances, metrics, transcriber

BANDS = (0, 500, 1000, 2000, 4000, 8000)  # Hz


@dataclasses.dataclass(frozen=True)
class Heard:
  """What `listen` hears in [clips, samples].

  notes and onsets [clips, frames, 88] (transcriber.transcribe), chroma [clips, frames, 12] and
  whether those frames are audible [clips, frames], energies [clips, 5] in BANDS, and musicnn's
  embeddings [clips, patches, 200].
  """

  notes: np.ndarray
  onsets: np.ndarray
  chroma: np.ndarray
  audible: np.ndarray
  energies: np.ndarray
  embeddings: np.ndarray


def listen(waveforms: np.ndarray, sample_rate: int) -> Heard:
  """What is heard in waveforms [clips, samples] float at sample_rate Hz.

  Raises ValueError where a package of `packages` is not installed.
  """
  return Heard(
    *transcriber.transcribe(waveforms, sample_rate),
    chroma.chroma(waveforms, sample_rate),
    chroma.audible(waveforms),
    energies(waveforms, sample_rate),
    musicnn.embed(waveforms, sample_rate)[0],
  )


def energies(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
  """Energy [clips, 5] of waveforms [clips, samples] in each of BANDS."""
  power = np.square(np.abs(np.fft.rfft(waveforms, axis=1)))
  edges = np.round(np.array(BANDS) * waveforms.shape[1] / sample_rate).astype(int)
  return np.stack([power[:, a:b].sum(axis=1) for a, b in itertools.pairwise(edges)], axis=1)


def compare(real: Heard, other: Heard, works: list[str]) -> dict[str, dict]:
  """{measure: arguments of metrics.figure} of renderings of real clips, clip by clip.

  `works` [clips] names the work of each clip, for the intervals. The baseline is what the real
  clips themselves give.

  notes_at_once: notes sounding at once. notes_share: those over the real clips'. note_f_measure:
  F-measure of (frame, pitch) against the real clips' transcription. chroma_correlation and
  note_chroma_correlation: the correlation of pitch classes by frame, of audible frames by librosa
  and of frames with a note by the transcriber. energy_LOW_to_HIGH_hz_db: over the real clips'.
  band_difference_to_N_khz_db: the largest of these without sign.
  """
  at_once = [transcriber.notes_at_once(heard.notes) for heard in (real, other)]
  classes = [transcriber.note_chroma(heard.notes) for heard in (real, other)]
  with_notes = transcriber.sounding(real.notes).any(axis=2)
  measures = {
    "notes_at_once": measure(works, at_once[1], real=at_once[0].mean()),
    "notes_share": measure(works, at_once[1], at_once[0]),
    "note_f_measure": measure(works, *transcriber.frame_agreement(real.notes, other.notes).T),
    "chroma_correlation": measure(works, chroma.agreement(real.chroma, other.chroma, real.audible)),
    "note_chroma_correlation": measure(works, chroma.agreement(*classes, with_notes)),
  }
  return measures | _bands(real.energies, other.energies, works)


def measure(works: list[str], values: np.ndarray, weights=None, *, real: float = 1.0) -> dict:
  """Arguments of metrics.figure for metrics.ratio of values and weights [clips], beside `real`.

  `real` is the value of the real clips; the interval is a bootstrap over works [clips].
  """
  return {
    "value": metrics.ratio(values, weights),
    "interval": metrics.bootstrap(values, works, weights),
    "baseline": float(real),
    "baseline_is": "real clips",
  }


def _bands(real: np.ndarray, other: np.ndarray, works: list[str]) -> dict[str, dict]:
  """The energy of all clips in each of BANDS in decibels over that of the real clips."""
  measures = {}
  for i, (low, high) in enumerate(itertools.pairwise(BANDS)):
    each = measure(works, other[:, i], real[:, i], real=0.0)
    bounds = each["interval"]
    measures[f"energy_{low}_to_{high}_hz_db"] = each | {
      "value": _decibels(each["value"]),
      "interval": bounds and tuple(map(_decibels, bounds)),
    }
  values = [abs(each["value"]) for each in measures.values()]
  for khz, last in ((4, 4), (8, 5)):
    largest = {"value": max(values[:last]), "baseline": 0.0, "baseline_is": "real clips"}
    measures[f"band_difference_to_{khz}_khz_db"] = largest
  return measures


def _decibels(ratio: float) -> float:
  return float(10 * np.log10(max(ratio, 1e-10)))


def compare_sets(
  reference: np.ndarray, sets: dict[str, np.ndarray], works: list[str]
) -> dict[str, dict]:
  """{set: {kernel, kernel_draws, frechet, frechet_limit, rows}} of sets {set: embeddings [clips,
  patches, dim]}.

  Their distances to the reference [clips, patches, dim]: real clips of other works. That of a set
  of real clips is what two samples of real music differ by. `works` [clips] are those of the sets'
  clips, for the draws of a bootstrap; `rows` is the smaller number of patches of the two, and the
  limit None where they are too few for one.
  """
  rows = _rows(reference)
  kernel = distances.kernel(rows)
  sums = {name: distances.KernelSums.of(each, kernel, works) for name, each in sets.items()}
  return {
    name: {
      "kernel": sums[name].distance(),
      "kernel_draws": sums[name].draws(1000),
      "frechet": distances.frechet_distance(_rows(each), rows),
      "frechet_limit": _frechet_limit(_rows(each), rows),
      "rows": min(len(_rows(each)), len(rows)),
    }
    for name, each in sets.items()
  }


def _frechet_limit(x: np.ndarray, reference: np.ndarray) -> float | None:
  enough = len(x) >= 2 * x.shape[1]
  return distances.frechet_limit(x, reference) if enough else None


def distance_figures(found: dict[str, dict], judged: str) -> dict[str, dict]:
  """Arguments of metrics.figure for the distances of one of the sets, "real" being another."""
  few = metrics.too_few(found[judged]["rows"], musicnn.EMBED_DIM + 1, "patches")
  own, real = found[judged], found["real"]
  kinds = {
    "kernel": {"interval": distances.interval(own["kernel_draws"])},
    "frechet": {"too_few": few},
  }
  beside = {"baseline_is": "real clips"}
  return {
    f"{kind}_distance": {"value": own[kind], "baseline": real[kind]} | beside | more
    for kind, more in kinds.items()
  }


def kernel_ratio(found: dict[str, dict], judged: str, other: str) -> dict:
  """Arguments of metrics.figure for the kernel distance of a set over that of another one with the
  same works, beside that of "real" over it.
  """
  least = 1e-9
  draws = found[judged]["kernel_draws"] / np.maximum(found[other]["kernel_draws"], least)
  return {
    "value": found[judged]["kernel"] / max(found[other]["kernel"], least),
    "interval": distances.interval(draws),
    "baseline": found["real"]["kernel"] / max(found[other]["kernel"], least),
    "baseline_is": "real clips",
  }


def shown_distances(found: dict[str, dict]) -> dict[str, dict]:
  """Those of `compare_sets`, with the kernel distance's interval in place of its draws."""
  return {
    name: {k: v for k, v in each.items() if k != "kernel_draws"}
    | {"kernel_interval": distances.interval(each["kernel_draws"])}
    for name, each in found.items()
  }


def _rows(embeddings: np.ndarray) -> np.ndarray:
  return embeddings.reshape(-1, embeddings.shape[-1])
