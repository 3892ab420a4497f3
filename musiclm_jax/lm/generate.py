"""The job of `musiclm generate`: prompts in, audio files out."""

import pathlib
import sys
import time

from musiclm_jax import audio
from musiclm_jax.lm.generation import Composer
from musiclm_jax.lm.sampling import Changes


def generate(
  *,
  bundle: str,
  prompt: str,
  prompts: str,
  seconds: float,
  out: str,
  seed: int,
  changes: Changes,
) -> list[str]:
  """Writes music for a prompt to the WAV file `out`, or for each line of the file `prompts` to
  out/00.wav, out/01.wav, ...; gives the paths. `changes` are made to the bundle's settings.

  Raises ValueError in one line for an empty prompt, 0 seconds, an incomplete bundle.
  """
  texts = _prompts(prompt, prompts)
  if not seconds > 0:
    raise ValueError(f"seconds: wanted more than 0, found {seconds}")
  began = time.perf_counter()
  composer = Composer(bundle, changes)
  music = composer.waveforms(texts, seconds, seed)
  paths = [str(pathlib.Path(out, f"{i:02}.wav")) for i in range(len(texts))] if prompts else [out]
  for path, waveform in zip(paths, music):
    audio.write(path, waveform, composer.sample_rate)
  took = time.perf_counter() - began
  print(f"{len(paths)} x {seconds:g} s in {took:.1f} s: {', '.join(paths)}", file=sys.stderr)
  return paths


def _prompts(prompt: str, prompts: str) -> list[str]:
  """The one prompt, or the lines of a file."""
  if bool(prompt.strip()) == bool(prompts):
    raise ValueError("the prompt is empty: give one, or a file of prompts by --prompts FILE")
  return read_prompts(prompts) if prompts else [prompt]


def read_prompts(prompts: str) -> list[str]:
  """The lines of a file. Raises ValueError where it is missing, or a line is empty."""
  if not pathlib.Path(prompts).is_file():
    raise ValueError(f"{prompts}: no such file")
  lines = [line.strip() for line in pathlib.Path(prompts).read_text().splitlines()]
  if not all(lines) or not lines:
    empty = lines.index("") + 1 if lines else 1
    raise ValueError(f"{prompts}:{empty}: the prompt is empty")
  return lines
