"""The whole chain at the smallest size, as a user runs it."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from musiclm_jax import part_files
from musiclm_jax.configuration import Configuration, find
from musiclm_jax.tokenizers import frozen

pytestmark = pytest.mark.slow


COMMANDS = [text for _, text in Configuration([find("tiny/commands")]).macro("COMMANDS").value]
TRAININGS = {text.split()[1]: text for text in COMMANDS if text.startswith("train ")}
del TRAININGS["tiny/melody_rvq"]  # trains as mulan_rvq does


def musiclm(*words):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  return subprocess.run(
    [sys.executable, "-m", "musiclm_jax", *map(str, words)],
    env=environment,
    capture_output=True,
    text=True,
    timeout=600,
  )


@contextlib.contextmanager
def killed(*words):
  """The process of `musiclm *words`, which is killed in the end, with all that it started."""
  process = subprocess.Popen(
    [sys.executable, "-m", "musiclm_jax", *words],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  try:
    yield process
  finally:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A demo that was killed in commands that train nothing, and each time run again."""
  directory, rng = tmp_path_factory.mktemp("demo"), random.Random(0)
  words = ("demo", "tiny/commands", f"--dir={directory}")
  others = [number for number, text in enumerate(COMMANDS, 1) if not text.startswith("train ")]
  for number in sorted(rng.sample(others, 4)):
    with killed(*words) as process:
      assert any(line.startswith(f"[{number}/") for line in process.stderr), "it ended before"
      time.sleep(rng.uniform(0, 2))
  result = musiclm(*words)
  assert result.returncode == 0, result.stderr[-3000:]
  return directory


@pytest.fixture(scope="module")
def resumed(made, tmp_path_factory):
  """Its trainings again, each killed once its second step is saved, and continued by a new start.

  They are the commands of one demo: a start continues one training and goes on to the next.
  """
  directory = tmp_path_factory.mktemp("resumed")
  commands = [
    text.replace("--model_dir={dir}", f"--model_dir={directory}").replace("{dir}", str(made))
    for text in TRAININGS.values()
  ]
  commands = tuple((0.1, f"{text} --checkpoint_period=2") for text in commands)
  words = ("demo", "tiny/commands", f"--dir={directory}", f"--COMMANDS={commands!r}")
  for name in TRAININGS:
    model_dir = directory / name.removeprefix("tiny/")
    with killed(*words) as process:
      while not (model_dir / "checkpoints" / "2").exists():
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.01)
    assert not (model_dir / "weights.safetensors").exists(), f"{name} ended before"
  result = musiclm(*words)
  assert result.returncode == 0, result.stderr[-3000:]
  return directory


def test_everything_is_there(made):
  metrics = json.loads((made / "metrics.json").read_text())
  assert {"codec", "w2v_bert", "mulan", "semantic", "coarse", "fine"} <= set(metrics)
  page = (made / "report.html").read_text()
  assert "<audio" in page and not re.search(r'(src|href|url)[=(]"?https?:', page)
  for wav in (made / "audio").glob("*.wav"):
    assert soundfile.info(wav).samplerate == 24000


def test_the_second_run_does_nothing(made):
  before = (made / "report.html").stat().st_mtime_ns
  result = musiclm("demo", "tiny/commands", f"--dir={made}")
  assert result.returncode == 0 and "have been run" in result.stdout
  assert (made / "report.html").stat().st_mtime_ns == before


def test_extracted_codes_are_those_of_the_codec_itself(made):
  clips = tfds.builder_from_directory(str(made / "corpus/rendered/tiny/1.0.0"))
  clips = {c["id"]: c["waveform"] for c in clips.as_data_source("test")}
  shards = tfds.builder_from_directory(str(made / "tokens")).as_data_source("test")
  assert len(shards) == len(clips)
  codec = frozen.load(str(made / "soundstream"))
  for row in list(shards)[:3]:
    waveform = clips[row["id"]].astype(np.float32)[None] / 32768.0
    codes = np.asarray(codec("encode", waveform))[0]
    assert row["acoustic"].shape == codes.shape
    assert (row["acoustic"] == codes).mean() > 0.999  # a tie may fall otherwise in another batch
    assert row["semantic"].shape == (len(waveform[0]) // 960, 1)


def test_music_from_text_has_exactly_its_length_and_its_seed(made, tmp_path):
  def generate(name, *more):
    words = ("a calm flute", "--bundle", made / "bundle", "--seconds", "1.5", "--out", name)
    assert musiclm("generate", *words, *more).returncode == 0
    return soundfile.read(name)[0]

  first = generate(tmp_path / "a.wav")
  assert len(first) == 36000 and np.abs(first).max() > 0
  np.testing.assert_array_equal(first, generate(tmp_path / "b.wav"))
  assert (first != generate(tmp_path / "c.wav", "--seed=1")).any()


@pytest.mark.parametrize("name", TRAININGS)
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(made, resumed, name):
  model = name.removeprefix("tiny/")
  whole, again = (part_files.read_weights(str(folder / model)) for folder in (made, resumed))
  jax.tree.map(np.testing.assert_array_equal, whole, again)


def test_a_sweep_that_was_killed_goes_on_where_it_was(made, resumed, tmp_path):
  words = ["sweep", "tiny/sweep", f"--out_dir={tmp_path}", f"--parts_dir={made}"]
  words += [f"--run_dir={resumed}/semantic", f"--tokens_dir={made}/tokens"]
  words += [f"--data_dir={made}/corpus/rendered/tiny/1.0.0"]
  words += [f"--text_model={made}/corpus/captions.model"]
  with killed(*words) as process:
    assert any("[5/12]" in line and " evaluate " in line for line in process.stderr), "no fifth"
    time.sleep(1)
  first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")}
  assert len(first) == 4
  result = musiclm(*words)
  assert result.returncode == 0, result.stderr[-3000:]
  assert all(path.stat().st_mtime_ns == before for path, before in first.items())
  lines = (tmp_path / "table.csv").read_text().splitlines()
  assert len(lines) == 1 + 12 and lines[1].startswith('"checkpoint=6,guidance=0.0,temperature=0.8"')
  page = (tmp_path / "index.html").read_text()
  assert page.count("<audio") == 24 and page.count("<svg") == 6
  assert not re.search(r'(src|href|url)[=(]"?https?:', page)


@pytest.mark.parametrize(
  "words, message",
  [
    (("generate", "", "--bundle", "{made}/bundle"), "the prompt is empty"),
    (("generate", "flute", "--bundle", "/nowhere"), "no bundle here"),
    (("generate", "flute", "--bundle", "{made}/bundle", "--seconds", "0"), "float above 0"),
    (
      ("train", "tiny/fine", "--data_dir={made}/corpus", "--model_dir={made}/x"),
      "no data set here",
    ),
    (
      ("train", "tiny/fine", "--data_dir={made}/tokens", "--model_dir={made}/coarse"),
      "another configuration",
    ),
    (
      (
        "train",
        "tiny/kmeans",
        "--data_dir={made}/embeddings",
        "--model_dir={made}/collapsed",
        '--gin.health.Limits.floors={{"perplexity_0": (99.0, "it has collapsed")}}',
      ),
      "step 6: it has collapsed: perplexity_0 is",
    ),
  ],
)
def test_mistakes_are_one_line_and_an_exit_code(made, words, message):
  result = musiclm(*(word.format(made=made) for word in words))
  assert result.returncode != 0
  lines = [line for line in result.stderr.splitlines() if line.startswith("musiclm: ")]
  assert len(lines) == 1 and message in lines[0] and "Traceback" not in result.stderr
