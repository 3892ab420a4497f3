"""Prompts beyond one text: audio files, weighted blends, and what guidance goes against."""

import numpy as np
import pytest

from musiclm_jax import audio
from musiclm_jax.lm.composer import Composer, prompt_keys
from musiclm_jax.lm.generate import generate
from musiclm_jax.lm.prompts import name_of, prompt_of, sound, story_of
from musiclm_jax.lm.sampling import Changes
from musiclm_jax.lm.wanted import Wanted
from musiclm_jax.music import MusicLM
from musiclm_jax.sources import mean_embedding
from musiclm_jax.windows import cut
from tests import bundles

RATE = bundles.SAMPLE_RATE


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Two audio files of 2.2 s: noise and a tone."""
  folder, samples = tmp_path_factory.mktemp("audio"), round(2.2 * RATE)
  noise = np.float32(0.1 * np.random.default_rng(0).standard_normal(samples))
  tone = np.float32(0.5 * np.sin(np.arange(samples) * 2 * np.pi * 300 / RATE))
  for name, waveform in (("noise.wav", noise), ("tone.flac", tone)):
    audio.write(str(folder / name), waveform, RATE)
  return str(folder / "noise.wav"), str(folder / "tone.flac")


@pytest.mark.slow
def test_a_style_is_the_mean_of_the_windows_of_a_file(composer, files):
  joint = composer.joint
  found = joint.prompts([sound(path) for path in files])
  for path, row in zip(files, found):
    waveform = audio.read(path, RATE)[None]
    windows = cut(waveform, RATE, RATE // 2)[0]  # of 1 s every 0.5 s: tests.bundles
    embeddings = np.asarray(composer.parts["mulan"]("embed_audio", windows))
    assert len(embeddings) == 4
    wanted = mean_embedding(embeddings, 0.0, 2.2, 1.0, 0.5)
    np.testing.assert_allclose(row, wanted, atol=1e-6)
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
  assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.slow
def test_other_audio_gives_other_codes_and_music(composer, files, monkeypatch):
  codes = iter((np.array([[[1, 2]]]), np.array([[[5, 3]]])))
  joint = type(composer.joint)
  monkeypatch.setattr(joint, "codes", lambda self, embeddings: next(codes))
  keys = prompt_keys(["the same"], 3)
  one, other = (composer.waveforms([sound(path)], 1.0, 3, keys=keys) for path in files)
  assert np.abs(one - other).max() > 1e-6


@pytest.mark.slow
def test_a_blend_of_one_member_is_that_member(bundle, composer, files):
  for weight in (1, 0.3):
    for plain, blend in (("a flute", {"a flute": weight}), (sound(files[1]), {files[1]: weight})):
      np.testing.assert_array_equal(
        composer.waveforms([blend], 1.0, 3), composer.waveforms([plain], 1.0, 3)
      )
  music = MusicLM.load(bundle).generate({"a flute": 1, files[0]: 2}, 1.0, seed=3)
  blend = prompt_of({"a flute": 1, files[0]: 2})
  np.testing.assert_array_equal(music, composer.waveforms([blend], 1.0, 3)[0])


@pytest.mark.slow
def test_members_count_by_their_weights(composer, files):
  joint = composer.joint
  text, noise = joint.texts(["a flute"])[0], joint.prompts([sound(files[0])])[0]
  found = joint.prompts([prompt_of({"a flute": 3, files[0]: 1.5})])[0]
  wanted = 2 * text + noise
  np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-6)
  others = joint.prompts([prompt_of({"drums": 1, "a flute": 1}), prompt_of("a flute")])
  np.testing.assert_allclose(others[1], text, atol=1e-6)  # each has its own members


def test_members_are_texts_or_files_with_weights_above_0():
  blend = prompt_of({"a flute": 1, "x/y.WAV": 0.5, "a harp": 2})
  assert (blend.texts, blend.sounds) == ((("a flute", 1), ("a harp", 2)), (("x/y.WAV", 0.5),))
  assert blend.words == "a flute, a harp" and name_of(blend) == "a flute + a harp + y.WAV"
  assert prompt_of("play x.wav").sounds == ()  # a text alone is a text
  for asked, message in (
    ({}, "the prompt is empty"),
    ({" ": 1}, "the prompt is empty: ' '"),
    ({"a flute": 0}, "a flute: wanted a weight above 0, found 0"),
    ({"a flute": -1.0}, "a flute: wanted a weight above 0, found -1"),
    ({"a flute": float("nan")}, "a flute: wanted a weight above 0, found nan"),
    ({"a flute": "much"}, "a flute: wanted a weight above 0, found 'much'"),
    (7, "wanted a text or {text or audio file: weight}, found 7"),
  ):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
      prompt_of(asked)


@pytest.mark.parametrize(
  "asked, message",
  [
    ({"style": "no.wav"}, "no.wav: no such file"),
    ({"blend": {"a flute": 1, "no.wav": 1}}, "no.wav: no such file"),
    ({"blend": {"a flute": 0}}, "--blend: a flute: wanted a weight above 0, found 0"),
    ({"style": "x.wav", "story": "y"}, "both --story y and --style x.wav are given: give one"),
    ({"style": "x.wav", "prompt": "a"}, "both a prompt and --style x.wav are given"),
  ],
)
def test_what_cannot_be_heard_is_refused_before_the_bundle_is_read(tmp_path, asked, message):
  settings = {"seed": 3, "format": "wav", "picture": "", "best_of": 1, "changes": Changes()}
  out = str(tmp_path / "x.wav")
  with pytest.raises(ValueError, match=message) as caught:
    generate(bundle="none", wanted=Wanted(**asked), seconds=1.0, out=out, **settings)
  assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_files_of_styles_and_blends_become_music(bundle, composer, files, tmp_path):
  settings = {"seed": 3, "format": "wav", "picture": "", "best_of": 1, "changes": Changes()}
  for number, asked in enumerate(({"style": files[0]}, {"blend": {files[1]: 1, "a harp": 0.5}})):
    out = str(tmp_path / f"{number}.wav")
    generate(bundle=bundle, wanted=Wanted(**asked), seconds=0.5, out=out, **settings)
    (story,) = Wanted(**asked).stories(0.5).values()
    wanted = composer.waveforms([story], 0.5, 3)[0]
    np.testing.assert_allclose(audio.read(out, RATE), wanted, atol=1e-4)


@pytest.mark.slow
def test_guidance_goes_against_a_negative_prompt(bundle, monkeypatch):
  guided = Composer(bundle, Changes(guidance=2.0))
  plain = guided.waveforms(["a flute"], 1.0, 3)
  against = guided.waveforms(["a flute"], 1.0, 3, negative="fast drums")
  assert np.abs(plain - against).max() > 1e-6
  # The conditions of nothing are null: the same as plain guidance, to the bit.
  given = {"mulan": guided.joint.condition([story_of("a flute")], 0.0)}
  keys = prompt_keys(["a flute"], 3)
  nothing = {"mulan": lambda start, seconds: np.full((1, 1, 2), -1)}
  for name, codes in guided.compose(given, 1.0, keys).items():
    null = guided.compose(given, 1.0, keys, against=nothing)[name]
    np.testing.assert_array_equal(null, codes)
  # Against the prompt itself, with no other condition, guidance has nothing to add.
  same = guided.compose(given, 1.0, keys, against=guided.conditions([{}]) | given)
  without = Composer(bundle).compose(given, 1.0, keys)
  np.testing.assert_array_equal(same["semantic"], without["semantic"])
  music = MusicLM.load(bundle, Changes(guidance=2.0)).generate(
    "a flute", 1.0, seed=3, negative="fast drums"
  )
  np.testing.assert_array_equal(music, against[0])


@pytest.mark.slow
def test_a_negative_prompt_without_guidance_is_refused(bundle, composer, tmp_path):
  message = "negative 'drums': wants guidance above 0 in a stage of semantic, coarse"
  with pytest.raises(ValueError, match=message):
    composer.waveforms(["a flute"], 1.0, 3, negative="drums")
  settings = {"seed": 3, "format": "wav", "picture": "", "best_of": 1}
  wanted = Wanted(prompt="a flute", negative="drums")
  out = str(tmp_path / "x.wav")
  with pytest.raises(ValueError, match=message):
    generate(
      bundle=bundle,
      wanted=wanted,
      seconds=1.0,
      out=out,
      changes=Changes(guidance={"fine": 2.0}),
      **settings,
    )
  unknown = Wanted(prompt="a flute", negative="宁静")
  with pytest.raises(ValueError, match="not trained on any part of the prompt '宁静'"):
    generate(
      bundle=bundle, wanted=unknown, seconds=1.0, out=out, changes=Changes(guidance=2.0), **settings
    )
