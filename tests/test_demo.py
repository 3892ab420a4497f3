"""The demo continues where it was stopped, stops where a command fails, and repeats nothing."""

import json
import re
import shlex

import pytest

from musiclm_jax import main
from musiclm_jax.configuration import Configuration, find
from musiclm_jax.demo import demo

COMMANDS = ((1.0, "first --dir={dir}"), (2.0, "second 'two words'"), (0.5, "third"))


def run_demo(tmp_path, codes=None):
  ran = []

  def run(words):
    ran.append(words)
    return (codes or {}).get(words[0], 0)

  settings = dict(commands=COMMANDS, output_dir=str(tmp_path), memory_gb=1, disk_gb=0.001)
  try:
    demo(run=run, **settings)
  except ValueError as error:
    return ran, str(error)
  return ran, ""


def test_commands_run_in_order_and_once(tmp_path, capsys):
  ran, _ = run_demo(tmp_path)
  assert ran == [["first", f"--dir={tmp_path}"], ["second", "two words"], ["third"]]
  assert "3 of 3 commands, about 4 minutes" in capsys.readouterr().err
  assert run_demo(tmp_path) == ([], "")
  assert "all 3 commands have been run" in capsys.readouterr().out


def test_a_failing_command_stops_it_and_is_the_first_of_the_next_run(tmp_path):
  ran, error = run_demo(tmp_path, {"second": 1})
  assert len(ran) == 2 and error == "stopped at: musiclm second 'two words'"
  assert list(json.loads((tmp_path / "progress.json").read_text())) == [f"first --dir={tmp_path}"]
  assert [words[0] for words in run_demo(tmp_path)[0]] == ["second", "third"]


def test_too_small_a_disk_is_said_before_the_start(tmp_path):
  def never(words):
    raise AssertionError(words)

  with pytest.raises(ValueError, match="GB of disk are needed"):
    demo(run=never, commands=COMMANDS, output_dir=str(tmp_path), memory_gb=1, disk_gb=1e9)


@pytest.mark.parametrize("size", ["tiny", "demo", "small"])
def test_the_commands_of_a_size_give_all_that_they_need_and_nothing_else(size, capsys):
  for _, command in Configuration([find(f"{size}/commands")]).macro("COMMANDS").value:
    assert main.main([*shlex.split(command), "--help"]) == 0, command
    assert not re.search(r"^  --\w+ +required", capsys.readouterr().out, re.MULTILINE), command
