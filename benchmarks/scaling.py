"""Prints as JSON the cost of a training step by size, on this machine's CPU.

python -m benchmarks.scaling [--series=length,batch,depth,devices,memory] [--steps=2] [--rounds=2]

A decoder (4 layers, 8 heads, d 256, gated feed-forward 1024, vocabulary 1024, float32, dropout 0.1,
Adafactor), in tokens per second. Each setting runs in its own process, one after another; the best
of the rounds counts, without compilation.
length: sequences of 256 to 4096 tokens, 4096 tokens a step. batch: 1 to 16 sequences of 256.
depth: 1 to 16 layers, 4 x 256 tokens. devices: 1 to 8 simulated ones, the same 8 x 256 tokens split
by data, fsdp or tensor; they share this machine's cores, so what `relative` lacks to 1 is the cost
of splitting. memory: bytes on each device by remat preset, and the compiler's bound on MFU,
compiled for 4 TPUs (v5e:2x2; needs the extra [compile]): 8 layers, d 512, 64 x 512 tokens,
bfloat16. --tiny runs everything in seconds, as a test.
"""

import argparse
import json
import os
import sys

from benchmarks.alone import alone

# Layers are one loop, unlike in train_step.py, so that compilation takes seconds at every depth.
_SIZE = dict(length=256, batch=4, layers=4, heads=8, embed=256, mlp=1024, unroll=False)
_TINY = dict(length=32, batch=4, layers=2, heads=8, embed=64, mlp=64, unroll=False)
_LARGE = dict(length=512, batch=64, layers=8, heads=8, embed=512, mlp=2048, unroll=False)
_REMATS = ("none", "minimal", "full")
_CODES = 1024


def series(tiny: bool) -> dict[str, list[dict]]:
  """{series: its settings}, each setting as changes to the size."""
  unit = 32 if tiny else 256
  lengths = [unit * 2**i for i in range(5)]
  splits = [{"slices": 1, "data": 1, "fsdp": 1, "tensor": 1}]
  splits += [{**splits[0], axis: n} for axis in ("data", "fsdp", "tensor") for n in (2, 4, 8)]
  large = _TINY if tiny else _LARGE
  memory = {**large, "dtype": "bfloat16"}
  return {
    "length": [{"length": length, "batch": 16 * unit // length} for length in lengths],
    "batch": [{"batch": batch} for batch in (1, 2, 4, 8, 16)],
    "depth": [{"layers": layers} for layers in (1, 2, 4, 8, 16)],
    "devices": [{"batch": 8, "mesh": list(split.values())} for split in splits],
    "memory": [{**memory, "remat": remat, "topology": "v5e:2x2"} for remat in _REMATS],
  }


def speed(setting: dict, steps: int, rounds: int) -> dict[str, float]:
  """`decoder.measure` of a setting, in this process."""
  from benchmarks import decoder

  length = setting.pop("length")
  program = decoder.program(decoder.plain(length, _CODES), **setting)
  return decoder.measure(decoder.Running(program), steps, rounds)


def memory(setting: dict) -> dict[str, float]:
  """{activations, all: bytes per device, mfu_ceiling, compile_seconds} of a setting."""
  from benchmarks import decoder
  from musiclm_jax.training import compile, topologies

  devices = topologies.devices(setting.pop("topology"))
  tokens = decoder.plain(setting.pop("length"), _CODES)
  mesh = (1, len(devices), 1, 1)
  report = compile.describe(decoder.program(tokens, mesh=mesh, devices=devices, **setting))
  return {
    "activations": report["memory"]["activations"],
    "all": report["bytes_per_device"],
    "mfu_ceiling": report["mfu_ceiling"],
    "compile_seconds": report["compile_seconds"],
  }


def one(setting: dict) -> dict[str, float]:
  """The measurement of a process that `run` starts."""
  steps, rounds = setting.pop("steps"), setting.pop("rounds")
  return memory(setting) if "topology" in setting else speed(setting, steps, rounds)


def run(name: str, settings: list[dict], size: dict, often: dict) -> list[dict]:
  """The settings of a series with their results; for devices also the speed relative to one."""
  rows = []
  for setting in settings:
    devices = max(setting.get("mesh", [1]))
    env = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    result = alone("benchmarks.scaling", {**size, **setting, **often}, env)
    rows.append({**setting, **result})
    rate = result.get("tokens_per_second")
    if name == "devices" and rate and "tokens_per_second" in rows[0]:
      rows[-1]["relative"] = round(rate / rows[0]["tokens_per_second"], 3)
    print(name, rows[-1], file=sys.stderr)
  return rows


def main() -> None:
  """Measures the series and prints the results."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--series", default=",".join(series(tiny=False)))
  parser.add_argument("--steps", type=int, default=2)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--tiny", action="store_true")
  parser.add_argument("--one", help="for the processes that this one starts")
  options = parser.parse_args()
  if options.one:
    print(json.dumps(one(json.loads(options.one))))
    return
  known, names = series(options.tiny), options.series.split(",")
  if unknown := set(names) - set(known):
    parser.error(f"--series: wanted some of {','.join(known)}, got {','.join(sorted(unknown))}")
  size = _TINY if options.tiny else _SIZE
  often = {"steps": options.steps, "rounds": options.rounds}
  results = {name: run(name, known[name], size, often) for name in names}
  print(json.dumps({"cores": len(os.sched_getaffinity(0)), "size": size, **results}))


if __name__ == "__main__":
  main()
