"""Listening tests: the folder that listeners get, and what their answers say."""

import json
import re

import numpy as np
import pytest

from musiclm_jax import audio
from musiclm_jax.listening.answers import answers
from musiclm_jax.listening.pairs import pairs

RATE, PROMPTS = 8000, 12
SYSTEMS = ("ours", "theirs", "real")


@pytest.fixture
def takes(tmp_path):
  """{system: glob pattern} of tones, a file of prompts, and the folder of the test."""
  for number, system in enumerate(SYSTEMS):
    for index in range(PROMPTS):
      time = np.arange(2 * RATE) / RATE
      tone = 0.3 * np.sin(2 * np.pi * (200 + 100 * number + 5 * index) * time)
      audio.write(str(tmp_path / system / f"{index:02}.wav"), tone, RATE)
  (tmp_path / "prompts.txt").write_text("".join(f"prompt <{i}>\n" for i in range(PROMPTS)))
  return tmp_path


def make(takes, **settings):
  systems = {name: str(takes / name / "*.wav") for name in SYSTEMS}
  settings = {"systems": systems, "pairs_each": 0, "seconds": 0.5, "seed": 0} | settings
  return pairs(
    prompts=str(takes / "prompts.txt"),
    out_dir=str(takes / "out"),
    sample_rate=RATE,
    question="Which?",
    **settings,
  )


def shown(takes):
  """The pairs on the page, and the key."""
  text = (takes / "out" / "test" / "index.html").read_text()
  content = re.search(r'<script id=pairs type="application/json">(.*?)</script>', text)[1]
  return json.loads(content), json.loads((takes / "out" / "key.json").read_text())


def save(takes, listener, answer, **changes):
  """A listener's file: answer(the key's entry) for every pair."""
  _, key = shown(takes)
  given = {name: answer(pair) for name, pair in key["pairs"].items()}
  result = {"test": key["test"], "listener": listener, "answers": given} | changes
  (takes / f"result-{listener}.json").write_text(json.dumps(result))


def test_listeners_get_all_pairs_and_no_names(takes):
  make(takes)
  rows, key = shown(takes)
  assert len(rows) == 3 * PROMPTS == len(key["pairs"])
  everything = (takes / "out" / "test" / "index.html").read_text() + "".join(
    path.name for path in (takes / "out" / "test").rglob("*")
  )
  assert not any(name in everything for name in SYSTEMS)
  assert not re.search(r"https?:", everything)
  for row in rows:
    pair = key["pairs"][row["id"]]
    assert row["text"] == f"prompt <{pair['prompt']}>"
    for side in "ab":
      clip = audio.read(str(takes / "out" / "test" / "clips" / row[side]), RATE)
      assert len(clip) == RATE // 2
      hz = np.abs(np.fft.rfft(clip)).argmax() * 2
      assert abs(hz - (200 + 100 * SYSTEMS.index(pair[side]) + 5 * pair["prompt"])) <= 4
  first = [pair["a"] == "ours" for pair in key["pairs"].values() if "ours" in pair.values()]
  assert 0.2 < np.mean(first) < 0.8


def test_a_share_of_the_prompts_is_drawn_for_each_two_systems(takes):
  make(takes, pairs_each=5)
  _, key = shown(takes)
  assert len(key["pairs"]) == 15
  assert len({pair["prompt"] for pair in key["pairs"].values()}) > 5


def test_preferences_are_found_whichever_side_they_were_on(takes, capsys):
  make(takes)
  better = {"real": 2, "ours": 1, "theirs": 0}

  def answer(pair):
    difference = better[pair["b"]] - better[pair["a"]]
    return 2 * difference if abs(difference) == 1 else difference // 2

  save(takes, "one", answer)
  save(takes, "two", lambda pair: 0)
  found = answers(out_dir=str(takes / "out"), results=str(takes / "result-*.json"))
  ours = found["ours over theirs"]
  assert (ours["answers"], ours["wins"], ours["losses"], ours["ties"]) == (24, 12, 0, 12)
  assert ours["preference"] == 1.0 and ours["p_corrected"] == 3 * ours["p"] < 0.01
  assert found["theirs over real"]["losses"] == 12
  assert found["real"] == {"answers": 48, "wins": 24, "share": 0.5}
  assert "real: 24 wins of 48" in capsys.readouterr().out
  assert json.loads((takes / "out" / "answers.json").read_text()) == found


def test_answers_at_random_are_no_preference(takes):
  make(takes)
  rng = np.random.default_rng(1)
  save(takes, "one", lambda pair: int(rng.integers(-2, 3)))
  found = answers(out_dir=str(takes / "out"), results=str(takes / "result-*.json"))
  assert all(each["p_corrected"] > 0.05 for each in found.values() if "p" in each)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"test": "other"}, "result-one.json: is of the test other"),
    ({"answers": {"0": 3}}, "result-one.json: pair 0: no answer 3"),
    ({"answers": {"999": 1}}, "result-one.json: pair 999: no answer 1"),
    ({"answers": None}, "result-one.json: wanted answers as the page saves them"),
  ],
)
def test_files_that_are_no_answers_are_named(takes, changes, message):
  make(takes)
  save(takes, "one", lambda pair: 0, **changes)
  with pytest.raises(ValueError, match=message):
    answers(out_dir=str(takes / "out"), results=str(takes / "result-*.json"))


def test_one_listener_counts_once(takes):
  make(takes)
  save(takes, "one", lambda pair: 0)
  (takes / "result-copy.json").write_text((takes / "result-one.json").read_text())
  with pytest.raises(ValueError, match="two files of one listener"):
    answers(out_dir=str(takes / "out"), results=str(takes / "result-*.json"))


def test_what_cannot_be_compared_is_refused(takes):
  with pytest.raises(ValueError, match="wanted two or more, found ours"):
    make(takes, systems={"ours": str(takes / "ours" / "*.wav")})
  some = {"ours": str(takes / "ours" / "*.wav"), "theirs": str(takes / "theirs" / "0*.wav")}
  with pytest.raises(ValueError, match="theirs: wanted 12 files, one for each prompt, found 10"):
    make(takes, systems=some)
  make(takes)
  with pytest.raises(ValueError, match="exists"):
    make(takes)
