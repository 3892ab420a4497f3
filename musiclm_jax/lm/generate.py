"""The job of `musiclm generate`: prompts in, audio files out."""

import functools
import html
import pathlib
import sys
import time

import numpy as np

from musiclm_jax import audio, storage
from musiclm_jax.evaluation import page, pictures
from musiclm_jax.lm.composer import Composer, prompt_keys
from musiclm_jax.lm.prompts import Story
from musiclm_jax.lm.sampling import Changes
from musiclm_jax.lm.takes import best_of as best_of_takes
from musiclm_jax.lm.wanted import Wanted
from musiclm_jax.ranges import PositiveFloat, PositiveInt, Seed

_BATCH = 32  # prompts at once


def generate(
  *,
  bundle: str,
  wanted: Wanted,
  seconds: PositiveFloat,
  out: str,
  seed: Seed,
  changes: Changes,
  best_of: PositiveInt,
  format: str,
  picture: str,
) -> list[str]:
  """Writes the music that is `wanted` to the file `out` (.wav, .flac or .ogg), or for each prompt
  of a file to out/00.wav, out/01.wav, ... (or another `format`) and out/index.html, which plays
  them; returns the paths of the music. `changes` are made to the bundle's settings. Of `best_of`
  takes the one that fits its prompt best is kept (takes.best_of). The file `picture`, if it is not
  "", gets spectrograms as PNG.

  Raises ValueError or OSError in one line before any music is made: for what is wanted and cannot
  be read, an empty prompt or one of words that the text model does not know, `seconds` of less than
  a sample, an incomplete bundle, a place that cannot be written.
  """
  named = wanted.stories(seconds)
  stories, many = list(named.values()), bool(wanted.prompts)
  paths = [str(pathlib.Path(out, f"{name}.{format}")) for name in named] if many else [out]
  for path in paths:
    audio.check_writable(path)
  if picture:
    storage.check_writable(picture)
  began = time.perf_counter()
  composer = Composer(bundle, changes)
  if not 1 <= seconds * composer.sample_rate < float("inf"):
    length = f"a finite length of at least 1 sample at {composer.sample_rate} Hz"
    raise ValueError(f"--seconds: wants {length}, got {seconds:g}")
  composer.tokenizer.check_known([text for story in stories for text in story.texts])
  beside = wanted.beside(composer, seconds)
  compose = functools.partial(best_of_takes, composer, takes=best_of, **beside)
  music = _in_batches(compose, stories, seconds, seed)
  for path, waveform in zip(paths, music):
    audio.write(path, waveform, composer.sample_rate)
  titles = [str(story) for story in stories]
  if many:
    shown = zip(titles, paths, music)
    cards = "".join(_card(*each, composer.sample_rate) for each in shown)
    storage.write_text(pathlib.Path(out, "index.html"), page.document("Music from text", cards))
  if picture:
    pictures.save_spectrograms(picture, music, titles, composer.sample_rate)
  duration = time.perf_counter() - began
  print(f"{len(paths)} x {seconds:g} s in {duration:.1f} s: {', '.join(paths)}", file=sys.stderr)
  return paths


def _in_batches(compose, stories: list[Story], seconds: float, seed: int) -> np.ndarray:
  """`compose` of any number of stories, the last batch padded to the size of the others."""
  keys, music = prompt_keys(stories, seed), []
  size = -(-len(stories) // -(-len(stories) // _BATCH))
  for start in range(0, len(stories), size):
    rows = np.minimum(np.arange(start, start + size), len(stories) - 1)
    some = [stories[row] for row in rows]
    made = compose(some, seconds, seed, keys=keys[rows])
    music.append(made[: len(stories) - start])
    if len(stories) > size:
      done = min(start + size, len(stories))
      print(f"generate {done} of {len(stories)}", file=sys.stderr, flush=True)
  return np.concatenate(music)


def _card(prompt: str, path: str, waveform, sample_rate: int) -> str:
  """A prompt with its player and its spectrogram, as HTML; the page is beside the file."""
  name = pathlib.Path(path).name
  player = page.player(name, pictures.spectrogram(waveform, sample_rate), name)
  return f"<article><blockquote>{html.escape(prompt)}</blockquote>{player}</article>"
