"""The trainer's contracts on a toy model: resuming, meshes, learning, hooks, refusals."""

import contextlib
import importlib
import json
import math
import pathlib
import re
import shutil
import signal

import jax
import numpy as np
import optax
import pytest

from musiclm_jax import descriptions, main, part_files
from tests.regression import Data, allclose, equal, metrics, train, weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run of 30 steps; tests copy what they change."""
  directory = tmp_path_factory.mktemp("whole")
  train(directory, config_text="first")
  return directory


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
  """A run of 12 steps without noise that keeps an average of its parameters."""
  directory = tmp_path_factory.mktemp("averaged")
  train(directory, steps=12, noise=0.0, decay=0.9)
  return directory


@pytest.fixture
def copy(whole, tmp_path):
  """A copy of the whole run."""
  return shutil.copytree(whole, tmp_path / "copy")


def test_it_learns_and_leaves_a_part(tmp_path):
  final = train(tmp_path, noise=0.0, steps=60)
  assert final["loss"] < 0.2 * final["chance"]
  assert set(weights(tmp_path)) == {"params", "statistics"}
  assert [row["step"] for row in metrics(tmp_path, "eval")] == [20, 40, 60]
  rows = metrics(tmp_path, "train")
  assert len(rows) == 6 and rows[-1]["loss"] < rows[0]["loss"]
  assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(whole, tmp_path):
  for stop in (14, 25):  # after 13 and 24 steps: off the checkpoints, which are at 10 and 20
    with contextlib.suppress(KeyboardInterrupt):
      train(tmp_path, data=Data(stop_before=stop))
    assert not (tmp_path / "weights.safetensors").exists()
  train(tmp_path)
  equal(weights(whole), weights(tmp_path))


def test_a_finished_run_stays_as_it_is(copy):
  before = (copy / "weights.safetensors").read_bytes()
  train(copy, data=Data(stop_before=31), config_text="first")
  assert (copy / "weights.safetensors").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2), (2, 4, 1)])
def test_the_mesh_changes_nothing(whole, tmp_path, mesh):
  train(tmp_path, mesh=mesh)
  allclose(weights(whole), weights(tmp_path), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_microbatches_equal_one_batch(tmp_path):
  # without noise: rows then see no random number that depends on their part
  train(tmp_path / "one", noise=0.0)
  train(tmp_path / "four", noise=0.0, microbatches=4)
  allclose(weights(tmp_path / "one"), weights(tmp_path / "four"), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_another_seed_gives_other_weights(whole, tmp_path):
  train(tmp_path, seed=1)
  kernels = [weights(path)["params"]["kernel"] for path in (whole, tmp_path)]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_another_configuration_in_the_same_directory_is_refused(whole):
  with pytest.raises(ValueError, match='another configuration.*"noise"'):
    train(whole, noise=0.5)


@pytest.mark.parametrize("mesh", [(1, 1, 8), (8, 1, 1)])
def test_a_run_starts_from_the_weights_of_another(whole, tmp_path, capsys, monkeypatch, mesh):
  monkeypatch.setattr(descriptions, "_PACKAGE", "tests")  # where this model comes from
  train(tmp_path, steps=0, seed=5, initial={"": str(whole)}, mesh=mesh)
  equal(weights(whole), weights(tmp_path))
  assert "the model starts from" in capsys.readouterr().err
  origin = json.loads((tmp_path / "model.json").read_text())["provenance"]["initial"]
  assert origin == {"": {"part": part_files.fingerprint(whole)}}


def test_a_part_of_another_shape_is_no_start(copy, tmp_path, monkeypatch):
  monkeypatch.setattr(descriptions, "_PACKAGE", "tests")
  part_files.write_weights(copy, {"params": {"other": np.zeros((3,), np.float32)}})
  with pytest.raises(ValueError, match="part lacks params/kernel.*part has params/other"):
    train(tmp_path / "second", initial={"": str(copy)})
  with pytest.raises(ValueError, match="nowhere: model.json is missing"):
    train(tmp_path / "third", initial={"": str(tmp_path / "nowhere")})


def test_the_average_of_the_parameters_is_what_is_left(averaged, tmp_path):
  train(tmp_path / "plain", steps=12, noise=0.0)
  plain, wanted = weights(tmp_path / "plain"), weights(averaged)
  assert np.abs(plain["params"]["kernel"] - wanted["params"]["kernel"]).max() > 1e-2
  with contextlib.suppress(KeyboardInterrupt):
    train(tmp_path / "parts", steps=12, noise=0.0, decay=0.9, data=Data(stop_before=12))
  train(tmp_path / "parts", steps=12, noise=0.0, decay=0.9)
  equal(wanted, weights(tmp_path / "parts"))


def test_a_checkpoint_becomes_a_part(averaged, tmp_path, capsys):
  words = ["checkpoint", "part", str(averaged)]
  assert main.main([*words, f"--out={tmp_path / 'newest'}"]) == 0
  wanted = weights(averaged)
  equal(weights(tmp_path / "newest"), wanted)
  assert main.main([*words, "--step=10", f"--out={tmp_path / 'tenth'}"]) == 0
  tenth = weights(tmp_path / "tenth")["params"]["kernel"]
  assert np.abs(tenth - wanted["params"]["kernel"]).max() > 1e-3
  half = [f"--out={tmp_path / 'half'}", "--dtype=bfloat16"]
  assert main.main([*words, *half]) == 0
  stored = weights(tmp_path / "half")["params"]["kernel"]
  wanted = wanted["params"]["kernel"]
  assert (stored != wanted).any() and stored.dtype == np.float32
  np.testing.assert_allclose(stored, wanted, rtol=2**-8)
  texts = [path.joinpath("model.json").read_text() for path in (averaged, *tmp_path.iterdir())]
  assert len(texts) == 4 and len(set(texts)) == 1
  capsys.readouterr()
  assert main.main([*words, "--step=11", f"--out={tmp_path / 'none'}"]) == 1
  assert "no checkpoint of step 11; there are [10, 12]" in capsys.readouterr().err
  assert main.main([*words, f"--out={tmp_path / 'none'}", "--dtype=float8"]) == 2
  assert "wants one of 'float32', 'bfloat16'" in capsys.readouterr().err
  assert not (tmp_path / "none").exists()
  assert main.main(words) == 2 and "needs --OUT=..." in capsys.readouterr().err
  for where in (tmp_path / "tenth", averaged):
    assert main.main([*words, f"--out={where}"]) == 1
    assert f"{where}: a model is here already" in capsys.readouterr().err
  assert main.main(["checkpoint", "verify", str(averaged), "--step=10"]) == 0
  (line,) = capsys.readouterr().out.splitlines()
  assert line.split()[0] == "10" and line.endswith("verified")


def test_a_refused_start_leaves_the_configuration(whole):
  with pytest.raises(ValueError, match="this run lacks|checkpoint lacks"):
    train(whole, steps=40, config_text="second", decay=0.9)  # another tree of moments
  assert (whole / "config.gin").read_text() == "first"


def test_sigterm_saves_and_ends_with_exit_code_0(whole, tmp_path, capsys):
  with pytest.raises(SystemExit) as ended:
    train(tmp_path, data=Data(signals={14: signal.SIGTERM}))
  assert ended.value.code == 0 and "saved: the same command continues" in capsys.readouterr().err
  assert [line["step"] for line in metrics(tmp_path, "train")] == [10, 14]
  train(tmp_path)
  assert metrics(tmp_path, "train")[-1]["step"] == 30
  equal(weights(whole), weights(tmp_path))


def test_periods_of_0_mean_only_at_the_end(tmp_path):
  train(tmp_path, steps=3, log_period=0, eval_period=0, checkpoint_period=0)
  assert [row["step"] for row in metrics(tmp_path, "train")] == [3]
  assert [row["step"] for row in metrics(tmp_path, "eval")] == [3]
  assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


class Recorder:
  """A hook that records its calls."""

  def __init__(self):
    self.calls, self.run = [], None

  @contextlib.contextmanager
  def start(self, run):
    self.run = run

    def hook(step, state, metrics):
      self.calls.append((step, int(state.step), float(metrics["loss"][0] / metrics["loss"][1])))

    yield hook
    self.calls.append("end")


def test_hooks_are_called_after_each_step_with_its_state_and_metrics(copy):
  first = Recorder()
  train(copy, steps=33, hooks=(first,), config_text="first", log_period=1)
  assert first.run.first_step == 31 and first.run.total_steps == 33
  assert [call[:2] for call in first.calls[:-1]] == [(31, 31), (32, 32), (33, 33)]
  logged = [row["loss"] for row in metrics(copy, "train")[-3:]]
  np.testing.assert_allclose([call[2] for call in first.calls[:-1]], logged, rtol=1e-6)
  assert first.calls[-1] == "end"


def test_the_hook_in_the_documentation_logs_its_lines(tmp_path, capsys, monkeypatch):
  document = (pathlib.Path(__file__).parent.parent / "docs" / "extend.md").read_text()
  (code,) = [
    block.split("```")[0]
    for block in document.split("```python\n")
    if "class ParameterNorm" in block
  ]
  (tmp_path / "parameter_norm.py").write_text(code)
  monkeypatch.syspath_prepend(str(tmp_path))
  hook = importlib.import_module("parameter_norm").ParameterNorm(2)
  train(tmp_path / "run", steps=4, hooks=(hook,))
  lines = re.findall(r"(\d)/4  parameter norm (\S+)", capsys.readouterr().err)
  assert [step for step, _ in lines] == ["2", "4"]
  params = weights(tmp_path / "run")["params"]
  assert float(lines[1][1]) == pytest.approx(float(optax.global_norm(params)), rel=1e-3)


def test_an_unreadable_newest_checkpoint_is_moved_and_the_one_before_it_used(copy, capsys, whole):
  for path in (copy / "checkpoints" / "30").rglob("d/*"):
    path.write_bytes(b"")
  (copy / "weights.safetensors").unlink()
  train(copy, config_text="first")
  err = capsys.readouterr().err
  (line,) = [line for line in err.splitlines() if "cannot be read" in line]
  assert "checkpoints/30: cannot be read" in line and "continuing from step 20" in line
  assert "Traceback" not in err
  equal(weights(whole), weights(copy))
  assert main.main(["checkpoint", "verify", str(copy)]) == 0
  assert [path.name.split("-")[0] for path in (copy / "broken").iterdir()] == ["30"]


def test_where_no_checkpoint_can_be_read_nothing_is_begun_anew(copy):
  for path in (copy / "checkpoints").rglob("_METADATA"):
    path.write_bytes(b"")
  with pytest.raises(ValueError, match="checkpoints: 30: .*; 20: .*; move"):
    train(copy, config_text="first")
  assert (copy / "checkpoints" / "30").exists()


def test_a_save_that_was_killed_is_replaced(copy, whole):
  for step in (20, 30):
    done = copy / "checkpoints" / str(step)
    done.rename(done.with_name(f"{step}.orbax-checkpoint-tmp"))
  (copy / "weights.safetensors").unlink()
  train(copy, config_text="first")
  equal(weights(whole), weights(copy))


@pytest.mark.parametrize(
  ("raised", "number"),
  [
    (ValueError("RESOURCE_EXHAUSTED: Failed writing: No space left on device [ENOSPC]"), 28),
    (OSError(122, "Disk quota exceeded"), 122),
    (OSError("weights: I/O error: No space left on device (os error 28)"), 28),
  ],
)
def test_a_full_disk_is_an_error_of_the_system_that_names_the_directory(raised, number, tmp_path):
  class Full:
    """A hook whose disk is full."""

    @contextlib.contextmanager
    def start(self, run):
      raise raised
      yield

  with pytest.raises(OSError, match=str(tmp_path)) as found:
    train(tmp_path, hooks=(Full(),))
  assert found.value.errno == number


def test_compiled_programs_are_kept_for_the_next_start(tmp_path, monkeypatch):
  kept = {}
  monkeypatch.setattr(jax.config, "update", kept.__setitem__)
  with pytest.raises(ValueError, match="do not divide"):
    train(tmp_path, microbatches=3, compile_cache="there")
  assert kept == {"jax_compilation_cache_dir": "there"}
