"""What independent listeners hear in clips, and how much of it is in other renderings of them.

They are methods and published models that share nothing with what is judged: basic-pitch for notes,
librosa for chroma.
"""

import dataclasses

import numpy as np

from musiclm_jax.evaluation import chroma, metrics, transcriber


@dataclasses.dataclass(frozen=True)
class Heard:
  """Of [clips, samples]: notes and onsets [clips, frames, 88] (transcriber.transcribe), chroma
  [clips, frames, 12] and whether its frames are audible [clips, frames] (module chroma)."""

  notes: np.ndarray
  onsets: np.ndarray
  chroma: np.ndarray
  audible: np.ndarray


def listen(waveforms: np.ndarray, sample_rate: int) -> Heard:
  """What is heard in waveforms [clips, samples] float at sample_rate Hz.

  Raises ValueError where a package that this takes is not installed.
  """
  notes, onsets = transcriber.transcribe(waveforms, sample_rate)
  return Heard(notes, onsets, chroma.chroma(waveforms, sample_rate), chroma.audible(waveforms))


def compare(real: Heard, other: Heard, works: list[str]) -> dict[str, dict]:
  """{measure: {value, interval, real}} of renderings of real clips, clip by clip.

  `works` [clips] names the work of each clip: intervals are bootstraps over works (95 %, None where
  there is one work). `real` is the same measure of the real clips.

  notes_at_once: notes sounding at once. notes_share: those over the real clips'. note_f_measure:
  F-measure of (frame, pitch) against the real clips' transcription. chroma_correlation and
  note_chroma_correlation: the correlation of pitch classes by frame, of audible frames by librosa
  and of frames with a note by the transcriber.
  """
  at_once = [transcriber.notes_at_once(heard.notes) for heard in (real, other)]
  counts = transcriber.frame_agreement(real.notes, other.notes)
  classes = [transcriber.note_chroma(heard.notes) for heard in (real, other)]
  by_clip = {
    "notes_at_once": (at_once[1], None, at_once[0].mean()),
    "notes_share": (at_once[1], at_once[0], 1.0),
    "note_f_measure": (*counts.T, 1.0),
    "chroma_correlation": (
      chroma.agreement(real.chroma, other.chroma, real.audible), None, 1.0
    ),
    "note_chroma_correlation": (
      chroma.agreement(*classes, transcriber.sounding(real.notes).any(axis=2)), None, 1.0
    ),
  }  # fmt: skip
  return {
    name: {
      "value": metrics.ratio(values, weights),
      "interval": metrics.bootstrap(values, works, weights),
      "real": float(reference),
    }
    for name, (values, weights, reference) in by_clip.items()
  }
