"""Clips of one work: the examples of the built-in corpus, made by one worker with no knowledge of
the others."""

import dataclasses
import re

import numpy as np

from musiclm_jax.datasets import arrangement, captions, scores, synthesis


@dataclasses.dataclass(frozen=True)
class Job:
  """What is to be rendered of one work; `soundfont` is the path of a corrected one and
  `held_out` asks for the held-out pairs of instrument and
  tempo."""

  work: scores.Work
  seed: int
  soundfont: str
  clip_seconds: float
  passages: int
  renditions: int
  held_out: bool


def render_work(job: Job) -> list[dict]:
  """Examples of a work: `renditions` clips of each passage, as dictionaries with the corpus's
  features."""
  music = scores.read_music(job.work)
  music = synthesis.played_round(music, job.clip_seconds, scores.BEAT_QUARTERS[job.work.metre])
  found = synthesis.passages_of(music, job.work, job.clip_seconds)
  order = synthesis.generator(job.seed, job.work.id, "passages").permutation(len(found))
  return [
    render_clip(job, music, found[index], number)
    for index in sorted(order[: job.passages])
    for number in range(job.renditions)
  ]


def render_clip(job: Job, music: scores.Music, passage: synthesis.Passage, number: int) -> dict:
  """One example: waveform [samples] int16 and what is true of it."""
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
