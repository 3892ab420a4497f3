"""The one trainer: any module that maps a batch to (loss, {name: (sum, weight)}).

A step is one compiled program over the mesh (`step.Program`), and running the same command again
continues where it stopped.
"""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from musiclm_jax import checkpointing, partitioning
from musiclm_jax.lm.audition import SampleGeneration
from musiclm_jax.ranges import NonNegativeInt, PositiveInt
from musiclm_jax.training import flops, hardware, preflight, progress
from musiclm_jax.training.checkpoints import CheckpointPolicy, Checkpoints
from musiclm_jax.training.health import Health, Limits
from musiclm_jax.training.preemption import PreemptionHandler
from musiclm_jax.training.profiling import Profiler, Window
from musiclm_jax.training.step import Program, TrainConfig, TrainState


@dataclasses.dataclass(frozen=True)
class Logging:
  """What a run shows besides metrics.jsonl and TensorBoard files: a W&B project ("": none),
  profiles, and music.
  """

  wandb_project: str
  profile: Window
  audition: SampleGeneration


@dataclasses.dataclass(frozen=True)
class Steps:
  """How many steps a run has, and every how many it logs and evaluates (0: only at the end)."""

  total: PositiveInt
  log: NonNegativeInt
  evaluate: NonNegativeInt


class _Watchers(NamedTuple):
  """What looks at every step; `listen` is called with its number and the variables."""

  profiler: Profiler
  health: Health
  notice: PreemptionHandler
  log: progress.Progress
  listen: Callable[[int, dict], None]


def evaluate(program: Program, variables, data) -> dict[str, float]:
  """Mean metrics over one pass of `data`, which is the same at every call."""
  total = {}
  with contextlib.closing(data.batches(0, program.own_rows)) as batches:
    for batch in itertools.islice(batches, data.num_batches):
      metrics = program.eval_step(variables, program.put(batch))
      total = jax.tree.map(jnp.add, total, metrics) if total else metrics
  return progress.means(total)


def train(
  *,
  config: TrainConfig,
  train_data,
  eval_data,
  model_dir: str,
  steps: Steps,
  policy: CheckpointPolicy,
  limits: Limits,
  logging: Logging,
  initial: dict[str, str],
  compile_cache: str,
  config_text: str = "",
) -> dict[str, float]:
  """Trains to `steps.total` and leaves a part in `model_dir`; gives the last evaluation.

  Continues from the newest checkpoint if there is one; else from random values, but for what
  `initial`, {path among the parameters: directory of a part}, names: an empty directory names
  nothing, the path "" the whole model. Compiled programs are kept in the folder `compile_cache` for
  the next start, if it names one. At SIGTERM it saves and ends the process with exit code 0.
  Raises ValueError where model_dir belongs to another configuration, where its checkpoint or a part
  has another tree, and where training has failed: `health.Limits`.
  """
  if compile_cache:
    jax.config.update("jax_compilation_cache_dir", compile_cache)
  logging.audition.check(config.model)
  program = config.program(train_data.shapes)
  initial = {path: directory for path, directory in initial.items() if directory}
  provenance = train_data.provenance | checkpointing.origins(initial)
  data = f"{train_data.fingerprint}, {eval_data.fingerprint} held out"
  preflight.agree({"configuration": checkpointing.digest(config_text), "data": data})
  if jax.process_index() == 0:
    checkpointing.describe_run(model_dir, config.model, provenance)
  checkpoints = Checkpoints(model_dir, policy, config_text)
  with (
    partitioning.use(program.mesh),
    contextlib.closing(checkpoints),
    PreemptionHandler() as notice,
  ):
    state = checkpoints.restore(program.state) or _start(program, initial)
    if jax.process_index() == 0:
      checkpointing.write_text(pathlib.Path(model_dir, "config.gin"), config_text)
    first = int(state.step) + 1
    health = Health(limits, model_dir, train_data.records_of)
    held_out = functools.partial(evaluate, program, data=eval_data)
    with (
      progress.Progress(
        model_dir, first, steps.total, _rates(program), logging.wandb_project
      ) as log,
      Profiler(logging.profile, model_dir) as profiler,
      contextlib.closing(train_data.batches(first - 1, program.own_rows)) as batches,
    ):
      batches = map(program.put, batches)
      listen = functools.partial(log_samples, program.model, logging.audition, log)
      watchers = _Watchers(profiler, health, notice, log, listen)
      state = _loop(program, state, batches, steps, held_out, checkpoints, watchers)
      final = held_out(state.variables)
      log.evaluation(steps.total, final)
    checkpoints.save(steps.total, state, final)
  variables = jax.tree.map(_whole, state.variables)
  if jax.process_index() == 0:
    checkpointing.write_weights(model_dir, variables)
  return final


def _whole(x: jax.Array):
  """An array with its parts on the devices of all processes."""
  return x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)


def _start(program: Program, initial: dict[str, str]) -> TrainState:
  """The state of step 0, with the values of the parts that `initial` names."""
  state = program.init()
  if not initial:
    return state
  variables = checkpointing.load_initial_weights(
    {"params": state.params, **state.collections}, initial
  )

  def put(x, sharding):
    return jnp.asarray(x) if sharding is None else jax.device_put(x, sharding)

  where = {"params": program.shardings.params, **program.shardings.collections}
  collections = jax.tree.map(put, variables, where)
  params = collections.pop("params")
  opt_state = jax.jit(program.optimizer.init, out_shardings=program.shardings.opt_state)(params)
  return state.replace(params=params, collections=collections, opt_state=opt_state)


def _rates(program: Program) -> progress.Rates:
  """What the speed of the steps is held against."""
  devices = program.mesh.devices.ravel()
  chip = hardware.chip(devices[0].device_kind)
  peak = chip.flops * len(devices) if chip else None
  return progress.Rates(flops.model_flops(program), peak)


def log_samples(
  model, audition: SampleGeneration, log: progress.Progress, step: int, variables
) -> None:
  """Writes the music that is due after a step; process 0 makes it, of the values of all."""
  if not audition.due(step):
    return
  with log.excluded_from_timing(variables):
    whole = jax.tree.map(_whole, variables)
    if jax.process_index() == 0:
      log.music(step, *audition(model, jax.device_get(whole)))


def _loop(program, state, batches, steps, held_out, checkpoints, watchers: _Watchers):
  """The steps from the state's own to the last, each on the next of the global batches."""
  profiler, health, notice, log, listen = watchers
  first = int(state.step) + 1
  for step in range(first, steps.total + 1):
    profiler.before(step)
    waited = time.perf_counter()
    batch = next(batches)
    waited = time.perf_counter() - waited
    began = time.perf_counter()
    state, metrics = program.step(state, batch)
    if step == first:
      log.compiled(time.perf_counter() - began)
    health.observe(step, metrics["skipped"][0])
    log.step(metrics, rows=program.rows, waited=waited)
    if step % steps.log == 0 or step == steps.total:
      health.check(step, log.flush(step))
    found = None
    if steps.evaluate and step % steps.evaluate == 0 and step < steps.total:
      with log.excluded_from_timing(state):
        found = held_out(state.variables)
      log.evaluation(step, found)
    listen(step, state.variables)
    if notice.should_stop(step):
      if step % steps.log and step < steps.total:
        log.flush(step)
      checkpoints.save(step, state, found)
      checkpoints.close()
      log.say(f"ended by SIGTERM at step {step}, which is saved: the same command continues")
      raise SystemExit(0)
    if step % checkpoints.policy.period == 0 and step < steps.total:
      checkpoints.save(step, state, found)
  health.finish()
  return state
