"""What is heard in generated music beside real clips."""

import numpy as np
import pytest

from musiclm_jax import audio
from musiclm_jax.evaluation import representation, representation_page
from musiclm_jax.evaluation.representation_page import Generated

RATE, SECONDS = 24000, 4


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def chord(*pitches):
  """Plucked notes [samples], twice a second, of MIDI pitches."""
  t = np.arange(RATE * SECONDS) / RATE
  tones = [
    np.sin(2 * np.pi * k * 440 * 2 ** ((p - 69) / 12) * t) / k for p in pitches for k in (1, 2)
  ]
  return (0.2 * np.sum(tones, axis=0) / len(pitches) * np.exp(-4 * (t % 0.5))).astype(np.float32)


def one_hot(quantity, **counts):
  values = representation.QUANTITIES[quantity]
  rows = [
    np.eye(len(values))[values.index(v.replace("_", " "))] for v in counts for _ in range(counts[v])
  ]
  return np.array(rows)


def quantities(**given):
  """Rows of all quantities for as many clips as given ones have; even shares where not given."""
  count = len(next(iter(given.values())))
  even = {q: np.full((count, len(v)), 1 / len(v)) for q, v in representation.QUANTITIES.items()}
  return even | given


@pytest.fixture(scope="module")
def chords():
  clips = np.stack([chord(60, 64, 67), chord(57, 60, 64), np.zeros(RATE * SECONDS, np.float32)])
  return representation.hear(clips, RATE)


def test_notes_keys_and_tempo_are_those_that_sound(chords):
  named = {
    quantity: [dict(zip(values, row)) for row in chords[quantity]]
    for quantity, values in representation.QUANTITIES.items()
  }
  assert named["key"][0]["C major"] == 1 and named["key"][1]["A minor"] == 1
  assert named["mode"][0]["major"] == 1 and named["mode"][1]["minor"] == 1
  assert sum(named["pitch class"][0][name] for name in ("C", "E", "G")) > 0.95
  assert named["register"][0]["C4 to B4"] > 0.95 and named["register"][1]["C3 to B3"] > 0.2
  assert named["notes at once"][0]["3"] > 0.3
  assert named["tempo"][0]["120 to 135 bpm"] + named["tempo"][0]["105 to 120 bpm"] == 1


def test_shares_sum_to_one_and_silence_has_no_notes(chords):
  for quantity in ("key", "mode", "pitch class", "register"):
    assert np.allclose(chords[quantity].sum(axis=1), [1, 1, 0])
  for quantity in ("tempo", "notes at once"):
    assert np.allclose(chords[quantity].sum(axis=1), 1)
  assert np.allclose(sum(chords[name].sum(axis=1) for name in representation.TAGS), 1)
  assert chords["notes at once"][2, 0] == 1


def test_what_is_generated_too_often_and_too_rarely_is_found():
  real = quantities(key=one_hot("key", C_major=50, G_major=50, A_minor=100))
  generated = quantities(key=one_hot("key", C_major=140, G_major=60))
  works = [[str(i) for i in range(200)] for _ in range(2)]
  found = {x.value: x for x in representation.differences(generated, real, works, 0)}
  assert "D major" not in found  # in neither set
  often, alike, never = (found[key] for key in ("C major", "G major", "A minor"))
  assert often.ratio == pytest.approx(140.5 / 50.5) and often.ratio_interval[0] > 2
  assert alike.ratio_interval[0] < 1 < alike.ratio_interval[1] and alike.distance == 0
  assert never.ratio < 0.01 and never.distance > 3 and never.generated == 0


def test_intervals_are_of_works_not_of_clips():
  rows = np.repeat(np.eye(2), 50, axis=0)
  clips = representation.means_of_draws(rows, [str(i) for i in range(100)], 0)
  works = representation.means_of_draws(rows, [str(i // 25) for i in range(100)], 0)
  assert clips.std(axis=0)[0] == pytest.approx(0.05, rel=0.1)
  assert works.std(axis=0)[0] == pytest.approx(0.25, rel=0.1)


def test_the_spread_counts_the_values_in_use():
  works = [str(i) for i in range(100)]
  even, (low, high) = representation.spread(np.repeat(np.eye(4), 25, axis=0), works, 0)
  assert even == pytest.approx(4) and 3.5 < low < 4 == high
  one, _ = representation.spread(np.eye(4)[np.zeros(100, int)], works, 0)
  assert one == pytest.approx(1)
  assert representation.spread(np.zeros((100, 4)), works, 0) == (0, (0, 0))


def test_the_section_begins_with_what_is_over_represented():
  real = quantities(key=one_hot("key", C_major=50, G_major=50, A_minor=100))
  generated = quantities(key=one_hot("key", C_major=140, G_major=60))
  works = [str(i) for i in range(200)]
  labels = representation_page._labels(
    {"key": [b"C major", b"Eb dorian"], "bpm": [100.0, np.float32(60)]}
  )
  text = representation_page.section((generated, works), (real, works), labels, 0)
  over, under = text.index("<td>C major (key)</td><td>2.78"), text.index("<td>A minor (key)</td>")
  assert text.index("Over-represented") < over < text.index("Under-represented") < under
  assert "<td>50\xa0%</td></tr>" in text  # of the labels
  assert representation_page._labels({"key": [b"unknown"]}) == {}


def test_files_are_compared_with_files_or_records(tmp_path, monkeypatch, rng):
  monkeypatch.setattr(representation_page, "section", lambda *sets: "")
  monkeypatch.setattr(
    representation, "hear", lambda x, rate: quantities(key=one_hot("key", C_major=len(x)))
  )
  for name in ("a", "b", "c"):
    audio.write(str(tmp_path / f"{name}.wav"), rng.normal(0, 0.1, RATE).astype(np.float32), RATE)

  class Train:
    directory = "data"
    features = {"id": None, "waveform": None}

    def rows(self, names, count):
      assert names == ("id", "waveform")
      for i in range(count):
        yield {"id": b"clip-%d" % i, "waveform": np.full(RATE, 900, np.int16)}

  pattern = str(tmp_path / "*.wav")
  settings = Generated(generated=pattern, real="", seconds=1.0, sample_rate=RATE, seed=0)
  assert "of 3 real clips (the first records of train)" in settings.show(Train(), {})
  files = Generated(generated=pattern, real=pattern, seconds=1.0, sample_rate=RATE, seed=0)
  files.check(None)
  assert "of 3 real clips (/" in files.show(None, {})
  with pytest.raises(ValueError, match="set --real"):
    settings.check(None)
  with pytest.raises(ValueError, match="nothing.wav: no such files"):
    Generated(generated="nothing.wav", real="", seconds=1.0, sample_rate=RATE, seed=0).check(None)
  long = Generated(generated=pattern, real="", seconds=2.0, sample_rate=RATE, seed=0)
  with pytest.raises(ValueError, match="a.wav: wanted 2 s or more, found 1.00 s"):
    long.show(Train(), {})
