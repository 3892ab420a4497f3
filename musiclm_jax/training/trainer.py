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
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from musiclm_jax import part_files, partitioning, storage
from musiclm_jax.ranges import NonNegativeInt, PositiveInt
from musiclm_jax.training import disk, flops, hardware, preflight
from musiclm_jax.training.checkpoints import CheckpointPolicy, Checkpoints
from musiclm_jax.training.preemption import PreemptionHandler
from musiclm_jax.training.progress import Progress, Rates, due, means
from musiclm_jax.training.protocols import Data, Hook, HookSettings, Run
from musiclm_jax.training.step import Program, TrainConfig, TrainState


@dataclasses.dataclass(frozen=True)
class Logging:
  """A run logs its metrics every `period` steps (0: only at its end) to metrics.jsonl and
  TensorBoard files, and to a W&B project ("": none).
  """

  period: NonNegativeInt
  wandb_project: str


@dataclasses.dataclass(frozen=True)
class Steps:
  """How many steps a run has, and every how many it evaluates (0: only at its end)."""

  total: PositiveInt
  evaluate: NonNegativeInt


def evaluate(program: Program, variables, data: Data) -> dict[str, float]:
  """Mean metrics over one pass of `data`, which is the same at every call."""
  total = {}
  with contextlib.closing(data.batches(0, program.own_rows)) as batches:
    for batch in itertools.islice(batches, data.num_batches):
      metrics = program.eval_step(variables, program.put(batch))
      total = jax.tree.map(jnp.add, total, metrics) if total else metrics
  return means(total)


def train(
  *,
  config: TrainConfig,
  train_data: Data,
  eval_data: Data,
  model_dir: str,
  steps: Steps,
  policy: CheckpointPolicy,
  logging: Logging,
  hooks: tuple[HookSettings, ...],
  initial: dict[str, str],
  compile_cache: str,
  config_text: str = "",
) -> dict[str, float]:
  """Trains to `steps.total` and leaves a part in `model_dir`; returns the last evaluation.

  Continues from the newest checkpoint if there is one; else from random values, but for what
  `initial`, {path among the parameters: directory of a part}, names: an empty directory names
  nothing, the path "" the whole model. `hooks` are called after each step (`protocols.Hook`).
  Compiled programs are kept in the folder `compile_cache` for the next start, if it names one. At
  SIGTERM it saves and ends the process with exit code 0. Raises ValueError where model_dir belongs
  to another configuration, where its checkpoint or a part has another tree, and where a hook ends
  the run; OSError where a disk is full. That no other run uses model_dir is up to the caller
  (`lock.exclusive`), as `musiclm train` does.
  """
  if compile_cache:
    jax.config.update("jax_compilation_cache_dir", compile_cache)
  program = config.program(train_data.shapes)
  initial = {path: directory for path, directory in initial.items() if directory}
  provenance = train_data.provenance | part_files.origins(initial)
  data = f"{train_data.fingerprint}, {eval_data.fingerprint} held out"
  preflight.agree({"configuration": storage.digest(config_text), "data": data})
  with disk.errors(model_dir):
    if jax.process_index() == 0:
      part_files.describe_run(model_dir, config.model, provenance)
    checkpoints = Checkpoints(model_dir, policy, config_text)
    with (
      partitioning.use(program.mesh),
      contextlib.closing(checkpoints),
      PreemptionHandler() as preemption,
    ):
      state = checkpoints.restore(program.state) or _start(program, initial)
      if jax.process_index() == 0:
        storage.write_text(pathlib.Path(model_dir, "config.gin"), config_text)
      first, rates = int(state.step) + 1, Rates(flops.model_flops(program), _peak(program))
      held_out = functools.partial(evaluate, program, data=eval_data)
      with Progress(model_dir, first, steps.total, rates, logging.wandb_project) as progress:
        run = Run(program, train_data, model_dir, first, steps.total, progress)
        periods = logging.period, steps.evaluate
        state = _loop(run, state, hooks, held_out, checkpoints, preemption, *periods)
        final = held_out(state.variables)
        progress.evaluation(steps.total, final)
      checkpoints.save(steps.total, state, final)
    variables = partitioning.to_host(state.variables)
    if jax.process_index() == 0:
      part_files.write_weights(model_dir, variables)
  return final


def _loop(
  run: Run,
  state: TrainState,
  hooks: tuple[HookSettings, ...],
  held_out: Callable[[dict], dict[str, float]],
  checkpoints: Checkpoints,
  preemption: PreemptionHandler,
  log_period: int,
  eval_period: int,
) -> TrainState:
  """The state after the last step, each step taken on the next of the global batches."""
  program, progress, first, last = run.program, run.progress, run.first_step, run.total_steps
  with (
    _started(hooks, run) as hooks,
    contextlib.closing(run.data.batches(first - 1, program.own_rows)) as batches,
  ):
    for step in range(first, last + 1):
      asked = time.perf_counter()
      batch = program.put(next(batches))
      began = time.perf_counter()
      state, metrics = program.step(state, batch)
      if step == first:
        progress.compiled(time.perf_counter() - began)
      progress.step(metrics, rows=program.rows, waited=began - asked)
      stops = preemption.should_stop(step)
      if due(step, log_period) or step == last or stops:
        progress.flush(step)
      for hook in hooks:
        hook(step, state, metrics)
      found = None
      if due(step, eval_period) and step < last:
        with progress.excluded_from_timing(state):
          found = held_out(state.variables)
        progress.evaluation(step, found)
      if (due(step, checkpoints.policy.period) and step < last) or stops:
        checkpoints.save(step, state, found)
      if stops:
        checkpoints.close()
        progress.line(
          f"ended by SIGTERM at step {step}, which is saved: the same command continues"
        )
        raise SystemExit(0)
  return state


@contextlib.contextmanager
def _started(settings: tuple[HookSettings, ...], run: Run) -> Iterator[list[Hook]]:
  """The hooks of a run, each until after the last step."""
  with contextlib.ExitStack() as stack:
    yield [stack.enter_context(each.start(run)) for each in settings]


def _start(program: Program, initial: dict[str, str]) -> TrainState:
  """The state of step 0, with the values of the parts that `initial` names."""
  state = program.init()
  if not initial:
    return state
  variables = part_files.load_initial_weights(
    {"params": state.params, **state.collections}, initial
  )

  def put(x, sharding):
    return jnp.asarray(x) if sharding is None else jax.device_put(x, sharding)

  where = {"params": program.shardings.params, **program.shardings.collections}
  collections = jax.tree.map(put, variables, where)
  params = collections.pop("params")
  opt_state = jax.jit(program.optimizer.init, out_shardings=program.shardings.opt_state)(params)
  return state.replace(params=params, collections=collections, opt_state=opt_state)


def _peak(program: Program) -> float | None:
  """The operations per second that all devices can do together, None where that is unknown."""
  devices = program.mesh.devices.ravel()
  chip = hardware.chip(devices[0].device_kind)
  return chip.flops * len(devices) if chip else None
