"""Bundles and generation on random weights: lengths, determinism, windows, refusals."""

import copy
import functools
import json
import math
import pathlib
import shutil

import jax
import numpy as np
import pytest
import soundfile

import musiclm_jax
from musiclm_jax import storage
from musiclm_jax.evaluation import retrieval
from musiclm_jax.lm import generate as generate_module
from musiclm_jax.lm import takes
from musiclm_jax.lm.composer import Composer, fold_in, prompt_keys
from musiclm_jax.lm.conditions import constant
from musiclm_jax.lm.generate import generate
from musiclm_jax.lm.prompts import read_prompts
from musiclm_jax.lm.sampling import Changes
from musiclm_jax.lm.token_lm import TokenLM
from musiclm_jax.lm.wanted import Wanted
from musiclm_jax.seeds import random_key
from musiclm_jax.tokens import Stage, flatten, unflatten
from tests import bundles, test_text

pytestmark = pytest.mark.slow  # they compile a whole bundle


@pytest.mark.parametrize("seconds", [0.5, 2.0, 3.01])  # less than, equal to and beyond the crop
def test_music_has_exactly_the_seconds_asked_for(composer, seconds):
  music = composer.waveforms(["a flute", "drums"], seconds, seed=0)
  assert music.shape == (2, round(seconds * bundles.SAMPLE_RATE))
  assert np.isfinite(music).all() and np.abs(music).max() > 0


def test_codes_of_all_levels_are_in_range_and_aligned(composer):
  prompts = ["a flute"]
  given = {"mulan": constant(composer.text_codes(prompts))}
  codes = composer.compose(given, 2.0, prompt_keys(prompts, 0))
  assert codes["semantic"].shape == (1, 50, 1) and codes["acoustic"].shape == (1, 100, 4)
  for name in ("semantic", "acoustic"):
    assert codes[name].min() >= 0 and codes[name].max() < 16


def test_a_prompt_depends_on_its_text_and_seed_and_not_on_its_batch(composer):
  together = composer.waveforms(["a flute", "drums", "a flute"], 1.0, seed=3)
  alone = composer.waveforms(["drums"], 1.0, seed=3)
  np.testing.assert_allclose(together[1:2], alone, atol=1e-5)
  assert np.abs(together[0] - together[2]).max() > 1e-3  # the second take of a prompt
  other_seed = composer.waveforms(["drums"], 1.0, seed=4)
  assert np.abs(alone - other_seed).max() > 1e-3


def test_facts_are_those_asked_for_else_those_that_a_prompt_names(composer):
  prompts = ["a harp and a flute at 90 bpm", "drums"]
  assert composer.facts == ("bpm", "instruments", "beat_s", "start_s", "end_s")
  assert composer.told(prompts, {}) == [{"bpm": [90.0], "instruments": ["harp", "flute"]}, {}]
  asked = {"bpm": 150, "instruments": "flute, harp", "end_s": 3.0}
  told = {"bpm": [150], "instruments": ["flute", "harp"], "end_s": 3.0}
  assert composer.told(prompts, asked) == [told, told]
  for facts, message in (
    ({"key": "C major"}, "no stage reads a label key; they read bpm, instruments, beat_s, start_s"),
    (
      {"instruments": "flute, oboe"},
      "wanted some of flute, harp, double bass, found 'fl.*oboe'",
    ),
    ({"bpm": "fast"}, "bpm: wanted a number, found 'fast'"),
  ):
    with pytest.raises(ValueError, match=message):
      composer.told(prompts, facts)


def test_facts_reach_the_stages_at_the_time_of_each_window(composer, monkeypatch):
  given = []
  compose = Composer.compose

  def spy(self, conditions, seconds, *rest):
    names = ("tempo", "beat", "place")
    given.append({name: conditions[name](0.0, 1.0)[0, :, 0].tolist() for name in names})
    return compose(self, conditions, seconds, *rest)

  monkeypatch.setattr(Composer, "compose", spy)
  ask = functools.partial(composer.waveforms, ["drums"], 1.0, seed=3)
  plain, slow, ends = ask(), ask(facts={"bpm": 60}), ask(facts={"end_s": 1.0})
  assert plain.shape == slow.shape == ends.shape == (1, bundles.SAMPLE_RATE)
  assert given[0] == {"tempo": [-1], "beat": [-1] * 25, "place": [-1] * 25}
  assert given[1]["tempo"] == [1] and given[1]["beat"] == sorted(given[1]["beat"])
  assert set(given[1]["beat"]) == {0, 1, 2, 3} and given[2]["place"] == [2] * 25
  for other in (slow, ends):
    assert np.abs(other - plain).max() > 1e-6


