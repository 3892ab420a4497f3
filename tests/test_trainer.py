"""The trainer's contracts on a toy model: resuming, microbatches, meshes, learning, refusals."""

import contextlib
import dataclasses
import json
import math
import pathlib
import signal
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax import descriptions, main, part_files
from musiclm_jax.lm.audition import SampleGeneration
from musiclm_jax.partitioning import MeshShape
from musiclm_jax.training import optimizers, progress, trainer
from musiclm_jax.training.checkpoints import CheckpointPolicy
from musiclm_jax.training.health import Health, Limits
from musiclm_jax.training.profiling import Window
from musiclm_jax.training.step import TrainConfig, init_state, microbatches, state_shardings
from tests.programs import program


class Regression(nn.Module):
  """A linear model with dropout noise and a running mean, state besides its parameters."""

  noise: float

  @nn.compact
  def __call__(self, batch, train: bool):
    x, y = batch["x"], batch["y"]
    init = nn.with_logical_partitioning(nn.initializers.normal(0.1), ("embed", "mlp"))
    kernel = self.param("kernel", init, (16, 32))
    seen = self.variable("statistics", "seen", lambda: jnp.zeros(()))
    if train:
      seen.value = seen.value + x.sum()
      x = x + self.noise * jax.random.normal(self.make_rng("dropout"), x.shape)
    errors = ((x @ kernel - y) ** 2).mean(axis=1)
    weight = batch["weight"]
    total = weight.sum()
    loss = (errors * weight).sum() / total
    chance = ((y**2).mean(axis=1) * weight).sum()
    return loss, {"loss": (loss * total, total), "chance": (chance, total)}


class Data:
  """Batches that are a function of the step."""

  batch_size = 16
  num_batches = 2
  shapes = {
    "x": jax.ShapeDtypeStruct((16, 16), jnp.float32),
    "y": jax.ShapeDtypeStruct((16, 32), jnp.float32),
    "weight": jax.ShapeDtypeStruct((16,), jnp.float32),
  }

  def __init__(self, stop_at=None):
    self.provenance = {"sources": {}, "parts": {}}
    self._stop_at = stop_at

  def records_of(self, step):
    return [step]

  fingerprint = ""

  def batches(self, first_step, rows=slice(None)):
    step = first_step
    while step != self._stop_at:
      rng = np.random.default_rng(step)
      x = rng.standard_normal((16, 16)).astype(np.float32)
      kernel = np.random.default_rng(99).standard_normal((16, 32)).astype(np.float32)
      weight = rng.uniform(0.5, 2.0, 16).astype(np.float32)
      yield {"x": x, "y": x @ kernel, "weight": weight}
      step += 1
    raise KeyboardInterrupt  # what stops a run from outside


def train(model_dir, *, steps=30, stop_at=None, mesh=(1, 1, 8), microbatches=1, **options):
  optimizer = optimizers.adamw(
    learning_rate=optimizers.warmup_cosine(peak=0.05, warmup_steps=5, total_steps=60, final=0.0),
    b1=0.9,
    b2=0.99,
    weight_decay=0.0,
    clip=100.0,
  )
  return trainer.train(
    config=TrainConfig(
      Regression(noise=options.pop("noise", 0.1)),
      optimizers.averaged(optimizer=optimizer, decay=options.pop("decay", 0.0)),
      MeshShape(1, *mesh),
      microbatches,
      options.pop("seed", 0),
    ),
    train_data=Data(stop_at),
    eval_data=Data(),
    model_dir=str(model_dir),
    steps=trainer.Steps(total=steps, log=10, evaluate=20),
    policy=CheckpointPolicy(period=10, keep=2, keep_period=0, best=""),
    limits=Limits(skipped=5, floors={}),
    logging=trainer.Logging(
      options.pop("wandb_project", ""),
      Window(first=options.pop("profile", 0), count=2),
      options.pop("audition", SampleGeneration(0, "", "", 0.0, 0, ())),
    ),
    **{"initial": {}, "compile_cache": ""} | options,
  )


class Tones:
  """An audition whose two tones are as loud as the kernel that trains."""

  def __init__(self):
    self.heard = []

  def check(self, module):
    assert isinstance(module, Regression)

  def due(self, step):
    return step % 10 == 0

  def __call__(self, module, variables):
    self.heard.append(variables)
    loudness = np.abs(variables["params"]["kernel"]).mean()
    return loudness * np.sin(np.arange(2 * 800).reshape(2, 800) / 8), 8000


