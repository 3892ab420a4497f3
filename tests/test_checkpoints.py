"""Checkpoints of a run: which are kept, and what is restored or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax.training.checkpoints import Checkpoints, Saves

STATE = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": {"c": np.int32(3)}}
ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), STATE)


def opened(path, **changes):
  saves = dict(every=1, newest=2, forever=0, best="") | changes
  return Checkpoints(str(path), Saves(**saves), "the configuration")


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
  save(opened(tmp_path, forever=4, best="loss"), range(1, 12), lambda s: {"loss": abs(s - 3)})
  assert kept(tmp_path) == [3, 4, 8, 10, 11]
  with pytest.raises(ValueError, match="no metric 'accuracy'; there are .*loss"):
    save(opened(tmp_path, best="accuracy"), [12], lambda s: {"loss": 0.0})


def test_another_tree_is_refused_with_the_difference(tmp_path):
  save(opened(tmp_path), [1])
  shape = jax.ShapeDtypeStruct
  wanted = {"a": shape((2, 4), jnp.float32), "d": shape((), jnp.int32)}
  with pytest.raises(ValueError, match="lacks d.*has b/c.*a \\(2, 3\\) instead of \\(2, 4\\)"):
    opened(tmp_path).restore(wanted)