def test_music_in_python_is_that_of_the_composer(bundle, composer):
  model = musiclm_jax.MusicLM.load(bundle)
  music = model.generate("drums", 1.0, seed=3, tempo=60, instruments=["flute"])
  facts = {"bpm": 60, "instruments": "flute"}
  np.testing.assert_array_equal(music, composer.waveforms(["drums"], 1.0, 3, facts=facts)[0])
  assert model.sample_rate == bundles.SAMPLE_RATE and music.dtype == np.float32
  ends = model.generate("drums", 1.0, seed=3, ending=True)
  wanted = composer.waveforms(["drums"], 1.0, 3, facts={"end_s": 1.0})[0]
  np.testing.assert_array_equal(ends, wanted)
  with pytest.raises(ValueError, match="no stage reads a label key"):
    model.generate("drums", key="C major")


def test_text_that_was_never_seen_is_valid_audio(composer):
  music = composer.waveforms(["Ζωή 🎷 qwxz 12345 !?"], 0.5, seed=0)
  assert np.isfinite(music).all()


def test_capitals_change_nothing(composer):
  np.testing.assert_array_equal(
    composer.text_codes(["A Slow FLUTE"]), composer.text_codes(["a slow flute"])
  )


def test_a_long_prompt_is_cut_and_says_where(composer, capsys):
  composer.text_codes(["a slow calm flute and a fast violin in d major " * 5])
  assert "text cut after 16 of " in (said := capsys.readouterr().err)
  assert "tokens, at 'a slow calm" in said


@pytest.mark.parametrize(
  "make, name",
  [
    (lambda path: "", ""),
    (lambda path: test_text.word_pieces(path / "uncased.txt"), "vocab.txt"),
    (lambda path: test_text.roberta(path / "roberta.json"), "tokenizer.json"),
  ],
)
def test_a_bundle_keeps_the_text_model_of_its_training(tmp_path, capsys, make, name):
  runs = bundles.make_runs(tmp_path / "runs", make(tmp_path))
  path, text = bundles.export(*runs, tmp_path / "bundle"), runs[1]
  assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["text_model"] == name
  if text:
    pathlib.Path(text).unlink()  # the bundle has its own
    assert (tmp_path / "bundle" / name).is_file()
  made = Composer(path)
  assert made.text_codes(["a slow flute"]).shape == (1, 1, 2)
  with pytest.raises(ValueError, match="the prompt is empty: ''"):
    made.text_codes(["a slow flute", ""])
  rows = retrieval.text_rows(path, ["a slow flute", "a slow calm flute"])
  assert rows.shape == (2, 16) and rows[:, 1].all()
  assert ("1 of 2 texts were cut to 16 tokens" in capsys.readouterr().err) == (name == "")
  if name:
    (tmp_path / "bundle" / name).unlink()
    with pytest.raises(ValueError, match=f"bundle: {name} is missing"):
      Composer(path)


def test_music_is_made_of_bytes_too(tmp_path):
  path = bundles.export(*bundles.make_runs(tmp_path / "runs", ""), tmp_path / "bundle")
  music = Composer(path).waveforms(["Ζωή 🎷"], 0.5, seed=0)
  assert music.shape == (1, 1200) and np.isfinite(music).all()


def test_another_text_model_than_that_of_the_training_is_refused(runs, tmp_path):
  with pytest.raises(ValueError, match="was trained with text model .*TEXT_MODEL is bytes"):
    bundles.export(runs[0], "", tmp_path / "bundle")
  with pytest.raises(ValueError, match="nowhere.model: no such text model"):
    bundles.export(runs[0], "nowhere.model", tmp_path / "bundle")
  with pytest.raises(ValueError, match="mulan: reads at most 64 tokens, TEXT_LENGTH is 65"):
    bundles.export(*runs, tmp_path / "bundle", text_length=65)
  assert not (tmp_path / "bundle").exists()


def write(bundle, out, **changes):
  settings = {"seconds": 0.5, "seed": 0, "format": "wav", "picture": "", "best_of": 1}
  asked = {name: changes.pop(name) for name in list(changes) if name not in settings}
  wanted = Wanted(**{"prompt": "a flute"} | asked)
  return generate(
    bundle=bundle, wanted=wanted, out=str(out), changes=Changes(), **settings | changes
  )


