"""Prompts that change with the time: stories, their files, crossfades, beats that go on."""

import numpy as np
import pytest

from musiclm_jax.clocks import Beat
from musiclm_jax.lm.composer import Composer
from musiclm_jax.lm.conditions import stepwise
from musiclm_jax.lm.generate import generate
from musiclm_jax.lm.prompts import prompt_of, read_story, story_of
from musiclm_jax.lm.sampling import Changes
from musiclm_jax.lm.wanted import Wanted
from musiclm_jax.music import MusicLM
from musiclm_jax.tokens import Stream
from musiclm_jax.windows import windows
from tests import bundles

RATE = bundles.SAMPLE_RATE


def written(composer, prompts, monkeypatch, seconds=4.0, **more):
  """The codes that the stages write, and the music."""
  found = []

  def compose(*args, **kwargs):
    found.append(Composer.compose(composer, *args, **kwargs))
    return found[-1]

  monkeypatch.setattr(composer, "compose", compose, raising=False)
  music = composer.waveforms(prompts, seconds, 3, **more)
  monkeypatch.undo()
  return found[0], music


@pytest.mark.slow
@pytest.mark.parametrize("change", [0.4, 2.0])
def test_stories_that_begin_alike_differ_from_their_change_on(composer, monkeypatch, change):
  one, music = written(composer, [[(0, "a flute"), (change, "drums at 150 bpm")]], monkeypatch)
  other, _ = written(composer, [[(0, "a flute"), (change, "a harp at 60 bpm")]], monkeypatch)
  assert music.shape == (1, 4 * RATE)
  for name, rate in (("semantic", 25), ("acoustic", 50)):
    frames = round(change * rate)
    np.testing.assert_array_equal(one[name][:, :frames], other[name][:, :frames])
    assert (one[name][:, frames:] != other[name][:, frames:]).any()


@pytest.mark.parametrize("change", [0.43, 1.5, 2.0, 3.6])  # in the first and last window too
def test_what_a_window_writes_is_under_one_prompt(change):
  one, other = np.full((1, 1, 2), 1), np.full((1, 1, 2), 2)
  story = stepwise([(0.0, one), (change, other)])
  first = int(change * 25)  # the frame in which it changes
  read = np.zeros(100)
  for window in windows(100, 50, 25, breaks=(first,)):
    found = story(window.start / 25, (window.end - window.start) / 25)
    read[window.new : window.end] = found[0, 0, 0]
  np.testing.assert_array_equal(read, np.where(np.arange(100) < first, 1, 2))


@pytest.mark.slow
def test_a_story_of_one_prompt_is_the_prompt(bundle, composer):
  plain = composer.waveforms(["a flute at 90 bpm", "drums"], 2.0, 3)
  told = composer.waveforms([[(0, "a flute at 90 bpm")], "drums"], 2.0, 3, crossfade=1.0)
  np.testing.assert_array_equal(told, plain)
  story = [(0, "a flute"), (1.0, "drums")]
  crossfade = {"crossfade": 0.0}
  np.testing.assert_array_equal(
    composer.waveforms([story], 2.0, 3, **crossfade), composer.waveforms([story], 2.0, 3)
  )
  in_python = MusicLM.load(bundle).generate(story, 2.0, seed=3)
  np.testing.assert_array_equal(in_python, composer.waveforms([story], 2.0, 3)[0])


@pytest.mark.slow
def test_embeddings_are_mixed_around_a_change(composer):
  story = story_of([(0, "a flute"), (10, "fast drums"), (12, "a violin")])
  joint = composer.joint
  ends = joint.prompts(list(story.prompts))
  steps, fades = joint.condition([story], 0.0), joint.condition([story], 8.0)
  for time, place in ((1.0, 0), (30.0, 2)):
    np.testing.assert_array_equal(fades(time, 0.0), steps(time, 0.0))
    np.testing.assert_array_equal(fades(time, 0.0), joint.codes(ends[place : place + 1]))
  assert story.steps(0.0) == (0.0, 10.0, 12.0)
  assert story.steps(8.0) == (0.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0)
  # At 11 s five eighths of the second prompt have begun, and three eighths of the third.
  mixed = 3 / 8 * ends[0] + (5 / 8 - 3 / 8) * ends[1] + 3 / 8 * ends[2]
  mixed /= np.linalg.norm(mixed)
  np.testing.assert_array_equal(fades(7.0, 5.0), joint.codes(mixed[None]))
  with pytest.raises(ValueError, match="wanted stories that change at the same times in one batch"):
    composer.waveforms(["drums", [(0, "a flute"), (1, "drums")]], 2.0, 0)
  with pytest.raises(ValueError, match="crossfade: wanted 0 or more seconds, found -1"):
    composer.waveforms(["drums"], 1.0, 0, crossfade=-1.0)


