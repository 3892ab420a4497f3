"""Scores of folders of audio: what they say, what they refuse, and comparisons of systems."""

import dataclasses
import importlib.util
import json
import pathlib

import numpy as np
import pytest

from musiclm_jax import audio
from musiclm_jax.datasets import clip_files
from musiclm_jax.datasets.audio_record import FEATURES
from musiclm_jax.scoring import anchors, clips, of_pairs, of_sets, score, table
from musiclm_jax.scoring.compare import compare
from musiclm_jax.scoring.run import Material
from musiclm_jax.scoring.run import score as run
from tests.records import write_records

RATE, SECONDS, CLIPS = 8000, 1.0, 12


@dataclasses.dataclass(frozen=True)
class Bands:
  """An embedder of log energies in 8 bands of 0.25 s, whose softmax are class shares."""

  weights: str = "a"

  sample_rate = RATE

  @property
  def spec(self):
    return {"embedder": "bands", "weights": self.weights, "sample_rate": RATE}

  def embed(self, waveforms):
    power = np.abs(np.fft.rfft(waveforms.reshape(len(waveforms), 4, -1), axis=2)) ** 2
    bands = np.stack([x.sum(axis=2) for x in np.array_split(power, 8, axis=2)], axis=2)
    return np.log(bands + 1e-3).astype(np.float32)

  def classify(self, waveforms):
    shares = np.exp(self.embed(waveforms).mean(axis=1, dtype=np.float64))
    return shares / shares.sum(axis=1, keepdims=True)


SETS = (
  of_sets.KernelDistance(Bands(), 300),
  of_sets.FrechetDistance(Bands(), 100, 0),
  of_sets.FrechetLimit(Bands(), 20, 0),
  of_sets.FrechetOfEach(Bands()),
  of_sets.Mauve(Bands(), 6, 100, 0),
)
MEASURES = (*SETS, of_pairs.ClassDivergence(Bands()), of_pairs.Chroma(RATE))
KERNEL, KLD = (score.name_of(MEASURES[i]) for i in (0, 5))


