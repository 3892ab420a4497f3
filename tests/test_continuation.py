"""Music that begins with that of a file: its codes stay, the stages go on from them."""

import numpy as np
import pytest

from musiclm_jax import audio
from musiclm_jax.lm.composer import Composer, prompt_keys
from musiclm_jax.lm.continuation import known_codes
from musiclm_jax.lm.generate import generate
from musiclm_jax.lm.prompts import story_of
from musiclm_jax.lm.sampling import Changes
from musiclm_jax.lm.wanted import Wanted
from musiclm_jax.loudness import steady
from musiclm_jax.music import MusicLM
from tests import bundles

pytestmark = pytest.mark.slow
RATE = bundles.SAMPLE_RATE


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  root = tmp_path_factory.mktemp("runs")
  directories, text = bundles.make_runs(root)
  return bundles.add_hearing(root, directories), text


def tones(seconds):
  """[samples] of tones that change all the time."""
  times = np.arange(round(seconds * RATE)) / RATE
  return np.float32(0.5 * np.sin(2 * np.pi * (200 + 60 * times) * times))


def test_the_beginning_keeps_its_codes_and_the_music_goes_on_from_them(composer, bundle):
  waveform = tones(1.23)
  known = composer.known_codes(waveform)
  assert known["semantic"].shape == (1, 30, 1) and known["acoustic"].shape == (1, 60, 4)
  frames = composer.parts["soundstream"]("encode", waveform[None])
  np.testing.assert_array_equal(known["acoustic"][:, :50], np.asarray(frames)[:, :50])
  layer = composer.parts["w2v_bert"]("embed", waveform[None], layer=None)
  heard = np.asarray(composer.parts["kmeans"]("encode", layer))
  np.testing.assert_array_equal(known["semantic"][:, :25], heard[:, :25])

  music = composer.waveforms(["drums"], 3.0, 3, known=known)
  assert music.shape == (1, 3 * RATE)
  given = composer.conditions(composer.told(["drums"], {}))
  given["mulan"] = composer.joint.condition([story_of("drums")], 0.0)
  codes = composer.compose(given, 3.0, prompt_keys(["drums"], 3), known)
  for name, beginning in known.items():
    np.testing.assert_array_equal(codes[name][:, : beginning.shape[1]], beginning)
  wanted = np.asarray(composer.parts["soundstream"]("decode", codes["acoustic"]))
  np.testing.assert_array_equal(music, wanted[:, : 3 * RATE])
  plain = composer.waveforms(["drums"], 3.0, 3)
  assert np.abs(plain[:, 2 * RATE :] - music[:, 2 * RATE :]).max() > 1e-6
  other = composer.waveforms(["a flute at 150 bpm"], 3.0, 3, known=known)
  assert np.abs(other[:, 2 * RATE :] - music[:, 2 * RATE :]).max() > 1e-6  # the prompt still counts
  in_python = MusicLM.load(bundle).generate("drums", 3.0, seed=3, continued=waveform)
  np.testing.assert_array_equal(in_python, music[0])


def test_of_a_long_file_the_last_crop_is_encoded(composer):
  long = tones(6.0)
  known = composer.known_codes(long)
  assert known["semantic"].shape == (1, 150, 1) and known["acoustic"].shape == (1, 300, 4)
  assert not known["semantic"][:, :100].any()  # the longest crop is 2 s
  np.testing.assert_array_equal(
    known["semantic"][:, 100:], composer.known_codes(long[4 * RATE :])["semantic"]
  )
  full = np.array(known["semantic"])
  full[:, :100] = 7  # no window reads it
  some = composer.waveforms(["drums"], 8.0, 3, known=known)
  np.testing.assert_array_equal(
    composer.waveforms(["drums"], 8.0, 3, known=known | {"semantic": full}), some
  )


def test_a_file_of_any_rate_is_continued(bundle, composer, tmp_path):
  audio.write(str(tmp_path / "begin.flac"), np.tile(tones(1.0), 2), 2 * RATE)
  settings = {"seed": 3, "format": "wav", "picture": "", "best_of": 1, "changes": Changes()}
  wanted = Wanted(prompt="drums", continued=str(tmp_path / "begin.flac"))
  out = str(tmp_path / "on.wav")
  generate(bundle=bundle, wanted=wanted, seconds=2.0, out=out, **settings)
  waveform = audio.read(str(tmp_path / "begin.flac"), RATE)
  music = composer.waveforms(["drums"], 2.0, 3, known=composer.known_codes(waveform))
  np.testing.assert_allclose(audio.read(out, RATE), music[0], atol=1e-4)
  with pytest.raises(
    ValueError, match="--seconds: wants more than the 1.00 s of .*begin.flac, whi"
  ):
    generate(bundle=bundle, wanted=wanted, seconds=1.0, out=out, **settings)
  missing = Wanted(prompt="drums", continued=str(tmp_path / "no.wav"))
  with pytest.raises(ValueError, match="no.wav: no such file"):
    generate(bundle=bundle, wanted=missing, seconds=2.0, out=out, **settings)
  with pytest.raises(ValueError, match="seconds: wanted more than the 1 s known, found 0.5"):
    composer.waveforms(["drums"], 0.5, 3, known=composer.known_codes(tones(1.0)))
  with pytest.raises(ValueError, match="short.wav: wanted at least 0.04 s, found 10 samples"):
    composer.known_codes(tones(1.0)[:10], "short.wav")


def test_a_bundle_that_cannot_hear_is_refused_by_name(runs, composer, tmp_path):
  parts = {role: part for role, part in composer.parts.items() if role != "kmeans"}
  with pytest.raises(ValueError, match="x.wav: the bundle has no part kmeans, which makes its sem"):
    known_codes(parts, composer.stages, tones(1.0), "x.wav")
  narrow = bundles.add_hearing(tmp_path, runs[0], width=8)
  deaf = Composer(bundles.export(narrow, runs[1], tmp_path / "bundle"))
  with pytest.raises(ValueError, match="does not say of which layer its semantic codes are"):
    deaf.known_codes(tones(1.0))
  deaf.stages[0].provenance["sources"]["semantic"] = {"layer": 1}
  assert deaf.known_codes(tones(1.0))["semantic"].shape == (1, 25, 1)


def test_what_is_added_has_the_level_of_the_end_of_what_was_there():
  rng = np.random.default_rng(0)
  levels = np.repeat([0.1, 0.4, 0.2], 12 * RATE)  # 12 s of each
  music = np.float32(levels * rng.standard_normal(levels.shape))[None]
  found = steady(music, RATE, 24.0)
  np.testing.assert_array_equal(found[:, : 24 * RATE], music[:, : 24 * RATE])
  last = found[0, -RATE:].std()
  assert 0.35 < last < 0.45
