"""The job of `musiclm generate`: prompts in, audio files out."""

import functools
import html
import pathlib
import sys
import time

import numpy as np

from musiclm_jax import audio, storage
from musiclm_jax.datasets import table_rows
from musiclm_jax.evaluation import page, pictures
from musiclm_jax.lm.composer import Composer, prompt_keys
from musiclm_jax.lm.sampling import Changes
from musiclm_jax.lm.takes import best_of as best_of_takes
from musiclm_jax.ranges import PositiveFloat, PositiveInt, Seed

_BATCH = 32  # texts at once


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
  best_of: PositiveInt,
  format: str,
  picture: str,
) -> list[str]:
  """Writes music for a prompt to the file `out` (.wav, .flac or .ogg), or for each line of the file
  `prompts` to out/00.wav, out/01.wav, ... (or another `format`) and out/index.html, which plays
  them; returns the paths of the music. `prompts` may be a CSV with the columns `file` and
  `caption`, whose files give the names. `changes` are made to the bundle's settings; `facts`
  {field: value}, those that are not None, say exactly what is wanted beside the prompts, where the
  bundle's stages read them (`Composer.told`), and `ending` that the music comes to its end. Of
  `best_of` takes the one that fits its prompt best is kept (takes.best_of). The file `picture`, if
  it is not "", gets spectrograms as PNG.

  Raises ValueError or OSError in one line before any music is made: for an empty prompt or one of
  words that the text model does not know, `seconds` of less than a sample, an incomplete bundle, a
  place that cannot be written.
  """
  named = _prompts(prompt, prompts)
  texts = list(named.values())
  paths = [str(pathlib.Path(out, f"{name}.{format}")) for name in named] if prompts else [out]
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
  compose = functools.partial(best_of_takes, composer, takes=best_of, facts=facts)
  music = _in_batches(compose, texts, seconds, seed)
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


def _in_batches(compose, texts: list[str], seconds: float, seed: int) -> np.ndarray:
  """`compose` of any number of texts, the last batch padded to the size of the others."""
  keys, music = prompt_keys(texts, seed), []
  size = -(-len(texts) // -(-len(texts) // _BATCH))
  for start in range(0, len(texts), size):
    rows = np.minimum(np.arange(start, start + size), len(texts) - 1)
    some = [texts[row] for row in rows]
    made = compose(some, seconds, seed, keys=keys[rows])
    music.append(made[: len(texts) - start])
    if len(texts) > size:
      done = min(start + size, len(texts))
      print(f"generate {done} of {len(texts)}", file=sys.stderr, flush=True)
  return np.concatenate(music)


def _card(prompt: str, path: str, waveform, sample_rate: int) -> str:
  """A prompt with its player and its spectrogram, as HTML; the page is beside the file."""
  name = pathlib.Path(path).name
  player = page.player(name, pictures.spectrogram(waveform, sample_rate), name)
  return f"<article><blockquote>{html.escape(prompt)}</blockquote>{player}</article>"


def _prompts(prompt: str, prompts: str) -> dict[str, str]:
  """{name of its file: text} of the one prompt, of the lines of a file, or of the rows of a CSV."""
  if prompt.strip() and prompts:
    raise ValueError(f"both a prompt and --prompts {prompts} are given: give one of them")
  if not prompt.strip() and not prompts:
    raise ValueError("the prompt is empty: give one, or a file of prompts by --prompts FILE")
  if not prompts:
    return {"": prompt}
  if prompts.lower().endswith(".csv"):
    return _captions(prompts)
  return {f"{i:02}": text for i, text in enumerate(read_prompts(prompts))}


def _captions(path: str) -> dict[str, str]:
  """{name of the file without ending: caption} of a CSV."""
  found: dict[str, str] = {}

  def take(line: int, row: dict[str, str]) -> None:
    name = pathlib.Path(row["file"]).stem
    if not name or name in found:
      raise ValueError(f"wanted a file of its own, found {row['file']!r}")
    if not row["caption"].strip():
      raise ValueError(f"the caption of {row['file']} is empty")
    found[name] = row["caption"].strip()

  table_rows.read_rows(path, ("file", "caption"), take)
  if not found:
    raise ValueError(f"{path}: no rows")
  return found


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