def test_music_is_written_while_it_trains(tmp_path):
  tones = Tones()
  train(tmp_path, noise=0.0, audition=tones)
  names = [f"{step:06}_{index:02}.wav" for step in (10, 20, 30) for index in (0, 1)]
  assert sorted(path.name for path in (tmp_path / "audition").iterdir()) == names
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(tones.heard))
  allclose(tones.heard[-1], weights(tmp_path), rtol=0)  # which are those after the last step
  events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
  assert events.count(b"audition/01") == 3


METRICS = {"loss": (8.0, 8.0), "chance": (16.0, 8.0), "skipped": (0.0, 1.0)}


def metrics(model_dir, split):
  rows = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
  return [row for row in rows if row["split"] == split]


def weights(model_dir):
  return part_files.read_weights(str(model_dir))


def allclose(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_it_learns_and_leaves_a_part(tmp_path):
  final = train(tmp_path, noise=0.0, steps=60)
  assert final["loss"] < 0.2 * final["chance"]
  assert set(weights(tmp_path)) == {"params", "statistics"}
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [r["step"] for r in rows if r["split"] == "eval"] == [20, 40, 60]
  losses = [r["loss"] for r in rows if r["split"] == "train"]
  assert len(losses) == 6 and losses[-1] < losses[0]
  assert all(math.isfinite(v) for r in rows for v in r.values() if isinstance(v, float))


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
  train(tmp_path / "whole")
  for stop in (13, 24):  # off the checkpoints, which are at 10 and 20
    with contextlib.suppress(KeyboardInterrupt):
      train(tmp_path / "parts", stop_at=stop)
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
  train(tmp_path / "parts")
  jax.tree.map(
    np.testing.assert_array_equal, weights(tmp_path / "whole"), weights(tmp_path / "parts")
  )


def test_a_finished_run_is_left_as_it_is(tmp_path):
  train(tmp_path)
  before = (tmp_path / "weights.safetensors").read_bytes()
  train(tmp_path, stop_at=30)
  assert (tmp_path / "weights.safetensors").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2), (2, 4, 1)])
