"""Prints as JSON how soon and how fast the data pipeline yields batches of the coarse stage.

python -m benchmarks.loader [--records=1000,10000,100000,1000000] [--seconds=0.4,10]
  [--batch=16] [--measure=5] [--gigabytes=3]

For clips of each length, and for each number of records, it writes token shards of random codes
(acoustic [frames, 12], semantic [frames, 1], MuLan embeddings [seconds, 128]) into a temporary
folder and reads them as `musiclm train` does, with nothing else running: the seconds to open them
and from there to the first batch, then rows and tokens per second in steady state. Shards that
would be larger than --gigabytes are skipped. Records are read from the page cache. For comparison,
the rows per second of a training step at the same length, of the decoder of scaling.py with 4
layers and d 256; `ratio` is how many times faster the pipeline is. Each number is measured in a
process of its own.
"""

import argparse
import json
import os
import pathlib
import resource
import sys
import tempfile
import time

from benchmarks.alone import needed

_CODES = 1024
_STEP_TOKENS = 4096  # approximate number per training step


def read(setting: dict) -> dict[str, float]:
  """{open_seconds, first_batch_seconds, rows_per_second, tokens_per_second, peak_megabytes}."""
  from benchmarks import decoder
  from musiclm_jax.training import input_pipeline, orders, token_examples

  stage, vocabulary = decoder.coarse(setting["seconds"], _CODES)
  began = time.perf_counter()
  dataset = input_pipeline.Dataset(
    directory=setting["directory"],
    split="train",
    examples=token_examples.Tokens(stage, vocabulary),
    order=orders.shuffled,
    batch_size=setting["batch"],
    seed=0,
    parts={"mulan_rvq": setting["part"]},
  )
  opened = time.perf_counter()
  batches = dataset.batches(0)
  next(batches)
  first = time.perf_counter()
  _count(batches, 0.4 * setting["measure"])
  rows = setting["batch"] * _count(batches, setting["measure"])
  batches.close()
  return {
    "open_seconds": round(opened - began, 3),
    "first_batch_seconds": round(first - opened, 3),
    "rows_per_second": round(rows, 1),
    "tokens_per_second": round(rows * stage.length, 1),
    "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
  }


def _count(batches, seconds: float) -> float:
  """Batches per second, measured for `seconds`."""
  began, count = time.perf_counter(), 0
  while time.perf_counter() < began + seconds:
    next(batches)
    count += 1
  return count / (time.perf_counter() - began)


def step(setting: dict) -> dict[str, float]:
  """{rows_per_second} of a training step on clips of setting["step"] seconds."""
  from benchmarks import decoder

  tokens = decoder.coarse(setting["step"], _CODES)
  size = dict(layers=4, heads=8, embed=256, mlp=1024, unroll=False)
  rows = max(1, _STEP_TOKENS // tokens[0].length)
  running = decoder.Running(decoder.program(tokens, batch=rows, **size))
  return {"rows_per_second": float(f"{rows / running.seconds(1):.3g}")}


def part(setting: dict) -> dict[str, str]:
  """Writes a MuLan quantizer with random codebooks, which quantizes embeddings to conditions."""
  import numpy as np

  from benchmarks import shards
  from musiclm_jax import part_files
  from musiclm_jax.tokenizers import quantizer

  levels = quantizer.ResidualQuantizer(12, _CODES, shards.MULAN_DIM, 0.99, 2.0, None, 50, False)
  module = quantizer.EmbeddingQuantizer(levels, standardise=False)
  directory, shape = setting["part"], (12, _CODES, shards.MULAN_DIM)
  vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  part_files.describe_run(directory, module, {"sources": {}, "parts": {}})
  part_files.write_weights(directory, {"codebooks": {"quantizer": {"vectors": vectors}}})
  return setting


def write(setting: dict) -> dict[str, float]:
  """Writes shards; returns {gigabytes, write_seconds}."""
  from benchmarks import shards

  began = time.perf_counter()
  columns = shards.all_sources(setting["seconds"], _CODES)
  shards.write(setting["write"], columns, {"train": setting["records"]})
  written = sum(path.stat().st_size for path in pathlib.Path(setting["write"]).iterdir())
  return {"gigabytes": written / 1e9, "write_seconds": round(time.perf_counter() - began, 1)}


def one(setting: dict) -> dict:
  """The job of a process that `main` starts: the first one that the setting names."""
  jobs = {"write": write, "directory": read, "step": step, "part": part}
  return next(job for name, job in jobs.items() if name in setting)(setting)


def run(options, folder: str) -> list[dict]:
  """The results of every length with every number of records, in order."""
  rows, part_dir = [], f"{folder}/mulan_rvq"
  _do({"part": part_dir})
  for seconds in map(float, options.seconds.split(",")):
    wanted = _do({"step": seconds})["rows_per_second"]
    record_bytes = 0.0
    for records in map(int, options.records.split(",")):
      row = {"seconds": seconds, "records": records}
      if record_bytes * records > options.gigabytes * 1e9:
        print(f"{row} skipped: more than --gigabytes={options.gigabytes}", file=sys.stderr)
        continue
      with tempfile.TemporaryDirectory(dir=folder) as scratch:
        directory = f"{scratch}/tokens"
        row |= _do({"write": directory, **row})
        record_bytes = row["gigabytes"] * 1e9 / records
        settings = dict(seconds=seconds, batch=options.batch, measure=options.measure)
        row |= _do({"directory": directory, "part": part_dir, **settings})
      row["step_rows_per_second"] = wanted
      row["ratio"] = round(row["rows_per_second"] / wanted, 1)
      row["gigabytes"] = round(row["gigabytes"], 4)
      print(row, file=sys.stderr)
      rows.append(row)
  return rows


def _do(setting: dict) -> dict:
  return needed("benchmarks.loader", setting, {"JAX_PLATFORMS": "cpu"})


def main() -> None:
  """Measures everything and prints the results."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--records", default="1000,10000,100000,1000000")
  parser.add_argument("--seconds", default="0.4,10")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--measure", type=float, default=5.0)
  parser.add_argument("--gigabytes", type=float, default=3.0)
  parser.add_argument("--one", help="for the processes that this one starts")
  options = parser.parse_args()
  if options.one:
    print(json.dumps(one(json.loads(options.one))))
    return
  with tempfile.TemporaryDirectory() as folder:
    rows = run(options, folder)
  print(json.dumps({"cores": len(os.sched_getaffinity(0)), "batch": options.batch, "rows": rows}))


if __name__ == "__main__":
  main()