def test_generate_writes_what_the_names_of_its_files_promise(bundle, tmp_path):
  (path,) = write(bundle, tmp_path / "one.flac", prompt="a calm flute, Ζωή")
  waveform, rate = soundfile.read(path)
  assert (len(waveform), rate, soundfile.info(path).format) == (1200, 2400, "FLAC")
  (tmp_path / "prompts.txt").write_text("a flute\nfast drums\n")
  paths = write(bundle, tmp_path / "many", prompt="", prompts=str(tmp_path / "prompts.txt"))
  assert [p[-6:] for p in paths] == ["00.wav", "01.wav"]
  assert (tmp_path / "many" / "01.wav").exists()


def test_the_best_of_several_takes_is_kept(composer):
  prompts = ["a flute", "drums"]
  first = composer.waveforms(prompts, 0.5, 0)
  np.testing.assert_array_equal(takes.best_of(composer, prompts, 0.5, 0, 1), first)
  best = takes.best_of(composer, prompts, 0.5, 0, 4)
  found = composer.agreement(prompts, best)
  keys = prompt_keys(prompts, 0)
  every = [first] + [
    composer.waveforms(prompts, 0.5, 0, keys=fold_in(keys, take)) for take in (1, 2, 3)
  ]
  scores = np.stack([composer.agreement(prompts, music) for music in every])
  np.testing.assert_allclose(found, scores.max(axis=0), rtol=1e-5)
  assert np.ptp(scores, axis=0).min() > 0
  for row, take in enumerate(scores.argmax(axis=0)):
    np.testing.assert_array_equal(best[row], every[take][row])


def test_prompts_of_a_table_are_named_as_its_files(bundle, tmp_path):
  table = tmp_path / "clips.csv"
  table.write_text('file,caption,work\na_1.wav,"a flute, slow",w\nsub/b.flac,drums,w\n')
  paths = write(bundle, tmp_path / "out", prompt="", prompts=str(table), format="flac")
  assert [p.rpartition("/")[2] for p in paths] == ["a_1.flac", "b.flac"]
  for text, message in (
    ("file,caption\na.wav,x\na.flac,y\n", "clips.csv:3: a second row of a"),
    ("file,caption\na.wav, \n", "clips.csv:2: the caption of a.wav is empty"),
    ("file,caption\n", "clips.csv: no rows"),
    ("file,text\na.wav,x\n", "clips.csv:1: wanted a column caption"),
  ):
    table.write_text(text)
    with pytest.raises(ValueError, match=message):
      write(bundle, tmp_path / "other", prompt="", prompts=str(table))
  assert not (tmp_path / "other").exists()


