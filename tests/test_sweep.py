"""Sweeps: which points there are, what is run again, and what the page says of them."""

import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

import pytest

from musiclm_jax.sweep import page, points
from musiclm_jax.sweep.sweep import sweep

VIEW = page.View("A sweep", (), "part.error", "least", "*.wav", 1)


def run(words):
  """A command `measure FOLDER GUIDANCE STEP`: fails at step 3, else leaves figures."""
  verb, folder, guidance, step = words
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  pathlib.Path(folder, "process").write_text(str(os.getpid()))
  if verb == "slow":
    time.sleep(2)
  with pathlib.Path(folder, "calls").open("a") as file:
    file.write(f"{step}\n")
  if step == "3":
    return 1
  error = float(guidance) + float(step)
  figure = {"value": error, "interval": [error - 1, error + 1]}
  results = {"part": {"section": "a.B", "took_seconds": 1.0, "figures": {"error": figure}}}
  pathlib.Path(folder, "metrics.json").write_text(json.dumps(results))
  return 0


def start(tmp_path, values, commands=("measure {point} {guidance} {step.name}",), **settings):
  settings = dict(workers=1, follow_seconds=0.0, dry_run=False, view=VIEW, places={}) | settings
  sweep(run=run, values=values, commands=commands, out_dir=str(tmp_path / "out"), **settings)


def checkpoints(tmp_path, *steps):
  for step in steps:
    (tmp_path / "run" / str(step)).mkdir(parents=True)
  return str(tmp_path / "run" / "*")


def test_points_are_products_one_after_another_each_once():
  found = points.expand(({"a": (1, 2), "b": "x"}, {"a": 2, "b": ("x", "y/z")}))
  assert [point.name for point in found] == ["a=1,b=x", "a=2,b=x", "a=2,b=z"]
  with pytest.raises(ValueError, match="two differ and have the name a=z"):
    points.expand(({"a": ("x/z", "y/z")},))


def test_paths_come_in_the_order_of_their_numbers(tmp_path):
  paths = checkpoints(tmp_path, 10, 9, 100)
  assert [p.name for p in points.expand(({"step": paths},))] == ["step=9", "step=10", "step=100"]


def test_a_name_without_a_value_is_refused():
  point = points.Point("p", {"guidance": 1})
  with pytest.raises(ValueError, match="no value 'guidence'; nearest guidance"):
    points.commands(point, ("generate --guidance={guidence}",), {"point": "p"})
  [line] = points.commands(point, ("generate 'a b' --x=\"{{'y': {guidance}}}\"",), {})
  assert shlex.split(line) == ["generate", "a b", "--x={'y': 1}"]


def test_points_that_have_ended_are_not_run_again(tmp_path, capsys):
  values = {"guidance": (1.0, 2.0), "step": checkpoints(tmp_path, 1, 2, 3)}
  with pytest.raises(
    ValueError, match="2 points failed; the first: stopped at: musiclm measure .* 1.0 3"
  ):
    start(tmp_path, values)
  out = tmp_path / "out"
  calls = [len((out / p.name / "calls").read_text().split()) for p in points.expand((values,))]
  assert calls == [1] * 6
  assert len((out / "table.csv").read_text().splitlines()) == 1 + 4
  with pytest.raises(ValueError, match="2 points failed"):  # only they are tried again
    start(tmp_path, values)
  calls = [len((out / p.name / "calls").read_text().split()) for p in points.expand((values,))]
  assert calls == [1, 1, 2, 1, 1, 2]
  start(tmp_path, values | {"step": checkpoints(tmp_path / "other", 1, 2)})  # the same points
  start(tmp_path, {"guidance": 1.0, "step": tmp_path / "run" / "2"}, ("measure {point} 0 1",))
  assert (out / "guidance=1.0,step=2" / "calls").read_text().split() == ["2", "1"]


def test_table_and_page_have_all_points_and_mark_the_best(tmp_path):
  start(tmp_path, {"guidance": (1.0, 1.5, 9.0), "step": checkpoints(tmp_path, 1, 2)})
  lines = (tmp_path / "out" / "table.csv").read_text().splitlines()
  assert lines[0] == "point,guidance,step,seconds,part.error,part.error low,part.error high"
  assert lines[1].startswith('"guidance=1.0,step=1",1.0,1,') and lines[1].endswith(",2.0,1.0,3.0")
  text = (tmp_path / "out" / "index.html").read_text()
  assert "<b>guidance=1.0, step=1</b> has the least error: 2 (1 to 3)" in text
  assert text.count(">best<") == 1 and text.count("within its interval") == 2
  assert text.count("<svg") == 2 and "http" not in text.replace("http://www.w3.org", "")


def test_a_figure_that_is_not_there_is_named(tmp_path):
  view = page.View("A sweep", ("part.eror",), "", "most", "*.wav", 1)
  with pytest.raises(ValueError, match="no 'part.eror' among the results; nearest part.error"):
    start(tmp_path, {"guidance": 1.0, "step": checkpoints(tmp_path, 1)}, view=view)


def test_workers_share_the_points_and_a_failure_of_any_is_an_error(tmp_path):
  values = {"guidance": (1.0, 2.0, 4.0, 5.0), "step": checkpoints(tmp_path, 1, 2)}
  commands = ("slow {point} {guidance} {step.name}",)
  start(tmp_path, values, commands, workers=2)
  calls = [path.read_text().split() for path in (tmp_path / "out").glob("*/calls")]
  assert len(calls) == 8 and all(len(each) == 1 for each in calls)
  processes = {path.read_text() for path in (tmp_path / "out").glob("*/process")}
  assert len(processes) == 2
  other = {"guidance": (1.0, 2.0), "step": checkpoints(tmp_path / "more", 3)}
  with pytest.raises(ValueError, match="failed"):
    start(tmp_path, other, commands, workers=2)


def test_a_pattern_that_matches_nothing_is_named(tmp_path):
  with pytest.raises(ValueError, match="values: no path matches /nowhere/x/\\*"):
    start(tmp_path, {"guidance": 1.0, "step": "{run}/x/*"}, places={"run": "/nowhere"})


def test_dry_run_prints_every_command_and_runs_none(tmp_path, capsys):
  start(tmp_path, {"guidance": (1.0, 2.0), "step": checkpoints(tmp_path, 1, 2)}, dry_run=True)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4 and lines[0].startswith("musiclm measure ") and lines[3].endswith("2.0 2")
  assert not (tmp_path / "out").exists()


def test_new_checkpoints_are_followed(tmp_path):
  code = "import pathlib, sys, time; time.sleep(1); pathlib.Path(sys.argv[1]).mkdir()"
  (tmp_path / "run").mkdir()
  values = {"guidance": 1.0, "step": str(tmp_path / "run" / "*")}  # none yet
  later = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run" / "2")])
  start(tmp_path, values, follow_seconds=5.0)
  assert later.wait() == 0
  assert (tmp_path / "out" / "guidance=1.0,step=2" / "metrics.json").is_file()
