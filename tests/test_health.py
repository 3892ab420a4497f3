"""Runs that fail: steps that are not finite, metrics below their floors."""

import json
import math
import types

import jax
import numpy as np
import pytest

from musiclm_jax.training.health import Limits
from tests.regression import Data, equal, metrics, train, weights


def test_a_step_that_is_not_finite_is_skipped_and_named(tmp_path):
  train(tmp_path / "a", steps=7, data=Data(not_finite={3, 4, 7}), log_period=7)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(weights(tmp_path / "a")))
  lines = (tmp_path / "a" / "skipped.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [{"step": s, "records": [s]} for s in (3, 4, 7)]
  (row,) = metrics(tmp_path / "a", "train")
  assert row["skipped"] == pytest.approx(3 / 7) and math.isfinite(row["loss"])
  train(tmp_path / "b", steps=6, data=Data(not_finite={3, 4}))  # the seventh changed nothing
  equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path):
  data = Data(not_finite={1, 2, 3, 4, *range(6, 99)})
  with pytest.raises(ValueError, match="step 10: .* not finite in 5 steps in a row.*skipped.jsonl"):
    train(tmp_path, data=data)
  assert not (tmp_path / "weights.safetensors").exists()


def observed(perplexities, floors, period, total=6):
  """Observes steps with these perplexities (None: a step that was skipped)."""
  run = types.SimpleNamespace(model_dir="nowhere", total_steps=total, data=None)
  with Limits(5, floors, period).start(run) as hook:
    for step, value in enumerate(perplexities, 1):
      weight = 0.0 if value is None else 2.0
      found = {"skipped": (0.0, 1.0), "perplexity_0": ((value or 0.0) * weight, weight)}
      hook(step, None, jax.tree.map(np.float32, found))


FLOORS = {"perplexity_0": (1.1, "the codebook has collapsed")}


@pytest.mark.parametrize(
  ("values", "period", "step"),
  [
    ([1.4, 0.9, 1.3, 1.3], 2, None),
    ([1.4, 0.9, 1.0, 1.1], 2, 4),
    ([1.0] * 5, 0, None),
    ([1.0] * 6, 0, 6),
    ([None, None, 1.2], 2, None),  # of the first two nothing was measured
  ],
)
def test_a_mean_below_its_floor_ends_the_run(values, period, step):
  if step is None:
    observed(values, FLOORS, period)
  else:
    with pytest.raises(ValueError, match=f"^step {step}: the codebook has collapsed: perplexity_0"):
      observed(values, FLOORS, period)


def test_a_floor_of_no_metric_is_refused_at_the_first_step():
  with pytest.raises(ValueError, match="'perplexity'; there are .*_0"):
    observed([1.0], {"perplexity": (2.0, "")}, 100)
