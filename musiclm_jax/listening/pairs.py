"""The job that makes a listening test: a folder that opens from disk, with no server."""

import glob
import itertools
import json
import os
import pathlib

import numpy as np

from musiclm_jax import audio, storage
from musiclm_jax.listening import page
from musiclm_jax.lm.prompts import read_prompts
from musiclm_jax.ranges import NonNegativeInt, PositiveFloat, Seed

KEY = "key.json"


def pairs(
  *,
  systems: dict[str, str],
  prompts: str,
  out_dir: str,
  pairs_each: NonNegativeInt,
  seconds: PositiveFloat,
  sample_rate: int,
  question: str,
  seed: Seed,
) -> str:
  """Writes out_dir/test: index.html and the clips under names that tell nothing; returns its path.

  `systems` {name: glob pattern} are files of audio, as many of each; the nth of each in the order
  of their names is of the nth line of the file `prompts` ("": no texts). Each two systems are
  compared on `pairs_each` prompts (0: all), drawn at random, with their first `seconds`. What each
  clip is stands in out_dir/key.json, which listeners do not get. Raises ValueError for fewer than
  two systems, where numbers of files or lines differ, and where there is a test in out_dir already.
  """
  files = {name: sorted(glob.glob(pattern)) for name, pattern in systems.items()}
  counts = {name: len(found) for name, found in files.items()}
  texts = read_prompts(prompts) if prompts else [""] * max(counts.values(), default=0)
  if len(systems) < 2:
    raise ValueError(f"systems: wanted two or more, found {', '.join(systems) or 'none'}")
  for name, count in counts.items():
    if count != len(texts) or not count:
      wanted = f"{len(texts)} files, one for each prompt" if texts else "files"
      raise ValueError(f"systems: {name}: wanted {wanted}, found {count} for {systems[name]}")
  rng = np.random.default_rng(seed)
  test, names = pathlib.Path(out_dir, "test"), {}
  if test.exists():
    raise ValueError(f"{test}: exists; a test that listeners may have is not changed")

  def clip(system: str, index: int) -> str:
    """The name of a system's clip in the test, which is made if it is not there yet."""
    if (system, index) not in names:
      names[system, index] = f"{rng.bytes(6).hex()}.ogg"
      music = audio.read(files[system][index], sample_rate)[: round(seconds * sample_rate)]
      audio.write(os.fspath(test / "clips" / names[system, index]), music, sample_rate)
    return names[system, index]

  rows, key = [], {}
  for first, second in itertools.combinations(systems, 2):
    for index in rng.permutation(len(texts))[: pairs_each or None]:
      sides = [first, second] if rng.random() < 0.5 else [second, first]
      row = {"id": f"{len(rows)}", "text": texts[index]}
      rows.append(row | {side: clip(system, index) for side, system in zip("ab", sides)})
      key[row["id"]] = {"prompt": int(index), "a": sides[0], "b": sides[1]}
  rows = [rows[index] for index in rng.permutation(len(rows))]
  name = storage.digest(json.dumps([question, rows, key]))
  storage.write_text(test / "index.html", page.document(name, question, rows))
  content = {"test": name, "systems": list(systems), "pairs": key}
  storage.write_text(pathlib.Path(out_dir, KEY), json.dumps(content, indent=1) + "\n")
  return os.fspath(test / "index.html")
