"""What the tests of published tables share: clips, the command, and what it made."""

import json

import numpy as np
import soundfile
import tensorflow_datasets as tfds

from musiclm_jax import main

RATE = 24000


def write_tone(path, seconds, rate=RATE, hertz=440.0):
  """Writes a tone, in the format of the ending of its name."""
  path.parent.mkdir(parents=True, exist_ok=True)
  time = np.arange(round(seconds * rate)) / rate
  soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * time), rate)


def prepare(capsys, tmp_path, name, **flags):
  """Exit code, stdout and the lines of stderr of a command over tmp_path/clips."""
  flags = dict(audio_dir=tmp_path / "clips", data_dir=tmp_path / "out", workers=1) | flags
  code = main.main(["prepare", f"data/{name}", *(f"--{k}={v}" for k, v in flags.items())])
  out, err = capsys.readouterr()
  return code, out, err.splitlines()


def read(tmp_path):
  """Records of each split, read without the package."""
  builder = tfds.builder_from_directory(tmp_path / "out/folder/1.0.0")
  return {split: list(builder.as_data_source(split)) for split in builder.info.splits}


def works(tmp_path):
  """The works of each split, sorted."""
  return {k: sorted(row["work"].decode() for row in rows) for k, rows in read(tmp_path).items()}


def beside(tmp_path, name):
  """The rows of a file of JSON lines beside the data set, sorted."""
  text = (tmp_path / "out/folder/1.0.0" / name).read_text()
  return [json.loads(line) for line in text.splitlines()]
