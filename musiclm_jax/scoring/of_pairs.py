"""Measures of clips against what they are meant to be: their real clips, captions, tempo, key."""

import dataclasses

import numpy as np

from musiclm_jax.embedders.embedder import Classifier, Joint
from musiclm_jax.evaluation import adherence, chroma, contours, divergence, transcriber
from musiclm_jax.scoring.clips import features
from musiclm_jax.scoring.score import Judged, Score, of_clips

_TRANSCRIBER = {"transcriber": "basic-pitch 0.4.0", "threshold": 0.5}


@dataclasses.dataclass(frozen=True)
class ClassDivergence:
  """KLD: Kullback-Leibler divergence of class shares, of the real clip from the generated one."""

  embedder: Classifier

  label, better, needs = "KLD, real ‖ generated", "less", ("real",)
  settings = {"direction": "real ‖ generated", "unit": "nats"}

  def __call__(self, judged: Judged) -> Score:
    own, real = (features(x, self.embedder, "classify") for x in (judged.clips, judged.real))
    return of_clips(divergence.kl_divergence(real, own), judged.works)


@dataclasses.dataclass(frozen=True)
class CaptionCosine:
  """Cosine of each clip and its caption: MuLan cycle consistency, or the CLAP score."""

  embedder: Joint

  label, better, needs, settings = "cosine to the caption", "more", ("captions",), {}

  def __call__(self, judged: Judged) -> Score:
    texts = self.embedder.embed_texts(list(judged.captions))
    clips = features(judged.clips, self.embedder, "embed_clips")
    return of_clips((texts * clips).sum(axis=1), judged.works)


@dataclasses.dataclass(frozen=True)
class Chroma:
  """Correlation of pitch classes by frame (evaluation.chroma) with the real clip."""

  sample_rate: int

  label, better, needs = "chroma correlation", "more", ("real",)
  embedder = None

  @property
  def settings(self) -> dict:
    """The rate and the method."""
    return {"sample_rate": self.sample_rate, "chroma": "librosa, log(1 + 100 x)"}

  def chroma(self, waveforms: np.ndarray) -> np.ndarray:
    """chroma.chroma of waveforms [clips, samples] at sample_rate Hz."""
    return chroma.chroma(waveforms, self.sample_rate)

  def audible(self, waveforms: np.ndarray) -> np.ndarray:
    """chroma.audible of waveforms [clips, samples]."""
    return chroma.audible(waveforms)

  def __call__(self, judged: Judged) -> Score:
    own, real = (features(x, self, "chroma") for x in (judged.clips, judged.real))
    counted = features(judged.real, self, "audible")
    return of_clips(chroma.agreement(real, own, counted), judged.works)


@dataclasses.dataclass(frozen=True)
class Notes:
  """What basic-pitch hears, the maker of features for measures of notes: an `embedder.Shared`."""

  sample_rate = 22050  # Hz

  def outputs(self, waveforms: np.ndarray) -> np.ndarray:
    """Which notes sound, and contours.pitch_line, [clips, frames, 88 + 1] int16."""
    notes, found = transcriber.outputs(waveforms, self.sample_rate, ("notes", "contours"))
    line = contours.pitch_line(found)[..., None]
    return np.concatenate([transcriber.sounding(notes), line], axis=2, dtype=np.int16)

  def of_outputs(self, method: str, outputs: np.ndarray) -> np.ndarray:
    """Of "sounding" [clips, frames, 88] bool, of "line" [clips, frames]."""
    return {"sounding": outputs[..., :-1] > 0, "line": outputs[..., -1]}[method]


@dataclasses.dataclass(frozen=True)
class NoteAgreement:
  """F-measure of (frame, pitch) against the real clip's, all frames of all clips pooled."""

  label, better, needs = "note F-measure", "more", ("real",)
  settings, embedder = _TRANSCRIBER, None

  def __call__(self, judged: Judged) -> Score:
    own, real = (features(x, Notes(), "sounding") for x in (judged.clips, judged.real))
    both, total = transcriber.frame_agreement(real, own).T
    return of_clips(both, judged.works, total)


@dataclasses.dataclass(frozen=True)
class PitchContour:
  """Raw pitch accuracy of the strongest pitch of each frame against the real clip's."""

  label, better, needs = "pitch contour accuracy", "more", ("real",)
  settings, embedder = _TRANSCRIBER, None

  def __call__(self, judged: Judged) -> Score:
    own, real = (features(x, Notes(), "line") for x in (judged.clips, judged.real))
    right, total = contours.line_agreement(real, own).T
    return of_clips(right, judged.works, total)


@dataclasses.dataclass(frozen=True)
class Tempo:
  """Share of clips within 4 % of their tempo, of half or of twice (librosa)."""

  sample_rate: int

  label, better, needs = "tempo as stated", "more", ("bpm",)
  embedder = None

  @property
  def settings(self) -> dict:
    """The rate and the method."""
    return {"sample_rate": self.sample_rate, "tempo": "librosa, within 4 %, octaves count"}

  def tempo(self, waveforms: np.ndarray) -> np.ndarray:
    """adherence.tempo [clips] of waveforms [clips, samples] at sample_rate Hz."""
    return adherence.tempo(waveforms, self.sample_rate)

  def __call__(self, judged: Judged) -> Score:
    found = features(judged.clips, self, "tempo")
    return of_clips(np.diagonal(adherence.tempo_agreement(judged.bpm, found)), judged.works)


@dataclasses.dataclass(frozen=True)
class Key:
  """MIREX score of the key of the notes that basic-pitch hears."""

  label, better, needs = "key as stated (MIREX)", "more", ("key",)
  settings, embedder = _TRANSCRIBER | {"profiles": "Temperley"}, None

  def __call__(self, judged: Judged) -> Score:
    notes = features(judged.clips, Notes(), "sounding").astype(np.float32)
    found = adherence.keys(transcriber.note_chroma(notes))
    wanted = [adherence.parse_key(name) for name in judged.key]
    return of_clips(np.diagonal(adherence.key_agreement(wanted, found)), judged.works)
