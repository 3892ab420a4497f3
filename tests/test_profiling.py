"""Profiles of steps, by number and by signal."""

import signal

import jax
import pytest

from musiclm_jax.training.profiling import Window
from tests.regression import Data, train


@pytest.mark.slow
def test_steps_are_profiled_by_number_and_by_signal(tmp_path, monkeypatch):
  traced = []
  monkeypatch.setattr(jax.profiler, "start_trace", traced.append)
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: traced.append("end"))
  data = Data(signals={3: signal.SIGUSR1, 7: signal.SIGUSR1})
  train(tmp_path, steps=9, data=data, hooks=(Window(first=1, count=2),))
  assert traced == [str(tmp_path / "profile"), "end"] * 3


@pytest.mark.slow
def test_a_profile_is_one_that_tensorboard_reads(tmp_path):
  train(tmp_path, steps=4, hooks=(Window(first=2, count=2),))
  assert list((tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb"))
