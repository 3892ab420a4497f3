"""The job of `musiclm generate`: prompts in, audio files out."""

import html
import pathlib
import sys
import time

from musiclm_jax import audio, storage
from musiclm_jax.evaluation import page, pictures
from musiclm_jax.lm.composer import Composer
from musiclm_jax.lm.sampling import Changes
from musiclm_jax.ranges import PositiveFloat, Seed


def generate(
  *,
  bundle: str,
  prompt: str,
  prompts: str,
  seconds: PositiveFloat,
  out: str,
  seed: Seed,
  changes: Changes,
  facts: dict,
  ending: bool,
  format: str,
  picture: str,
) -> list[str]:
  """Writes music for a prompt to the file `out` (.wav, .flac or .ogg), or for each line of the file
  `prompts` to out/00.wav, out/01.wav, ... (or another `format`) and out/index.html, which plays
  them; returns the paths of the music. `changes` are made to the bundle's settings; `facts`
  {field: value}, those that are not None, say exactly what is wanted beside the prompts, where the
  bundle's stages read them (`Composer.told`), and `ending` that the music comes to its end. The
  file `picture`, if it is not "", gets spectrograms as PNG.

  Raises ValueError or OSError in one line before any music is made: for an empty prompt or one of
  words that the text model does not know, `seconds` of less than a sample, an incomplete bundle, a
  place that cannot be written.
  """
  texts = _prompts(prompt, prompts)
  names = [f"{i:02}.{format}" for i in range(len(texts))]
  paths = [str(pathlib.Path(out, name)) for name in names] if prompts else [out]
  for path in paths:
    audio.check_writable(path)
  if picture:
    storage.check_writable(picture)
  facts = facts | {"end_s": seconds if ending else None}
  began = time.perf_counter()
  composer = Composer(bundle, changes)
  if not 1 <= seconds * composer.sample_rate < float("inf"):
    wanted = f"a finite length of at least 1 sample at {composer.sample_rate} Hz"
    raise ValueError(f"--seconds: wants {wanted}, got {seconds:g}")
  composer.tokenizer.check_known(texts)
  music = composer.waveforms(texts, seconds, seed, facts=facts)
  for path, waveform in zip(paths, music):
    audio.write(path, waveform, composer.sample_rate)
  if prompts:
    shown = zip(texts, paths, music)
    cards = "".join(_card(*each, composer.sample_rate) for each in shown)
    storage.write_text(pathlib.Path(out, "index.html"), page.document("Music from text", cards))
  if picture:
    pictures.save_spectrograms(picture, music, texts, composer.sample_rate)
  duration = time.perf_counter() - began
  print(f"{len(paths)} x {seconds:g} s in {duration:.1f} s: {', '.join(paths)}", file=sys.stderr)
  return paths


def _card(prompt: str, path: str, waveform, sample_rate: int) -> str:
  """A prompt with its player and its spectrogram, as HTML; the page is beside the file."""
  name = pathlib.Path(path).name
  player = page.player(name, pictures.spectrogram(waveform, sample_rate), name)
  return f"<article><blockquote>{html.escape(prompt)}</blockquote>{player}</article>"


def _prompts(prompt: str, prompts: str) -> list[str]:
  """The one prompt, or the lines of a file."""
  if prompt.strip() and prompts:
    raise ValueError(f"both a prompt and --prompts {prompts} are given: give one of them")
  if not prompt.strip() and not prompts:
    raise ValueError("the prompt is empty: give one, or a file of prompts by --prompts FILE")
  return read_prompts(prompts) if prompts else [prompt]


def read_prompts(prompts: str) -> list[str]:
  """The lines of a UTF-8 file, without a byte-order mark.

  Raises ValueError where it is missing or not UTF-8, or a line is empty.
  """
  if not pathlib.Path(prompts).is_file():
    raise ValueError(f"{prompts}: no such file")
  try:
    text = pathlib.Path(prompts).read_text("utf-8-sig")
  except UnicodeDecodeError as error:
    line = pathlib.Path(prompts).read_bytes()[: error.start].count(b"\n") + 1
    raise ValueError(f"{prompts}:{line}: wanted UTF-8 text") from None
  lines = [line.strip() for line in text.splitlines()]
  if not all(lines) or not lines:
    empty = lines.index("") + 1 if lines else 1
    raise ValueError(f"{prompts}:{empty}: the prompt is empty")
  return lines