def test_the_mesh_changes_nothing(tmp_path, mesh):
  train(tmp_path / "one", mesh=(1, 1, 8))
  train(tmp_path / "other", mesh=mesh)
  allclose(weights(tmp_path / "one"), weights(tmp_path / "other"), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_microbatches_equal_one_batch(tmp_path):
  # without noise: rows then see no random number that depends on their part
  train(tmp_path / "one", noise=0.0)
  train(tmp_path / "four", noise=0.0, microbatches=4)
  allclose(weights(tmp_path / "one"), weights(tmp_path / "four"), rtol=1e-4, atol=1e-5)


def test_rows_that_belong_together_are_in_one_microbatch():
  rows = jnp.arange(12)
  assert microbatches(3, 1, rows).tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
  assert microbatches(3, 2, rows).tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
  made = program("tiny/melody", 8)
  with pytest.raises(ValueError, match="into 4 microbatches, each a multiple of 2, on 2 devices"):
    dataclasses.replace(program("tiny/melody", 8, mesh=(2, 1, 1)), num_microbatches=4)
  rng = np.random.default_rng(0)
  waveform = rng.uniform(-0.5, 0.5, made.shapes["waveform"].shape).astype(np.float32)
  batch = {"waveform": waveform, "melody": np.repeat(np.arange(4, dtype=np.int32), 2)}
  made = dataclasses.replace(made, num_microbatches=2)
  _, metrics = made.step(made.init(), batch)
  assert float(metrics["loss"][1]) == 8  # every row has met its partner


@pytest.mark.slow
def test_another_seed_gives_other_weights(tmp_path):
  train(tmp_path / "a", steps=5)
  train(tmp_path / "b", steps=5, seed=1)
  kernels = [weights(tmp_path / name)["params"]["kernel"] for name in "ab"]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_another_configuration_in_the_same_directory_is_refused(tmp_path):
  train(tmp_path, steps=5)
  with pytest.raises(ValueError, match='another configuration.*"noise"'):
    train(tmp_path, steps=5, noise=0.5)


@pytest.mark.parametrize("mesh", [(1, 1, 8), (8, 1, 1)])
def test_a_run_starts_from_the_weights_of_another(tmp_path, capsys, monkeypatch, mesh):
  monkeypatch.setattr(descriptions, "_PACKAGE", "tests")  # where this model comes from
  train(tmp_path / "first")
  train(tmp_path / "second", steps=0, seed=5, initial={"": str(tmp_path / "first")}, mesh=mesh)
  first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
  jax.tree.map(np.testing.assert_array_equal, first, second)
  assert "the model starts from" in capsys.readouterr().err
  origin = json.loads((tmp_path / "second" / "model.json").read_text())["provenance"]["initial"]
  assert origin == {"": {"part": part_files.fingerprint(tmp_path / "first")}}


def test_a_part_of_another_shape_is_no_start(tmp_path, monkeypatch):
  monkeypatch.setattr(descriptions, "_PACKAGE", "tests")
  train(tmp_path / "first", steps=1)
  path = tmp_path / "first"
  part_files.write_weights(path, {"params": {"other": np.zeros((3,), np.float32)}})
  with pytest.raises(ValueError, match="part lacks params/kernel.*part has params/other"):
    train(tmp_path / "second", initial={"": str(path)})
  with pytest.raises(ValueError, match="nowhere: model.json is missing"):
    train(tmp_path / "third", initial={"": str(tmp_path / "nowhere")})


def test_moments_are_sharded_like_their_parameters():
  from musiclm_jax.partitioning import make_mesh

  optimizer = optimizers.branches(
    main=optimizers.adamw(learning_rate=0.1, b1=0.9, b2=0.9, weight_decay=0.0, clip=1.0),
    discriminators=optimizers.adafactor(learning_rate=0.1, decay_rate=0.8, clip=1.0),
  )
  batch = next(Data().batches(0))
  boxed = jax.eval_shape(lambda b: init_state(Regression(noise=0.0), optimizer, b, 0), batch)
  mesh = make_mesh(MeshShape(1, 2, 2, 2))
  found = state_shardings(boxed, mesh)
  kernel = found.params["kernel"].spec
  assert tuple(kernel) == ("fsdp", "tensor")
  moments = [s for s in jax.tree.leaves(found.opt_state) if tuple(s.spec) == tuple(kernel)]
  assert len(moments) == 2  # Adam's two; the discriminators' branch has no parameters here


def poison(monkeypatch, steps):
  """Makes the batches of these steps, counted from 1, hold what is not a number."""
  clean = Data.batches

  def batches(self, first_step, rows=None):
    for step, batch in enumerate(clean(self, first_step), first_step + 1):
      yield {**batch, "x": batch["x"] * (np.nan if step in steps else 1)}

  monkeypatch.setattr(Data, "batches", batches)


def test_a_step_that_is_not_finite_is_skipped_and_named(tmp_path, monkeypatch):
  monkeypatch.setattr(trainer, "evaluate", lambda *_, **__: {"loss": 0.0, "chance": 1.0})
  poison(monkeypatch, {3, 4, 7})
  train(tmp_path / "a", steps=7)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(weights(tmp_path / "a")))
  lines = (tmp_path / "a" / "skipped.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [{"step": s, "records": [s]} for s in (3, 4, 7)]
  (row,) = metrics(tmp_path / "a", "train")
  assert row["skipped"] == pytest.approx(3 / 7) and math.isfinite(row["loss"])
  train(tmp_path / "b", steps=6)  # the seventh changed nothing
  jax.tree.map(np.testing.assert_array_equal, weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path, monkeypatch):
  poison(monkeypatch, {1, 2, 3, 4, *range(6, 99)})
  with pytest.raises(ValueError, match="step 10: .* not finite in 5 steps in a row.*skipped.jsonl"):
    train(tmp_path)
  assert not pathlib.Path(tmp_path, "weights.safetensors").exists()


def test_a_metric_under_its_floor_ends_the_run(tmp_path):
  means = {"loss": 1.0, "perplexity_0": 1.2, "skipped": 0.0}

  def check(means, name, floor):
    limits = Limits(5, {name: (floor, "the codebook has collapsed")})
    Health(limits, str(tmp_path), None).check(7, means)

  check(means, "perplexity_0", 1.1)
  with pytest.raises(ValueError, match="^step 7: the codebook has collapsed: perplexity_0 is 1.2"):
    check(means, "perplexity_0", 2.0)
  with pytest.raises(ValueError, match="'perplexity', which is no metric; there are .*_0"):
    check(means, "perplexity", 2.0)
  check({"skipped": 1.0}, "perplexity_0", 2.0)  # nothing was measured


def test_the_average_of_the_parameters_is_what_is_left(tmp_path):
  train(tmp_path / "plain", steps=12, noise=0.0)
  train(tmp_path / "averaged", steps=12, noise=0.0, decay=0.9)
  plain, averaged = weights(tmp_path / "plain"), weights(tmp_path / "averaged")
  assert np.abs(plain["params"]["kernel"] - averaged["params"]["kernel"]).max() > 1e-2
  with contextlib.suppress(KeyboardInterrupt):
    train(tmp_path / "parts", steps=12, noise=0.0, decay=0.9, stop_at=11)
  train(tmp_path / "parts", steps=12, noise=0.0, decay=0.9)
  jax.tree.map(np.testing.assert_array_equal, averaged, weights(tmp_path / "parts"))


def test_a_checkpoint_becomes_a_part(tmp_path, capsys):
  train(tmp_path / "run", steps=12, decay=0.9)
  words = ["checkpoint", "part", str(tmp_path / "run")]
  assert main.main([*words, f"--out={tmp_path / 'newest'}"]) == 0
  found, wanted = weights(tmp_path / "newest"), weights(tmp_path / "run")
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert main.main([*words, "--step=10", f"--out={tmp_path / 'tenth'}"]) == 0
  tenth = weights(tmp_path / "tenth")["params"]["kernel"]
  assert np.abs(tenth - wanted["params"]["kernel"]).max() > 1e-3
  texts = [(tmp_path / name / "model.json").read_text() for name in ("run", "newest", "tenth")]
  assert len(set(texts)) == 1
  capsys.readouterr()
  assert main.main([*words, "--step=11", f"--out={tmp_path / 'none'}"]) == 1
  assert "no checkpoint of step 11; there are [10, 12]" in capsys.readouterr().err
  assert main.main(words) == 1 and "--out=DIR is wanted" in capsys.readouterr().err
  for where in ("tenth", "run"):
    assert main.main([*words, f"--out={tmp_path / where}"]) == 1
    assert f"{where}: a model is here already" in capsys.readouterr().err
  assert main.main(["checkpoint", "verify", str(tmp_path / "run"), "--step=10"]) == 0
  (line,) = capsys.readouterr().out.splitlines()
  assert line.split()[0] == "10" and line.endswith("verified")


def test_a_refused_start_leaves_the_configuration(tmp_path):
  train(tmp_path, steps=10, config_text="first")
  with pytest.raises(ValueError, match="this run lacks|checkpoint lacks"):
    train(tmp_path, steps=20, config_text="second", decay=0.9)  # another tree of moments
  assert (tmp_path / "config.gin").read_text() == "first"


def test_sigterm_saves_and_ends_with_exit_code_0(tmp_path, monkeypatch, capsys):
  clean = Data.batches

  def batches(self, first_step, rows=None):
    for step, batch in enumerate(clean(self, first_step), first_step):
      if step == 13:
        signal.raise_signal(signal.SIGTERM)
      yield batch

  train(tmp_path / "whole", steps=20)
  with monkeypatch.context() as patched:
    patched.setattr(Data, "batches", batches)
    with pytest.raises(SystemExit) as ended:
      train(tmp_path / "parts", steps=20)
  assert ended.value.code == 0 and "saved: the same command continues" in capsys.readouterr().err
  assert [line["step"] for line in metrics(tmp_path / "parts", "train")] == [10, 14]
  train(tmp_path / "parts", steps=20)
  assert metrics(tmp_path / "parts", "train")[-1]["step"] == 20
  jax.tree.map(
    np.testing.assert_array_equal, weights(tmp_path / "whole"), weights(tmp_path / "parts")
  )


def test_rows_that_do_not_divide_are_refused(tmp_path):
  with pytest.raises(ValueError, match="batch_size: 16 rows do not divide into 3 microbatches"):
    train(tmp_path, microbatches=3)
  with pytest.raises(ValueError, match="into 4 microbatches on 8 devices of slices, data and fsdp"):
    train(tmp_path, microbatches=4, mesh=(8, 1, 1))


def logged(tmp_path, first_step=1):
  rates = progress.Rates(flops=10**12, peak=10**13)
  return progress.Progress(str(tmp_path), first_step, 10, rates, wandb_project="")


def test_progress_says_when_a_run_does_not_learn(tmp_path, capsys):
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


def test_what_is_done_beside_the_steps_is_in_no_rate(tmp_path, monkeypatch):
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


def test_half_a_line_of_a_kill_is_dropped_and_said(tmp_path, capsys):
  path = tmp_path / "metrics.jsonl"
  whole = '{"step": 2, "split": "train", "time": 5.0, "seconds": 3.0, "goodput": 0.5}\n'
  path.write_text(whole + '{"step": 4, "spl')
  with logged(tmp_path, first_step=3) as log:
    log.evaluation(3, {"loss": 1.0, "chance": 2.0})
  assert "dropped the half line at its end" in capsys.readouterr().err
  lines = path.read_text().splitlines(keepends=True)
  assert lines[0] == whole and json.loads(lines[1])["step"] == 3 and len(lines) == 2
  path.write_text("{\n" + whole)
  with pytest.raises(ValueError, match="metrics.jsonl:1: no JSON"):
    logged(tmp_path)


def test_durations():
  assert [progress.duration(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


@pytest.mark.parametrize("fsdp, said", [(2, ""), (8, "mesh: fsdp=8 splits no array")])
def test_a_mesh_that_splits_nothing_is_said(fsdp, said, capsys):
  mesh = MeshShape(1, -1, fsdp, 1)
  optimizer = optimizers.adamw(learning_rate=0.1, b1=0.9, b2=0.9, weight_decay=0.0, clip=1.0)
  config = TrainConfig(Regression(noise=0.0), optimizer, mesh, 1, seed=0)
  assert config.program(Data.shapes).shardings
  err = capsys.readouterr().err
  assert err.startswith(said) and bool(err) == bool(said)


@pytest.mark.slow
def test_steps_are_profiled_by_number_and_by_signal(tmp_path, monkeypatch):
  clean, asked = Data.batches, []

  def batches(self, first_step, rows=None):
    for step, batch in enumerate(clean(self, first_step), first_step + 1):
      if step in asked:
        signal.raise_signal(signal.SIGUSR1)
      yield batch

  monkeypatch.setattr(Data, "batches", batches)
  traced = []
  monkeypatch.setattr(jax.profiler, "start_trace", lambda where: traced.append(where))
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: traced.append("end"))
  train(tmp_path / "a", steps=6, profile=3)
  assert traced == [str(tmp_path / "a" / "profile"), "end"]
  asked, traced[:] = [2, 5], []
  train(tmp_path / "b", steps=6)
  assert traced == [str(tmp_path / "b" / "profile"), "end"] * 2


@pytest.mark.slow
def test_a_profile_is_one_that_tensorboard_reads(tmp_path):
  train(tmp_path, steps=4, profile=2)
  assert list((tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb"))


def test_metrics_reach_wandb(tmp_path, monkeypatch):
  told = []

  class Wandb:
    def init(self, **options):
      told.append(options)
      return self

    def log(self, values, step):
      told.append((step, set(values)))

    def finish(self):
      told.append("finish")

  monkeypatch.setitem(sys.modules, "wandb", Wandb())
  train(tmp_path / "run", steps=10, wandb_project="music", config_text="STEPS = 10")
  options, (step, names), (_, held_out), end = told
  assert options["project"] == "music" and options["name"] == "run"
  assert options["resume"] == "allow" and options["config"] == {"gin": "STEPS = 10"}
  assert step == 10 and "train/loss" in names and "eval/loss" in held_out and end == "finish"
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(ValueError, match="pip install wandb first"):
    train(tmp_path / "other", steps=10, wandb_project="music")


@pytest.mark.slow
def test_compiled_programs_are_kept_for_the_next_start(tmp_path, monkeypatch):
  monkeypatch.setattr(jax.config, "update", lambda name, value: kept.append((name, value)))
  kept = []
  train(tmp_path / "a", steps=6, compile_cache="there")
  assert kept == [("jax_compilation_cache_dir", "there")]
