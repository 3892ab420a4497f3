"""What a run logs: metrics, rates, goodput over restarts, W&B, TensorBoard."""

import json
import sys

import numpy as np
import pytest

from musiclm_jax.training import progress
from musiclm_jax.training.writers import Events
from tests.regression import metrics, train

METRICS = {"loss": (8.0, 8.0), "chance": (16.0, 8.0), "skipped": (0.0, 1.0)}


def logged(tmp_path, first_step=1):
  rates = progress.Rates(flops=10**12, peak=10**13)
  return progress.Progress(str(tmp_path), first_step, 10, rates, wandb_project="")


def test_a_run_that_does_not_learn_is_named(tmp_path, capsys):
  with logged(tmp_path) as log:
    log.evaluation(10, {"loss": 6.23, "chance": 6.24})
    log.evaluation(10, {"loss": 3.0, "chance": 6.24})
  lines = capsys.readouterr().err.splitlines()
  assert "NOT LEARNING" in lines[0] and "NOT LEARNING" not in lines[1]


def test_progress_measures_speed_against_the_peak_and_goodput_over_restarts(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
  monkeypatch.setattr(progress.time, "time", lambda: 1000 + now[0])

  def run(first_step, durations):
    with logged(tmp_path, first_step) as log:
      now[0] += 7
      log.compiled(7.0)
      for step, seconds in enumerate(durations, first_step):
        now[0] += seconds
        log.step(METRICS, rows=4, waited=0.1 * seconds)
        if step % 2 == 0:
          log.flush(step)

  run(1, [1.0, 3.0, 1.0, 1.0])
  now[0] += 20  # killed, and started again at step 3
  run(3, [2.0, 2.0])
  first, second, third = metrics(tmp_path, "train")
  assert first["compile_seconds"] == 7 and "compile_seconds" not in second
  assert first["seconds_per_step"] == 2 and first["step_time_deviation"] == pytest.approx(0.5)
  assert first["targets_per_second"] == 4 and first["rows_per_second"] == 2
  assert first["data_wait_share"] == pytest.approx(0.1)
  assert first["teraflops_per_second"] == pytest.approx(0.5)
  assert first["mfu"] == pytest.approx(0.05)
  assert first["goodput"] == pytest.approx(4 / 11)
  assert third["goodput"] == pytest.approx((4 + 4) / (11 + 2 + 20 + 7 + 4))


def test_time_excluded_from_timing_is_in_no_rate(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
  monkeypatch.setattr(progress.time, "time", lambda: 1000 + now[0])
  with logged(tmp_path) as log:
    for number in range(1, 5):
      now[0] += 2
      log.step(METRICS, rows=4, waited=0.0)
      if number % 2 == 0:
        log.flush(number)
        with log.excluded_from_timing(METRICS):
          now[0] += 16  # an evaluation
  first, second = metrics(tmp_path, "train")
  assert first["seconds_per_step"] == second["seconds_per_step"] == 2
  assert second["step_time_deviation"] == 0 and second["goodput"] == pytest.approx(8 / 24)


def test_an_incomplete_last_line_is_removed_and_reported(tmp_path, capsys):
  path = tmp_path / "metrics.jsonl"
  whole = '{"step": 2, "split": "train", "time": 5.0, "seconds": 3.0, "goodput": 0.5}\n'
  path.write_text(whole + '{"step": 4, "spl')
  with logged(tmp_path, first_step=3) as log:
    log.evaluation(3, {"loss": 1.0, "chance": 2.0})
  assert "removed the incomplete last line" in capsys.readouterr().err
  lines = path.read_text().splitlines(keepends=True)
  assert lines[0] == whole and json.loads(lines[1])["step"] == 3 and len(lines) == 2
  path.write_text("{\n" + whole)
  with pytest.raises(ValueError, match="metrics.jsonl:1: not JSON"):
    logged(tmp_path)


def test_durations():
  assert [progress.duration(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_metrics_reach_wandb(tmp_path, monkeypatch):
  logged_to_wandb = []

  class Wandb:
    def init(self, **options):
      logged_to_wandb.append(options)
      return self

    def log(self, values, step):
      logged_to_wandb.append((step, set(values)))

    def finish(self):
      logged_to_wandb.append("finish")

  monkeypatch.setitem(sys.modules, "wandb", Wandb())
  train(tmp_path / "run", steps=10, wandb_project="music", config_text="STEPS = 10")
  options, (step, names), (_, held_out), end = logged_to_wandb
  assert options["project"] == "music" and options["name"] == "run"
  assert options["resume"] == "allow" and options["config"] == {"gin": "STEPS = 10"}
  assert step == 10 and "train/loss" in names and "eval/loss" in held_out and end == "finish"
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(ValueError, match="pip install wandb first"):
    train(tmp_path / "other", steps=10, wandb_project="music")


def test_tensorboard_events_are_written_at_once(tmp_path):
  events = Events(tmp_path)
  events.scalars(3, {"train/loss": 1.5})
  events.audio(3, "samples/00", np.zeros(800, np.float32), 8000)
  content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
  assert content.count(b"train/loss") == 1 and content.count(b"samples/00") == 1