@pytest.mark.slow
def test_a_story_of_a_file_is_that_of_its_lines(bundle, composer, tmp_path):
  path = tmp_path / "story.txt"
  path.write_text("0 a flute\n0:01 drums\n")
  settings = {"seed": 3, "format": "wav", "picture": "", "best_of": 1, "changes": Changes()}
  wanted = Wanted(story=str(path), ending=True)
  out = tmp_path / "story.flac"
  assert generate(bundle=bundle, wanted=wanted, seconds=2.0, out=str(out), **settings) == [str(out)]
  with pytest.raises(ValueError, match="both a prompt and --story .* are given: give one of them"):
    Wanted(prompt="a flute", story=str(path)).stories(2.0)
  with pytest.raises(ValueError, match=r"story.txt:2: wanted a time below the 1 s .*, found 0:01"):
    generate(bundle="none", wanted=wanted, seconds=1.0, out=str(tmp_path / "x.wav"), **settings)


@pytest.mark.slow
def test_the_best_take_of_a_story_agrees_with_each_prompt_in_its_time(composer):
  story, plain = [(0, "a flute"), (2, "drums")], ["a flute", "drums"]
  music = composer.waveforms([story], 4.0, 3)
  halves = [
    composer.agreement([text], music[:, i * 2 * RATE :][:, : 2 * RATE])
    for i, text in enumerate(plain)
  ]
  np.testing.assert_allclose(composer.agreement([story], music), np.mean(halves), rtol=1e-5)


def test_lines_of_a_story_have_a_time_and_a_prompt(tmp_path):
  path = tmp_path / "story.txt"
  path.write_bytes(
    b"\xef\xbb\xbf# a day\r\n\r\n0 a flute\r\n 7.5\ta harp, 3:4 time\r\n1:05.5 caf\xc3\xa9\r\n"
  )
  story = read_story(str(path), 66.0)
  assert story.times == (0.0, 7.5, 65.5)
  assert story.texts == ["a flute", "a harp, 3:4 time", "café"]
  assert str(story) == "0 s: a flute, 7.5 s: a harp, 3:4 time, 65.5 s: café"


@pytest.mark.parametrize(
  "text, message",
  [
    (
      b"0 a\nsoon b\n",
      "story.txt:2: wanted a time in seconds or as M:SS, then the prompt, found 's",
    ),
    (b"0 a\n1:75 b\n", "story.txt:2: wanted a time in seconds or as M:SS"),
    (b"0 a\n5\n", "story.txt:2: the prompt is empty"),
    (b"# x\n1 a\n", "story.txt:2: wanted the first time to be 0, found 1"),
    (b"0 a\n5 b\n0:05 c\n", "story.txt:3: wanted a time above 5 s, found 0:05"),
    (b"0 a\n10 b\n", "story.txt:2: wanted a time below the 10 s of the music, found 10"),
    (b"0 a\n1 caf\xe9\n", "story.txt:2: wanted UTF-8 text"),
    (b"# nothing\n", "story.txt: wanted lines TIME PROMPT, found none"),
  ],
)
def test_an_unreadable_story_is_one_line_that_names_file_and_line(tmp_path, text, message):
  path = tmp_path / "story.txt"
  path.write_bytes(text)
  with pytest.raises(ValueError, match=message) as caught:
    read_story(str(path), 10.0)
  assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match="missing.txt: no such file"):
    read_story(str(tmp_path / "missing.txt"), 10.0)


@pytest.mark.parametrize("times", [(1.0,), (0.0, 2.0, 2.0), (0.0, float("nan")), ()])
def test_the_times_of_a_story_begin_at_0_and_rise(times):
  with pytest.raises(ValueError, match="wanted times that begin at 0 and rise, found"):
    story_of([(time, "a flute") for time in times])


def test_a_prompt_of_nothing_and_one_after_the_end_are_refused():
  with pytest.raises(ValueError, match="below the 5 s of the music, found 6"):
    story_of([(0, "a"), (6, "b")]).check_length(5.0)
  with pytest.raises(ValueError, match="the prompt is empty: ' '"):
    prompt_of(" ")


def test_a_beat_goes_on_from_the_change():
  beat = Beat("bpm", "beat_s")
  make = beat.open(Stream("beat", "beat", 100.0, 0, 1, 1000, beat), {}, {})
  before = {"bpm": 90.0}
  for bpm in (60.0, 90.0, 133.0):
    after = beat.gone_on(before, {"bpm": [bpm]}, 7.3)
    last, first = make(before, 7.2, 0.1)[-1, 0], make(after, 7.3, 0.1)[0, 0]
    assert 0 <= (first - last) % 1000 <= 1000 * 133 / 60 / 100 + 1
    assert after["bpm"] == [bpm]
  assert beat.gone_on(before, {"bpm": 90.0}, 7.3) == {"bpm": 90.0}  # the same beats
  assert beat.gone_on({}, {"bpm": 60.0}, 7.3) == {"bpm": 60.0, "beat_s": 7.3}
  assert beat.gone_on(before, {}, 7.3) == {}
  assert beat.gone_on(before, {"bpm": 60.0, "beat_s": 1.0}, 7.3)["beat_s"] == 1.0