def test_many_prompts_in_batches_give_what_one_batch_gives(bundle, tmp_path, monkeypatch):
  texts = ["a flute", "drums", "a flute", "a harp", "a flute"]
  (tmp_path / "prompts.txt").write_text("\n".join(texts))
  music = []
  for name, size in (("whole", 32), ("parts", 2)):
    monkeypatch.setattr(generate_module, "_BATCH", size)
    out = tmp_path / name
    paths = write(bundle, out, prompt="", prompts=str(tmp_path / "prompts.txt"), seconds=0.3)
    music.append([soundfile.read(path)[0] for path in paths])
  np.testing.assert_array_equal(*music)
  assert not np.array_equal(music[0][0], music[0][2])  # two takes of one prompt


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"prompt": ""}, "the prompt is empty"),
    ({"prompt": "   "}, "the prompt is empty"),
    ({"prompt": "宁静"}, "not trained on any part of the prompt '宁静'"),
    ({"prompts": "prompts.txt"}, "both a prompt and --prompts prompts.txt"),
    ({"seconds": 0.0}, "--seconds: wants a finite length of at least 1 sample at 2400 Hz, got 0"),
    ({"seconds": 1e-4}, "--seconds: .* at least 1 sample"),
    ({"seconds": float("inf")}, "--seconds: .* got inf"),
    ({"seconds": float("nan")}, "--seconds: .* got nan"),
    ({"prompt": "", "prompts": "/nonexistent.txt"}, "/nonexistent.txt: no such file"),
  ],
)
def test_bad_requests_are_one_line(bundle, tmp_path, changes, message):
  with pytest.raises(ValueError, match=message) as caught:
    write(bundle, tmp_path / "x.wav", **changes)
  assert "\n" not in str(caught.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "out, message",
  [
    ("x.mp3", "x.mp3: wants a file name that ends in one of .wav, .flac, .ogg"),
    ("x", "x: wants a file name that ends"),
    ("folder", "folder: wants the name of a file, this is a folder"),
    ("file/x.wav", "file: wants a folder, this is a file"),
  ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_bundle_is_read(
  tmp_path, out, message
):
  (tmp_path / "folder").mkdir()
  (tmp_path / "file").touch()
  with pytest.raises(ValueError, match=message):
    write("no bundle", tmp_path / out)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_prompts_of_any_editor_are_the_same(tmp_path):
  (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfa flute\r\ndrums\r\n")
  assert read_prompts(str(tmp_path / "p.txt")) == ["a flute", "drums"]
  (tmp_path / "p.txt").write_bytes(b"a flute\ncaf\xe9\n")
  with pytest.raises(ValueError, match="p.txt:2: wanted UTF-8"):
    read_prompts(str(tmp_path / "p.txt"))


def test_every_seed_has_its_own_key():
  seeds = (0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1)
  keys = [tuple(map(int, jax.random.key_data(random_key(seed)))) for seed in seeds]
  assert len(set(keys)) == len(seeds)
  assert keys[1] == tuple(map(int, jax.random.key_data(jax.random.key(1))))


def test_an_empty_line_among_prompts_is_named(bundle, tmp_path):
  (tmp_path / "p.txt").write_text("a flute\n\ndrums\n")
  with pytest.raises(ValueError, match="p.txt:2: the prompt is empty"):
    write(bundle, tmp_path / "out", prompt="", prompts=str(tmp_path / "p.txt"))


def spoil(path):
  content = bytearray((path / "coarse" / "weights.safetensors").read_bytes())
  content[-1] ^= 1
  (path / "coarse" / "weights.safetensors").write_bytes(bytes(content))


@pytest.mark.parametrize(
  "harm, message",
  [
    (lambda b: shutil.rmtree(b), "no bundle here"),
    (lambda b: (b / "bundle.json").write_text("{"), "not JSON"),
    (
      lambda b: (b / "bundle.json").write_text('{"format": 9}'),
      "has format 9, this version reads",
    ),
    (lambda b: shutil.rmtree(b / "mulan_rvq"), "part mulan_rvq is incomplete"),
    (lambda b: (b / "fine" / "model.json").unlink(), "part fine is incomplete"),
    (lambda b: (b / "text.model").unlink(), "text.model is missing"),
    (spoil, "coarse: has fingerprint"),
  ],
)
def test_a_broken_bundle_is_refused_by_name(bundle, tmp_path, harm, message):
  copy = tmp_path / "bundle"
  shutil.copytree(bundle, copy)
  harm(copy)
  with pytest.raises(ValueError, match=message) as caught:
    write(str(copy), tmp_path / "x.wav")
  assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_a_bundle_has_no_path_of_the_machine_that_made_it(bundle, runs):
  texts = [p.read_text() for p in pathlib.Path(bundle).glob("**/*.json")]
  root = str(pathlib.Path(runs[0]["fine"]).parent)
  assert len(texts) == 7 and not any(root in text for text in texts)
  description = json.loads(pathlib.Path(bundle, "bundle.json").read_text())
  assert description["stages"] == ["semantic", "coarse", "fine"]


def test_parts_that_do_not_belong_together_are_refused(runs, tmp_path):
  directories, text = runs
  other = str(tmp_path / "soundstream")
  shutil.copytree(directories["soundstream"], other)
  description = json.loads((tmp_path / "soundstream" / "model.json").read_text())
  for name, value, message in (
    ("commitment_weight", 2.0, "trained on tokens of soundstream .*/soundstream is"),
    ("sample_rate", 4800, "soundstream: is of 4800 Hz, SAMPLE_RATE is 2400"),
  ):
    description["module"][name] = value
    storage.write_text(tmp_path / "soundstream" / "model.json", json.dumps(description))
    with pytest.raises(ValueError, match=message):
      bundles.export({**directories, "soundstream": other}, text, tmp_path / "bundle")
  assert not (tmp_path / "bundle").exists()


def test_an_unfinished_run_and_a_directory_of_something_else_are_refused(runs, tmp_path):
  directories, text = runs
  shutil.copytree(directories["fine"], tmp_path / "fine")
  (tmp_path / "fine" / "weights.safetensors").unlink()
  with pytest.raises(ValueError, match="fine: .*training has not ended"):
    bundles.export({**directories, "fine": str(tmp_path / "fine")}, text, tmp_path / "bundle")
  (tmp_path / "taken").mkdir()
  with pytest.raises(ValueError, match="exists and is no bundle"):
    bundles.export(directories, text, tmp_path / "taken")


def test_the_bundles_settings_are_changed_by_name(bundle):
  def of(**changes):
    return Composer(bundle, Changes(**changes)).settings

  own = of()
  assert {(s.temperature, s.guidance, s.stride_fraction) for s in own.values()} == {(1.0, 0.0, 0.5)}
  assert {s.guidance for s in of(guidance=2.0).values()} == {2.0}
  changed = of(temperature={"coarse": 0.5})
  assert changed.pop("coarse").temperature == 0.5 and changed == {n: own[n] for n in changed}
  with pytest.raises(ValueError, match="temperature: no stage 'course'; the bundle has semantic"):
    of(temperature={"course": 0.5})
  with pytest.raises(ValueError, match="stage semantic: guidance: wanted 0 or more, found -3"):
    of(guidance=-3.0)


NAMING_STAGES = (
  Stage("semantic", (bundles.MULAN,), bundles.SEMANTIC, 2.0),
  Stage("coarse", (bundles.MULAN, bundles.SEMANTIC), bundles.COARSE, 0.8, "delayed"),
  Stage("fine", (bundles.COARSE,), bundles.FINE, 0.4),
)


class Naming:
  """In place of a stage's model: code = frame number modulo the codebook, from what it reads.

  The semantic stage counts; the others repeat the number that their rated condition names at the
  same time, so that a window that starts in the wrong place is seen.
  """

  def __init__(self, stage):
    self.module = TokenLM(stage, bundles.VOCABULARY, bundles.transformer(), 0.0, 0.0)
    self._next = 0

  def __call__(self, method, conditions, known, keys, *, frames, settings):
    assert method == "generate"
    stage, vocabulary = self.module.stage, self.module.vocabulary
    levels = stage.target.num_quantizers
    first = known.shape[1] // levels
    if stage.name == "semantic":
      codes = np.arange(self._next, self._next + frames - first) % 16
      self._next += frames - first
      codes = np.repeat(codes[None, :, None], len(conditions), axis=0)
    else:
      source = stage.conditions[-1]
      read = conditions[:, -source.length(frames / stage.target.frame_rate) :]
      numbers = unflatten(read, vocabulary.offsets(source))[:, :, 0]
      times = (np.arange(first, frames) * source.frame_rate / stage.target.frame_rate).astype(int)
      codes = np.repeat(numbers[:, times, None], levels, axis=2)
    return flatten(codes, vocabulary.offsets(stage.target)).astype(np.int32)


@pytest.mark.parametrize("seconds", [0.4, 2.0, 7.3])
@pytest.mark.parametrize("known", [0, 50])
def test_every_window_reads_its_conditions_at_its_own_time(composer, seconds, known):
  composer = copy.copy(composer)
  composer.parts = composer.parts | {stage.name: Naming(stage) for stage in NAMING_STAGES}
  given = {"mulan": constant(np.zeros((1, 1, 2), np.int32))}
  beginning = {}
  if known:  # semantic codes that are there already; the model goes on counting
    beginning = {"semantic": (np.arange(known) % 16).reshape(1, known, 1)}
    composer.parts["semantic"]._next = min(known, math.ceil(seconds * 25))
  codes = composer.compose(given, seconds, prompt_keys(["a"], 0), beginning)
  frames = np.arange(codes["acoustic"].shape[1])
  assert len(frames) >= seconds * 50
  np.testing.assert_array_equal(codes["semantic"][0, :, 0], np.arange(len(frames) // 2) % 16)
  for level in range(4):
    np.testing.assert_array_equal(codes["acoustic"][0, :, level], frames // 2 % 16)


def test_a_condition_that_is_not_given_is_named(composer):
  with pytest.raises(ValueError, match="stage semantic reads mulan, which is not given"):
    composer.compose({}, 1.0, prompt_keys(["a"], 0))
