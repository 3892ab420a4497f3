"""The clips of one work of the built-in corpus; no work depends on another."""

import dataclasses
import re

import numpy as np

from musiclm_jax.datasets import arrangement, captions, scores, synthesis
from musiclm_jax.datasets.catalogue import Work


@dataclasses.dataclass(frozen=True)
class Job:
  """What is rendered of one work.

  `soundfont` is the path of one that `soundfonts` corrected; `held_out` asks for the pairs of
  instrument and tempo that training never has.
  """

  work: Work
  seed: int
  soundfont: str
  clip_seconds: float
  passages: int
  renditions: int
  held_out: bool

  def __str__(self) -> str:
    return self.work.id


def render_work(job: Job) -> list[dict]:
  """Records of a work, as the features of `corpus_builder`: `renditions` clips of each passage."""
  music = scores.read_music(job.work)
  music = synthesis.repeated(music, job.clip_seconds, scores.BEAT_QUARTERS[job.work.metre])
  found = synthesis.passages_of(music, job.work, job.clip_seconds)
  order = synthesis.generator(job.seed, job.work.id, "passages").permutation(len(found))
  return [
    render_clip(job, music, found[index], number)
    for index in sorted(order[: job.passages])
    for number in range(job.renditions)
  ]


def render_clip(job: Job, music: scores.Music, passage: synthesis.Passage, number: int) -> dict:
  """One record: waveform [samples] int16 at 24 kHz and the facts of it."""
  work = job.work
  rendition = arrangement.arrange(
    music,
    work,
    passage,
    number,
    seed=job.seed,
    clip_seconds=job.clip_seconds,
    renditions=job.renditions,
    held_out=job.held_out,
  )
  melody = f"{work.id}/{passage.name}"
  name = f"{melody}/{'combination' if job.held_out else 'rendition'}{number}"
  caption, aspect_list = captions.describe(
    rendition, synthesis.generator(job.seed, name, "caption")
  )
  seconds = rendition.seconds_per_quarter
  players = {voice.instrument.program: voice.instrument.name for voice in rendition.voices}
  onsets = rendition.melody[:, [0, 2]] * np.array([[seconds, 1.0]])
  return {
    "id": re.sub(r"[^A-Za-z0-9]+", "-", name),
    "waveform": synthesis.render(rendition, job.soundfont, job.clip_seconds),
    "caption": caption,
    "aspect_list": aspect_list,
    "work": work.id,
    "melody": melody,
    "start_s": rendition.start * seconds,
    "bpm": rendition.bpm,
    "key": rendition.key,
    "instruments": list(players.values()),
    "programs": list(players),
    "meter": work.metre,
    "onsets": onsets.astype(np.float32),
    "tempo_word": rendition.tempo_word,
    "family": rendition.voices[0].instrument.family,
  }
