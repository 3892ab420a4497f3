"""The clips of one work of the built-in corpus; no work depends on another."""

import dataclasses
import re

import numpy as np

from musiclm_jax.datasets import (
  arrangement,
  captions,
  draws,
  passages,
  performance,
  score_arrays,
  scores,
  synthesis,
)
from musiclm_jax.datasets.catalogue import Work


@dataclasses.dataclass(frozen=True)
class Job:
  """What is rendered of one work.

  `soundfont` is the path of one that `soundfonts` corrected, `scores` that of a file of
  `score_arrays` or ""; `held_out` asks for the pairs of instrument and tempo that training never
  has.
  """

  work: Work
  seed: int
  soundfont: str
  scores: str
  clip_seconds: float
  passages: int
  renditions: int
  held_out: bool

  def __str__(self) -> str:
    return self.work.id


def render_work(job: Job) -> list[dict]:
  """Records of a work, as the features of `corpus_builder`: `renditions` clips of each passage."""
  music = score_arrays.read_music(job.work, job.scores)
  rng = draws.generator(job.seed, job.work.id, "passages")
  found = passages.draw_passages(music, job.work, job.clip_seconds, job.passages, rng)
  music = passages.repeated(music, job.clip_seconds, scores.BEAT_QUARTERS[job.work.metre])
  return [
    render_clip(job, music, passage, number)
    for passage in found
    for number in range(job.renditions)
  ]


def render_clip(job: Job, music: scores.Music, passage: passages.Passage, number: int) -> dict:
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

  def rng(what):
    return draws.generator(job.seed, name, what)

  texts, aspect_list = captions.describe(rendition, rng("caption"))
  parts = performance.perform(rendition, rng("performance"))
  played = scores.melody_of(parts[0].notes[:, :3])
  heard = (played[:, 0] >= 0) & (played[:, 0] < job.clip_seconds)
  players = {voice.instrument.program: voice.instrument.name for voice in rendition.voices}
  return {
    "id": re.sub(r"[^A-Za-z0-9]+", "-", name),
    "waveform": synthesis.render(
      parts, rendition.dynamics, job.soundfont, job.clip_seconds, rng("room")
    ),
    "caption": texts[0],
    "captions": texts,
    "aspect_list": aspect_list,
    "work": work.id,
    "melody": melody,
    "start_s": np.float32(rendition.start * rendition.seconds_per_quarter),
    "end_s": np.float32((music.length - rendition.start) * rendition.seconds_per_quarter),
    "place": passage.place,
    "bpm": np.float32(rendition.bpm),
    "beat_s": np.float32(rendition.beat),
    "key": rendition.key,
    "instruments": list(players.values()),
    "programs": np.array(list(players), np.int32),
    "meter": work.metre,
    "onsets": played[heard][:, [0, 2]].astype(np.float32),
    "tempo_word": rendition.tempo_word,
    "family": rendition.voices[0].instrument.family,
  }
