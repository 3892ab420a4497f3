"""Prints as JSON how fast tokenizers are: hours of audio per hour on one core.

python benchmarks/extract.py PART[@SECONDS] ... [--layer=0] [--clips=8]: every PART, a finished or
imported model directory, encodes the same noise at its own sample rate, as in `musiclm extract`;
codecs also decode. Clips are 10 s long, or SECONDS, the windows that a part reads. Compilation is
not counted. The number of cores is that which the process may use.
"""

import argparse
import json
import os
import pathlib
import sys
import time

import jax
import numpy as np

from musiclm_jax.tokenizers import frozen, protocols

_SECONDS = 10.0


def measure(part: str, layer: int, clips: int) -> dict[str, float | str]:
  """{part, seconds, method, hours_per_core_hour}; for codecs also decoded_hours_per_core_hour."""
  directory, _, seconds = part.partition("@")
  seconds = float(seconds or _SECONDS)
  part = frozen.load(directory)
  method = next(iter(part.module.methods))
  static = {"layer": layer} if isinstance(part.module, protocols.FrameEncoder) else {}
  rate = part.module.sample_rate
  rng = np.random.default_rng(0)
  waveform = rng.normal(0, 0.1, (clips, round(seconds * rate))).astype(np.float32)
  codes, speed = timed(lambda: part(method, waveform, **static), clips * seconds)
  name = pathlib.Path(directory).name
  result = {"part": name, "seconds": seconds, "method": method, "hours_per_core_hour": speed}
  if "decode" in part.module.methods:
    _, result["decoded_hours_per_core_hour"] = timed(
      lambda: part("decode", np.asarray(codes)), clips * seconds
    )
  return result


def timed(run, audio_seconds: float) -> tuple[object, float]:
  """(result, seconds of audio per second and core): the best of three runs after a first one."""
  result = jax.block_until_ready(run())
  times = []
  for _ in range(3):
    begin = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - begin)
  return result, round(audio_seconds / min(times) / len(os.sched_getaffinity(0)), 1)


def main() -> None:
  """Measures every part and prints the results."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("parts", nargs="+")
  parser.add_argument("--layer", type=int, default=0)
  parser.add_argument("--clips", type=int, default=8)
  options = parser.parse_args()
  rows = []
  for part in options.parts:
    rows.append(measure(part, options.layer, options.clips))
    print(rows[-1], file=sys.stderr)
  print(json.dumps({"cores": len(os.sched_getaffinity(0)), "parts": rows}, indent=1))


if __name__ == "__main__":
  main()
