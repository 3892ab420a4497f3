"""The released bundle models/small: its parts belong together, hold notes, and make music."""

import json
import pathlib

import numpy as np
import pytest

from musiclm_jax import part_files
from musiclm_jax.evaluation import adherence, transcriber
from musiclm_jax.export import bundle
from musiclm_jax.lm.composer import Composer
from musiclm_jax.tokenizers import frozen, protocols

MODELS = pathlib.Path(__file__).parents[1] / "models" / "small"
RATE = 24000


def load(name):
  return frozen.load(str(MODELS / name), protocols.ROLES.get(name))


def tones(*pitches, seconds=2.0):
  time = np.arange(round(RATE * seconds)) / RATE
  partials = [
    np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * n * time) / n**1.5
    for pitch in pitches
    for n in range(1, 6)
  ]
  return (0.1 * np.minimum(1, 40 * time) * np.sum(partials, axis=0)).astype(np.float32)[None]


def test_the_weights_take_at_most_40_mb():
  assert sum(path.stat().st_size for path in MODELS.glob("*/weights.safetensors")) < 40e6


def test_the_bundle_is_found_by_its_name_and_whole(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert pathlib.Path(bundle.find("small")) == MODELS
  description = bundle.load_description(bundle.find("small"))
  assert description["stages"] == ["semantic", "coarse"]
  assert set(description["parts"]) == {path.name for path in MODELS.iterdir() if path.is_dir()} - {
    "logs"
  }
  (tmp_path / "small").mkdir()  # a folder that is no bundle
  assert pathlib.Path(bundle.find("small")) == MODELS
  (tmp_path / "small" / "bundle.json").write_text("{}")
  assert bundle.find("small") == "small"


@pytest.mark.slow
def test_the_released_model_makes_music_in_the_key_that_is_asked_for():
  composer, keys = Composer("small"), ("D major", "F minor")
  prompts = ["A lively jig played by a fiddle.", "A slow air played by a flute alone."]
  for key in keys:
    music = composer.waveforms(prompts, 8.0, 0, facts={"key": key, "bpm": 100})
    assert music.shape == (2, 8 * RATE) and np.isfinite(music).all()
    assert (np.sqrt(np.square(music).mean(axis=1)) > 1e-3).all()
    notes, _ = transcriber.transcribe(music, RATE)
    assert transcriber.notes_at_once(notes).mean() > 0.3
    shares = adherence.share_in_key(keys, transcriber.note_chroma(notes)).mean(axis=1)
    assert keys[int(shares.argmax())] == key


@pytest.mark.parametrize(
  ("quantizer", "source", "encoder"),
  [
    ("kmeans", "w2v_bert", "w2v_bert"),
    ("mulan_rvq", "mulan", "mulan"),
    ("mulan_rvq", "mulan_text", "mulan"),
  ],
)
def test_a_quantizer_is_that_of_its_encoder(quantizer, source, encoder):
  provenance = json.loads((MODELS / quantizer / "model.json").read_text())["provenance"]
  found = provenance["sources"][source]["encoder"]
  assert found == part_files.fingerprint(str(MODELS / encoder))


@pytest.mark.slow
@pytest.mark.parametrize("levels", [4, 8])
def test_the_codec_keeps_the_notes_of_a_chord(levels):
  codec, chord = load("soundstream"), tones(60, 64, 67)
  codes = np.asarray(codec("encode", chord))
  assert codes.shape == (1, 50, 8)
  decoded = np.asarray(codec("decode", codes[..., :levels]))
  for waveform in (chord, decoded):
    notes, _ = transcriber.transcribe(waveform, RATE)
    heard = transcriber.sounding(notes)[0, 20:-20].mean(axis=0)
    np.testing.assert_array_equal(
      np.flatnonzero(heard > 0.5) + transcriber.LOWEST_PITCH, [60, 64, 67]
    )
  steady = codes[0, 10:40, 0]
  assert (steady[1:] == steady[:-1]).mean() > 0.8


@pytest.mark.slow
def test_semantic_codes_follow_the_pitch():
  encoder, kmeans = load("w2v_bert"), load("kmeans")
  waveform = np.concatenate([tones(60), tones(67), tones(60)], axis=1)
  embeddings = encoder("embed", waveform, layer=None)
  codes = np.asarray(kmeans("encode", embeddings))[0, :, 0]
  first, second, third = (set(codes[start : start + 30]) for start in (10, 60, 110))
  assert first & third and not first & second
