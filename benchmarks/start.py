"""Prints as JSON how long a training takes to start, and what its checkpoints cost.

python -m benchmarks.start [--parts=start,checkpoints] [--run=tiny/fine] [--rounds=2]
  [--steps=41] [--every=10] [--period=100]

start: seconds from `musiclm train tiny/fine`, on token shards written before, to the end of the
first step, with an empty --compile_cache (cold), then with the cache it has filled (warm); the best
of the rounds. `import` ends when the run is described on disk (Python, imports, configuration, data
opened), `begin` at the first step (optimizer, initial values, first batch); `compile` and `step`
are the first step's. --run=demo/fine is the larger model.
checkpoints: a decoder of 25.7M parameters (6 layers, d 512, Adafactor; 2 x 256 tokens) trains
--steps steps, once saving every --every steps and once never. `blocked_seconds` is how much longer
the step after a save takes than the median step, `save_seconds` the whole cost of a save, including
writing in the background, and `percent_at_period` its share of --period steps. Each run is a
process of its own.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.alone import needed

_CODES = {"tiny/fine": 32, "demo/fine": 256}  # gin/{tiny,demo}/token_lm.gin
_NEVER = 10**9


def lines(model_dir: str) -> list[dict]:
  """The lines of metrics.jsonl for training steps."""
  rows = pathlib.Path(model_dir, "metrics.jsonl").read_text().splitlines()
  return [row for row in map(json.loads, rows) if row["split"] == "train"]


def first_step(run: str, folder: str, model_dir: str, cache: str) -> dict[str, float]:
  """Seconds of {all, import, begin, compile, step} of one start."""
  options = dict(data_dir=f"{folder}/tokens", model_dir=model_dir, compile_cache=cache)
  options |= dict(total_steps=2, log_period=1)
  flags = [f"--{name}={value}" for name, value in options.items()]
  command = [sys.executable, "-m", "musiclm_jax", "train", run, *flags]
  began = time.time()
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")
  described = pathlib.Path(model_dir, "model.json").stat().st_mtime
  first = lines(model_dir)[0]
  computed = first["compile_seconds"] + first["seconds"]
  seconds = {
    "all": first["time"] - began,
    "import": described - began,
    "begin": first["time"] - computed - described,
    "compile": first["compile_seconds"],
    "step": first["seconds"],
  }
  return {name: round(value, 2) for name, value in seconds.items()}


def start(run: str, rounds: int) -> dict[str, dict]:
  """{cold, warm: `first_step`}, each the best of the rounds."""
  found: dict[str, list] = {"cold": [], "warm": []}
  with tempfile.TemporaryDirectory() as folder:
    shards = {"shards": f"{folder}/tokens", "codes": _CODES[run]}
    needed("benchmarks.start", shards, {"JAX_PLATFORMS": "cpu"})
    for index in range(rounds):
      for name, results in found.items():
        model_dir, cache = f"{folder}/{name}_{index}", f"{folder}/cache_{index}"
        results.append(first_step(run, folder, model_dir, cache))
        print(name, results[-1], file=sys.stderr)
  return {name: min(results, key=lambda each: each["all"]) for name, results in found.items()}


def write_shards(setting: dict) -> dict:
  """Token shards for the fine stage."""
  from benchmarks import shards

  columns = shards.acoustic(4.0, setting["codes"])
  shards.write(setting["shards"], columns, {"train": 64, "validation": 16})
  return setting


class Data:
  """Data for trainer.train: the same batch every time."""

  num_batches, fingerprint = 1, ""
  provenance = {"sources": {}, "parts": {}}

  def __init__(self, shapes, batch):
    self.shapes, self._batch = shapes, batch

  def records_of(self, step: int) -> list[int]:
    """The record of a step."""
    return [step]

  def batches(self, first_step: int, rows):
    """The batch, endlessly."""
    while True:
      yield self._batch


def train(setting: dict) -> dict:
  """Trains with periodic saves; returns {parameters, gigabytes (of a checkpoint), seconds}."""
  import jax

  from benchmarks import decoder
  from musiclm_jax.partitioning import MeshShape
  from musiclm_jax.training import trainer
  from musiclm_jax.training.checkpoints import CheckpointPolicy
  from musiclm_jax.training.health import Limits
  from musiclm_jax.training.step import TrainConfig

  size = dict(batch=2, layers=6, heads=8, embed=512, mlp=2048)
  program = decoder.program(decoder.plain(256, 1024), **size)
  data = Data(program.shapes, decoder.batch(program))
  with tempfile.TemporaryDirectory() as model_dir:
    trainer.train(
      config=TrainConfig(program.model, program.optimizer, MeshShape(1, 1, 1, 1), 1, 0),
      train_data=data,
      eval_data=data,
      model_dir=model_dir,
      steps=trainer.Steps(total=setting["steps"], evaluate=0),
      policy=CheckpointPolicy(period=setting["every"], keep=2, keep_period=0, best=""),
      logging=trainer.Logging(period=1, wandb_project=""),
      hooks=(Limits(skipped=10, floors={}, period=1),),
      initial={},
      compile_cache="",
    )
    last = pathlib.Path(model_dir, "checkpoints", str(setting["steps"]))
    saved = sum(path.stat().st_size for path in last.rglob("*") if path.is_file())
    return {
      "parameters": sum(x.size for x in jax.tree.leaves(program.state.params)),
      "gigabytes": round(saved / 1e9, 3),
      "seconds": [line["seconds"] for line in lines(model_dir)],
    }


def checkpoints(steps: int, every: int, period: int) -> dict[str, float]:
  """The cost of saving."""
  runs = {}
  for name, saves in (("never", _NEVER), ("saving", every)):
    setting = {"train": True, "steps": steps, "every": saves}
    runs[name] = needed("benchmarks.start", setting, {"JAX_PLATFORMS": "cpu"})
    print(name, runs[name], file=sys.stderr)
  never, saving = runs["never"].pop("seconds")[1:], runs["saving"]["seconds"][1:]
  median = statistics.median(saving)
  # Step k + 1 follows the save of step k and is at index k - 1 of the list.
  after_save = [saving[step - 1] - median for step in range(every, steps, every)]
  save = (sum(saving) - sum(never)) / len(after_save)
  step = statistics.mean(never)
  return {
    **runs["never"],
    "saves": len(after_save),
    "step_seconds_never": round(step, 4),
    "step_seconds_saving": round(statistics.mean(saving), 4),
    "percent_at_every": round(100 * (sum(saving) / sum(never) - 1), 1),
    "blocked_seconds": round(statistics.mean(after_save), 3),
    "save_seconds": round(save, 3),
    "percent_at_period": round(100 * save / (period * step), 2),
  }


def main() -> None:
  """Measures everything and prints the results."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--parts", default="start,checkpoints")
  parser.add_argument("--run", default="tiny/fine", choices=_CODES)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--steps", type=int, default=41)
  parser.add_argument("--every", type=int, default=10)
  parser.add_argument("--period", type=int, default=100)
  parser.add_argument("--one", help="for the processes that this one starts")
  options = parser.parse_args()
  if options.one:
    setting = json.loads(options.one)
    print(json.dumps((write_shards if "shards" in setting else train)(setting)))
    return
  report: dict = {"cores": len(os.sched_getaffinity(0))}
  parts = options.parts.split(",")
  if "start" in parts:
    report["start"] = {"run": options.run, **start(options.run, options.rounds)}
  if "checkpoints" in parts:
    often = dict(steps=options.steps, every=options.every, period=options.period)
    report["checkpoints"] = {**often, **checkpoints(**often)}
  print(json.dumps(report))


if __name__ == "__main__":
  main()