def tone(pitch: float, noise: float, seed: int, rate: int = RATE) -> np.ndarray:
  time = np.arange(int(SECONDS * rate)) / rate
  x = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 2, 3, 4))
  return 0.1 * x + noise * np.random.default_rng(seed).normal(size=len(time))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Folders of tones: real, near (a little noise), far (much), and other real ones (reference)."""
  path = tmp_path_factory.mktemp("audio")
  rng = np.random.default_rng(0)
  pitches = rng.uniform(150, 600, 5 * CLIPS)
  for kind, noise in (("real", 0.002), ("near", 0.02), ("far", 0.05)):
    for i in range(CLIPS):
      wave = tone(pitches[i], noise, 100 * CLIPS + i)
      audio.write(str(path / kind / f"{i:02}.wav"), wave, RATE)
  for i in range(CLIPS, 5 * CLIPS):
    audio.write(str(path / "reference" / f"{i:02}.wav"), tone(pitches[i], 0.002, i), RATE)
  rows = [{"file": f"{i:02}.wav", "work": f"work {i // 2}", "bpm": 90.0} for i in range(CLIPS)]
  clip_files.write_table(str(path / "clips.csv"), rows)
  return path


def material(folder, **changes) -> Material:
  settings = {
    "reference": str(folder / "reference/*.wav"),
    "real": str(folder / "real/*.wav"),
    "clip_table": str(folder / "clips.csv"),
    "codec": "",
    "noise_rate": RATE,
    "seed": 0,
  }
  return Material(**settings | changes)


def scored(folder, out, systems=("near", "far"), measures=MEASURES, **changes) -> dict:
  run(
    systems={name: str(folder / name / "*.wav") for name in systems},
    material=material(folder, **changes),
    measures=measures,
    seconds=SECONDS,
    out_dir=str(out),
  )
  return json.loads((out / "scores.json").read_text())


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
  out = tmp_path_factory.mktemp("scores")
  return out, scored(folder, out)


def test_scores_are_ordered_and_every_row_has_its_measures(done):
  rows = done[1]["rows"]
  assert list(rows) == [
    anchors.HALVES,
    anchors.REAL,
    "near",
    f"near, {anchors.SHUFFLED}",
    "far",
    f"far, {anchors.SHUFFLED}",
    anchors.NOISE,
  ]
  for measure in SETS:
    values = [rows[name][score.name_of(measure)]["value"] for name in ("real", "near", "far")]
    ordered = values if measure.better == "less" else values[::-1]
    assert ordered == sorted(ordered), (score.name_of(measure), values)
  low, high = rows[anchors.HALVES][KERNEL]["interval"]
  assert low < 30 and high < rows["near"][KERNEL]["value"]
  assert set(rows["near"]) == {score.name_of(m) for m in MEASURES}
  assert set(rows["near, shuffled prompts"]) == {KLD, "chroma correlation"}
  assert rows["near"][KLD]["value"] < rows["near, shuffled prompts"][KLD]["value"]
  for scores in rows.values():
    for each in scores.values():
      assert each["interval"][0] <= each["value"] <= each["interval"][1]


def test_a_spec_states_what_a_score_depends_on(done, folder):
  spec = done[1]["rows"]["near"][KERNEL]["spec"]
  wanted = {"embedder": "bands", "weights": "a", "sample_rate": RATE, "clips": CLIPS}
  assert wanted.items() <= spec.items()
  assert spec["reference_clips"] == 4 * CLIPS and len(spec["reference"]) == 12
  assert spec["channels"] == "mean" and spec["resampler"].startswith("soxr")
  assert done[1]["rows"]["near"][KERNEL]["works"] == [f"work {i // 2}" for i in range(CLIPS)]
  assert KERNEL in (done[0] / "index.html").read_text()


def test_two_runs_are_equal(done, folder, tmp_path):
  scored(folder, tmp_path)
  assert (tmp_path / "scores.json").read_bytes() == (done[0] / "scores.json").read_bytes()


def test_the_better_system_is_found_by_paired_tests(done):
  rows = compare(files=(str(done[0] / "scores.json"),), out="")
  by = {row["measure"]: row for row in rows}
  assert by[KLD]["difference"] < 0 and by[KLD]["interval"][1] < 0
  assert by[KLD]["p"] == pytest.approx(2 / 2**6)  # the least that six works can give
  assert by[KERNEL]["difference"] < 0 and by[KERNEL]["p"] < 0.02
  assert by[KERNEL]["p_corrected"] == pytest.approx(min(1, by[KERNEL]["p"] * len(rows)))


def test_equal_systems_do_not_differ(folder, tmp_path):
  files = []
  for name in ("one", "other"):
    run(
      systems={name: str(folder / "near/*.wav")},
      material=material(folder),
      measures=(SETS[0], MEASURES[5]),
      seconds=SECONDS,
      out_dir=str(tmp_path / name),
    )
    files.append(str(tmp_path / name / "scores.json"))
  out = tmp_path / "differences.json"
  for row in compare(files=tuple(files), out=str(out)):
    assert row["difference"] == 0 and row["p"] == 1 and row["interval"] == [0, 0]
  assert json.loads(out.read_text())


@pytest.mark.parametrize(
  ("changes", "key"),
  [
    ({"measures": (of_sets.KernelDistance(Bands("b"), 300),)}, "weights is 'a' and 'b'"),
    ({"reference": "real/*.wav"}, "reference is"),
    ({"seconds": 0.5}, "seconds is 1.0 and 0.5"),
    ({"clip_table": ""}, "subset is"),
  ],
)
def test_scores_of_different_specs_are_not_compared(folder, tmp_path, changes, key):
  paths = []
  for name, each in (("one", {}), ("other", changes)):
    settings = {"measures": SETS[:1], "seconds": SECONDS} | each
    changed = {k: settings.pop(k) for k in list(settings) if k in ("reference", "clip_table")}
    changed = {k: str(folder / v) if v else "" for k, v in changed.items()}
    run(
      systems={name: str(folder / "near/*.wav")},
      material=material(folder, **changed),
      out_dir=str(tmp_path / name),
      **settings,
    )
    paths.append(str(tmp_path / name / "scores.json"))
  with pytest.raises(ValueError, match=f"one and other cannot be compared: {key}"):
    compare(files=tuple(paths), out="")


def test_measures_of_too_few_clips_are_refused_by_name(folder, tmp_path, capsys):
  (tmp_path / "two").mkdir()
  for i in range(2):
    (tmp_path / "two" / f"{i:02}.wav").symlink_to(folder / "near" / f"{i:02}.wav")
  rows = scored(tmp_path, tmp_path / "out", ("two",), SETS, **vars(material(folder)))["rows"]
  found = rows["two"][score.name_of(SETS[1])]
  assert found["too_few"] == "8 patches, at least 9 are needed" and "value" not in found
  assert "too few: 8 patches" in capsys.readouterr().out
  assert rows["two"][KERNEL]["value"] > -1000  # two clips are enough for this


def test_what_is_not_there_leaves_measures_out(folder, tmp_path, capsys):
  rows = scored(folder, tmp_path, ("near",), real="", clip_table="")["rows"]
  assert list(rows) == [anchors.HALVES, "near"]
  assert set(rows["near"]) == {score.name_of(measure) for measure in SETS}
  assert f"left out {KLD}: it needs real" in capsys.readouterr().err


def test_files_that_cannot_be_used_are_named(folder, tmp_path):
  (tmp_path / "near").mkdir()
  for path in (folder / "near").glob("*.wav"):
    (tmp_path / "near" / path.name).write_bytes(path.read_bytes())
  rest = vars(material(folder))
  bad = tmp_path / "near" / "07.wav"
  for content, message in (
    (b"<!DOCTYPE html>", "07.wav: not an audio file"),
    (audio.encoded("a.wav", tone(200, 0, 0)[: RATE // 2], RATE), "07.wav: wanted 1 s or more"),
  ):
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=message):
      scored(tmp_path, tmp_path / "out", ("near",), SETS[:1], **rest)
    assert not (tmp_path / "out" / "scores.json").exists()
  bad.rename(tmp_path / "near" / "99.wav")
  with pytest.raises(ValueError, match="real: no file 99.* among 12"):
    scored(tmp_path, tmp_path / "out", ("near",), SETS[:1], **rest)
  with pytest.raises(ValueError, match="no such files"):
    scored(tmp_path, tmp_path / "out", ("neer",), SETS[:1], **rest)


def test_the_table_must_have_every_clip(folder, tmp_path):
  text = (folder / "clips.csv").read_text()
  for changed, message in (
    (text.replace("03.wav,work 1,90.0\n", ""), "the table of clips has no bpm of 03"),
    (text.replace("03.wav,work 1,90.0", "03.wav,work 1,fast"), "bpm of 03: wanted a number"),
    (text + "03.wav,work 1,90.0\n", "clips.csv:14: a second row of 03"),
    (text.replace("file", "fiel"), "clips.csv:1: wanted a column file"),
  ):
    (tmp_path / "clips.csv").write_text(changed)
    with pytest.raises(ValueError, match=message):
      scored(folder, tmp_path, ("near",), SETS[:1], clip_table=str(tmp_path / "clips.csv"))


def test_two_clips_of_one_name_are_refused(tmp_path):
  for ending in (".wav", ".flac"):
    audio.write(str(tmp_path / f"a{ending}"), tone(200, 0.01, 0), RATE)
  with pytest.raises(ValueError, match="two files of the name a"):
    clips.find(str(tmp_path / "*"), SECONDS)


def test_stereo_is_its_mono_mix_and_other_rates_are_resampled_files(tmp_path):
  import soundfile

  sides = np.stack([tone(220, 0.01, 0, 44100), tone(330, 0.01, 1, 44100)], axis=1)
  sides = np.round(sides * 2**14).astype(np.float32) / 2**15  # whose mean a file holds exactly
  soundfile.write(tmp_path / "stereo.wav", sides, 44100, "FLOAT")
  soundfile.write(tmp_path / "mono.wav", sides.mean(axis=1), 44100, "FLOAT")
  resampled = audio.resample(sides.mean(axis=1), 44100, RATE)
  soundfile.write(tmp_path / "resampled.wav", resampled, RATE, "FLOAT")
  mono, again, stereo = clips.features(clips.find(str(tmp_path / "*.wav"), 0.99), Bands(), "embed")
  np.testing.assert_array_equal(mono, stereo)
  np.testing.assert_allclose(mono, again, atol=1e-5)


def test_anchors_pair_other_works_and_split_works(tmp_path):
  works = ("a", "a", "b", "c", "c", "c", "d", "b")
  order = anchors.rotated(works)
  assert sorted(order) == list(range(8)) and all(works[i] != works[j] for i, j in enumerate(order))
  one, other = anchors.halves(works, 0)
  assert sorted(one + other) == list(range(8))
  assert not {works[i] for i in one} & {works[i] for i in other}


def test_a_clip_without_a_work_is_one_of_its_own():
  rows = {"a": {"work": "x"}, "b": {"work": ""}}
  assert table.works(rows, ("a", "b", "c")) == ("x", "b", "c")


def test_scores_of_clips_are_ratios():
  found = score.of_clips([1.0, 3.0], ("a", "b"), [2.0, 6.0])
  assert found.value == 0.5 and found.draws is None


def test_records_become_files_and_a_table(tmp_path):
  records = [
    {"id": f"a/{i}", "waveform": audio.to_int16(tone(200 + i, 0.01, i)), "caption": f"tone {i}"}
    for i in range(3)
  ]
  filled = [{"aspect_list": [], "work": "w", "melody": "", **each} for each in records]
  write_records(tmp_path / "data", {"train": filled[:1], "test": filled[1:]}, FEATURES)
  settings = dict(data_dir=str(tmp_path / "data"), sample_rate=RATE, out_dir=str(tmp_path / "out"))
  clip_files.write_clips(split="train+test", count=0, seconds=0.5, **settings)
  assert (tmp_path / "out/clips.csv").read_text().splitlines() == [
    "file,caption,work",
    *(f"a_{i}.wav,tone {i},w" for i in range(3)),
  ]
  found = audio.read(str(tmp_path / "out/a_2.wav"), RATE)
  np.testing.assert_array_equal(audio.to_int16(found), records[2]["waveform"][: RATE // 2])
  with pytest.raises(ValueError, match="wanted 4 records of train, it has 1"):
    clip_files.write_clips(split="train", count=4, seconds=0.5, **settings)
  with pytest.raises(ValueError, match="a_0.wav: wanted 2 s or more"):
    clip_files.write_clips(split="train", count=0, seconds=2.0, **settings)


def test_the_measure_in_the_documentation_measures(folder, tmp_path):
  text = pathlib.Path(__file__).parent.parent.joinpath("docs/extend.md").read_text()
  (code,) = [part for part in text.split("```python") if "class LevelDifference" in part]
  (tmp_path / "level.py").write_text(code.partition("```")[0])
  spec = importlib.util.spec_from_file_location("level", tmp_path / "level.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  rows = scored(folder, tmp_path, measures=(module.LevelDifference(RATE),))["rows"]
  near, far = (rows[name]["level difference in dB"]["value"] for name in ("near", "far"))
  assert 0 <= near < far < 3


def test_a_file_without_scores_is_named(tmp_path):
  path = pathlib.Path(tmp_path, "scores.json")
  for text in ("{", "[]", '{"rows": {}}'):
    path.write_text(text)
    with pytest.raises(ValueError, match="scores.json: not a file scores.json"):
      compare(files=(str(path),), out="")
