"""The detector of generated audio: what it learns, its accuracy, and the command."""

import json
import pathlib
import sys
import types

import gin
import numpy as np
import pytest

from musiclm_jax import audio, main
from musiclm_jax.evaluation import detect, detector

RATE, HOP, SECONDS = 16000, 320, 3.0
TRAINING = detector.Training(folds=4, penalty=0.1)


class Codec:
  """A codec of two levels: how loud a frame is, and how bright."""

  module = types.SimpleNamespace(hop=HOP, sample_rate=RATE)
  fingerprint = "abc"

  def __call__(self, method, waveforms):
    assert method == "encode"
    frames = waveforms.reshape(len(waveforms), -1, HOP)
    loud = np.sqrt(np.square(frames).mean(axis=2)) * 300
    bright = np.sqrt(np.square(np.diff(frames, axis=2)).mean(axis=2)) * 300
    return np.clip(np.stack([loud, bright], axis=2), 0, 63).astype(np.int32)


def clip(steady: bool, seed: int) -> np.ndarray:
  """Tones of random lengths and levels, or of one: "generated"."""
  rng = np.random.default_rng(seed)
  time = np.arange(int(SECONDS * RATE)) / RATE
  levels = np.full(30, 0.5) if steady else rng.uniform(0.1, 1, 30)
  envelope = np.repeat(levels, len(time) // 30)
  return (0.2 * envelope * np.sin(2 * np.pi * rng.uniform(200, 800) * time)).astype(np.float32)


@pytest.fixture(scope="module")
def sets():
  waveforms = {
    "roundtrip": np.stack([clip(False, i) for i in range(16)]),
    "real": np.stack([clip(False, 100 + i) for i in range(16)]),
    "generated": np.stack([clip(True, i) for i in range(16)]),
  }
  return {name: detector.examples(Codec(), x, 5) for name, x in waveforms.items()}


def test_it_learns_what_sets_generated_clips_apart(sets):
  works = [f"work {i // 2}" for i in range(16)]
  found = detector.figures(TRAINING.judged(sets, works), works)
  assert found["detector_accuracy"]["value"] > 0.9
  assert found["detector_accuracy"]["interval"][1] <= 1
  assert found["detector_accuracy_of_ogg"]["value"] > 0.9
  assert found["detector_false_alarms"]["value"] < 0.2
  assert found["detector_false_alarms"]["baseline"] < 0.2


def test_of_equal_sets_it_learns_nothing_about_other_works(sets):
  same = dict(sets, generated=sets["roundtrip"])
  works = [f"work {i // 2}" for i in range(16)]
  found = detector.figures(TRAINING.judged(same, works), works)
  assert found["detector_accuracy"]["value"] == pytest.approx(0.5, abs=0.01)


def test_it_needs_two_works(sets):
  with pytest.raises(ValueError, match="two works or more, found 1"):
    TRAINING.judged(sets, ["one"] * 16)


def test_loudness_tells_nothing():
  waveforms = np.stack([clip(False, i) for i in range(2)])
  one, other = (detector.features(Codec(), x, 2) for x in (waveforms, 0.1 * waveforms))
  np.testing.assert_allclose(one, other, atol=0.02)


def test_a_saved_detector_judges_the_same(sets, tmp_path):
  made = TRAINING.train(sets["roundtrip"], sets["generated"], "abc", SECONDS)
  made.save(str(tmp_path / "detector.json"))
  again = detector.load(str(tmp_path / "detector.json"))
  rows = sets["real"].reshape(-1, sets["real"].shape[-1])
  np.testing.assert_allclose(made.probability(rows), again.probability(rows), rtol=1e-12)
  assert (again.codec, again.seconds) == ("abc", SECONDS)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', '{"format": 1}'])
def test_a_file_that_is_no_detector_is_named(text, tmp_path):
  path = tmp_path / "detector.json"
  with pytest.raises(ValueError, match="detector.json: no such file"):
    detector.load(str(path))
  path.write_text(text)
  with pytest.raises(ValueError, match="detector.json: (not a detector|wanted format 1)"):
    detector.load(str(path))


@pytest.fixture
def bundle(sets, tmp_path, monkeypatch):
  """A bundle with the codec above."""
  made = TRAINING.train(sets["roundtrip"], sets["generated"], "abc", SECONDS)
  made.save(str(tmp_path / "bundle" / "detector.json"))
  (tmp_path / "bundle/bundle.json").write_text("{}")
  monkeypatch.setattr(detect.frozen, "load", lambda directory, kind: Codec())
  return tmp_path / "bundle"


def test_files_are_judged_by_the_mean_of_their_windows(bundle, tmp_path, capsys):
  files = {"made.wav": [True] * 2, "real.wav": [False], "half.wav": [True, False]}
  for name, kinds in files.items():
    parts = [clip(kind, 50 + i) for i, kind in enumerate(kinds)]
    audio.write(str(tmp_path / name), np.concatenate([*parts, parts[0][:2000]]), RATE)
  paths = tuple(str(tmp_path / name) for name in files)
  found = detect.detect(files=paths, bundle=str(bundle), batch_size=4)
  made, real, half = (found[path] for path in paths)
  assert made > 0.7 > half > 0.3 > real
  assert f"{made:.2f}  generated  {paths[0]}" in capsys.readouterr().out


def test_what_cannot_be_judged_is_named(bundle, tmp_path):
  audio.write(str(tmp_path / "short.wav"), clip(True, 0)[:RATE], RATE)
  path = str(tmp_path / "short.wav")
  with pytest.raises(ValueError, match="short.wav: wanted 3 s or more, found 1.00 s"):
    detect.detect(files=(path,), bundle=str(bundle), batch_size=4)
  changed = pathlib.Path(bundle, "detector.json")
  changed.write_text(json.dumps(json.loads(changed.read_text()) | {"codec": "xyz"}))
  with pytest.raises(ValueError, match="detector.json is of codec xyz, codec here is abc"):
    detect.detect(files=(path,), bundle=str(bundle), batch_size=4)


def test_the_command_takes_any_number_of_files(tmp_path, monkeypatch, capsys):
  asked = []
  monkeypatch.setattr(detect.detector, "load", lambda path: asked.append(path))
  monkeypatch.setattr(detect.frozen, "load", lambda *a: asked.append(a) or sys.exit(7))
  for words in (["a.wav"], ["small/b.wav", "c d.wav", "e.wav"]):
    for word in words:  # the second begins like the name of a gin file
      (tmp_path / word).parent.mkdir(exist_ok=True)
      (tmp_path / word).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
      main.main(["detect", *words])
    assert gin.query_parameter("%FILES") == tuple(words)
  assert main.main(["detect"]) == 2 and "needs --FILES=..." in capsys.readouterr().err
  assert main.main(["detect", "small/none"]) == 2
  assert "small/none: no such gin file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_released_bundle_knows_most_of_its_music():
  folder = pathlib.Path(__file__).parent.parent / "docs" / "music"
  files = tuple(str(path) for path in sorted(folder.glob("0*.ogg")))
  found = detect.detect(files=files, bundle="small", batch_size=16)
  assert len(found) == 8 and np.mean([value >= 0.5 for value in found.values()]) >= 0.7
