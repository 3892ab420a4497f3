"""Checkpoints of a run: which are kept, and what is restored or refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax import main
from musiclm_jax.training.checkpoints import CheckpointPolicy, Checkpoints

STATE = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": {"c": np.int32(3)}}
ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), STATE)


def opened(path, **changes):
  saves = dict(period=1, keep=2, keep_period=0, best="") | changes
  return Checkpoints(str(path), CheckpointPolicy(**saves), "the configuration")


def save(checkpoints, steps, metrics=None):
  for step in steps:
    state = jax.tree.map(lambda x, s=step: jnp.asarray(x * s), STATE)
    checkpoints.save(step, state, metrics(step) if metrics else None)
  checkpoints.close()


def kept(path):
  return sorted(int(p.name) for p in (path / "checkpoints").iterdir())


def test_the_newest_is_restored(tmp_path):
  assert opened(tmp_path).restore(ABSTRACT) is None
  save(opened(tmp_path), (1, 2, 3))
  assert kept(tmp_path) == [2, 3]
  restored = opened(tmp_path).restore(ABSTRACT)
  np.testing.assert_array_equal(restored["a"], STATE["a"] * 3)


def test_some_are_kept_for_good_and_the_best(tmp_path):
  for steps in (range(1, 5), range(5, 12)):  # what was measured before a restart counts too
    save(opened(tmp_path, keep_period=4, best="loss"), steps, lambda s: {"loss": abs(s - 3)})
  assert kept(tmp_path) == [3, 4, 8, 10, 11]
  with pytest.raises(ValueError, match="no metric 'accuracy'; there are .*loss"):
    save(opened(tmp_path, best="accuracy"), [12], lambda s: {"loss": 0.0})


def test_another_tree_is_refused_with_the_difference(tmp_path):
  save(opened(tmp_path), [1])
  shape = jax.ShapeDtypeStruct
  wanted = {"a": shape((2, 4), jnp.float32), "d": shape((), jnp.int32)}
  with pytest.raises(ValueError, match="lacks d.*has b/c.*a \\(2, 3\\) instead of \\(2, 4\\)"):
    opened(tmp_path).restore(wanted)


def test_the_command_lists_and_verifies(tmp_path, capsys):
  save(opened(tmp_path, best="loss"), (1, 2), lambda step: {"loss": 0.5 + step})
  assert main.main(["checkpoint", "ls", str(tmp_path), "--json"]) == 0
  rows = json.loads(capsys.readouterr().out)
  assert [(row["step"], row["arrays"], row["values"]) for row in rows] == [(1, 2, 7), (2, 2, 7)]
  assert rows[0]["metrics"]["loss"] == 1.5 and rows[0]["version"]
  assert main.main(["checkpoint", "verify", str(tmp_path)]) == 0
  assert capsys.readouterr().out.count("verified") == 2


def broken(folder):
  for path in (folder / "checkpoints" / "1").rglob("*"):
    if path.is_file() and "/d/" in str(path):
      path.write_bytes(b"")


def not_finite(folder):
  state = {**STATE, "a": STATE["a"] * np.nan}
  checkpoints = opened(folder)
  checkpoints.save(2, jax.tree.map(jnp.asarray, state), None)
  checkpoints.close()


@pytest.mark.parametrize(
  ("action", "damage", "message"),
  [
    ("verify", broken, "checkpoints/1: not whole"),
    ("verify", not_finite, "checkpoints/2: not whole: a is not finite"),
    ("ls", lambda folder: (folder / "checkpoints").rename(folder / "other"), "no checkpoints here"),
  ],
)
def test_what_is_wrong_is_one_line(tmp_path, capsys, action, damage, message):
  save(opened(tmp_path), [1])
  damage(tmp_path)
  assert main.main(["checkpoint", action, str(tmp_path)]) == 1
  line = capsys.readouterr().err
  assert message in line and line.count("\n") == 1


def test_all_that_cannot_be_read_are_named_in_one_line(tmp_path, capsys):
  save(opened(tmp_path), (1, 2))
  for path in (tmp_path / "checkpoints").rglob("_METADATA"):
    path.unlink()
  assert main.main(["checkpoint", "ls", str(tmp_path)]) == 1
  line = capsys.readouterr().err
  assert "1: not whole: its metadata are missing; " in line and "2: not whole" in line


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["list"], "no action 'list'; nearest ls"),
    ([], "no action ''; there is ls, part, verify"),
    (["ls", "runs", "--out=part"], "--out: this run does not use OUT"),
  ],
)
def test_an_action_is_one_of_the_verbs_own(words, message, capsys):
  assert main.main(["checkpoint", *words]) == 2
  assert message in capsys.readouterr().err


def test_a_save_that_was_killed_is_no_checkpoint(tmp_path):
  save(opened(tmp_path), [1])
  whole = tmp_path / "checkpoints" / "1"
  whole.rename(tmp_path / "checkpoints" / "1.orbax-checkpoint-tmp-1")
  assert opened(tmp_path).restore(ABSTRACT) is None
