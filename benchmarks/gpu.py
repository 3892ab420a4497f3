"""Prints as JSON how fast one GPU trains the coarse stage at paper size, by setting.

bash benchmarks/gpu.sh [--minutes=9] [--only=base,attention=cudnn,...] [--tiny]

24 layers, 16 heads of 64, d 1024, gated feed-forward 4096, T5's relative bias, 8 sequences of 2,262
tokens (12 + 250 conditions, 500 frames of 4 levels of 1,024 codes), dropout 0.1, Adafactor,
bfloat16 with float32 parameters. `base` has attention in blocks of 128 queries, remat=minimal and
the layers as one loop. Each other setting changes the one thing in its name; `together` is `base`
with every change that was faster by itself and does not affect the result. `torch` is the model in
PyTorch: torch.compile, autocast to bfloat16, scaled_dot_product_attention with the bias as mask.
`kernels` are the ten that take most time in a profile of two steps.

Each setting runs in its own process. Compilation is not counted; the best of three rounds counts.
mfu: model FLOPs of `base` (training/flops.py) over the data sheet's dense bfloat16 peak. peak_gb:
the peak of the device's memory. compile_seconds: with kernels that earlier settings have tuned.
The most important settings come first; those for which --minutes leaves no time are skipped. --tiny
runs everything on a CPU at a toy size.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time

from benchmarks.alone import alone

_PAPER = dict(seconds=10.0, codes=1024, batch=8, layers=24, heads=16, embed=1024, mlp=4096)
_TINY = dict(seconds=0.4, codes=32, batch=2, layers=2, heads=2, embed=64, mlp=128)
_BASE = dict(dtype="bfloat16", remat="minimal", unroll=False, dropout=0.1)
_FLAGS = "XLA_FLAGS"
_SETTINGS = (  # (what is changed, its value); names in capitals are environment variables
  ("base", ""),
  ("attention", "cudnn"),
  ("torch", "compiled"),
  ("kernels", "base"),
  ("remat", "none"),
  ("query_block", 512),
  ("JAX_DEFAULT_PRNG_IMPL", "rbg"),
  ("query_block", 1131),  # half of the tokens
  ("dropout", 0.0),
  ("batch", 32),
  ("remat", "full"),
  (_FLAGS, "--xla_gpu_enable_triton_gemm=false"),  # cuBLAS alone
  ("query_block", 256),
  ("optimizer", "adamw"),
  (_FLAGS, "--xla_gpu_enable_command_buffer="),  # no CUDA graphs
  (_FLAGS, "--xla_gpu_triton_gemm_any=true"),
  ("batch", 16),
  (_FLAGS, "--xla_gpu_enable_latency_hiding_scheduler=true"),
  ("unroll", True),
)
_MEANS = ("attention", "query_block", "remat", "unroll", "JAX_DEFAULT_PRNG_IMPL", _FLAGS)
_FASTER = 1.01  # by how much one of these must be faster to become part of `together`
_LONGEST, _SHORTEST = 150.0, 15.0  # seconds for a setting


class Bench:
  """Runs settings while there is time; `rows` are their results."""

  def __init__(self, tiny: bool, minutes: float, cache: str):
    self.rows: list[dict] = []
    self._tiny, self._end = tiny, time.monotonic() + 60 * minutes
    self._size, self._steps = (_TINY, 1) if tiny else (_PAPER, 5)
    self._env = {"JAX_COMPILATION_CACHE_DIR": cache, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
    if tiny:
      self._env["JAX_PLATFORMS"] = "cpu"

  def device(self) -> dict:
    """{device, backend} that the settings run on."""
    return alone("benchmarks.gpu_step", {}, self._env, _LONGEST)

  def run(self, name: str, changes: dict, spare: float = 0.0) -> None:
    """Measures a setting and prints it; skips it where less than `spare` seconds would be left."""
    began = time.monotonic()
    left = self._end - spare - began
    if left < _SHORTEST:
      self._add({"setting": name, "error": "skipped: no time left"})
      return
    env = {key: value for key, value in changes.items() if key.isupper()}
    if _FLAGS in env:
      env[_FLAGS] = f"{os.environ.get(_FLAGS, '')} {env[_FLAGS]}".strip()
    rest = {key: value for key, value in changes.items() if not key.isupper()}
    setting = {key: rest.pop(key) for key in ("torch", "kernels") if key in rest}
    if "torch" in setting:
      setting["torch"] = "cpu" if self._tiny else "cuda"
      env["JAX_PLATFORMS"] = "cpu"
    setting |= {"size": {**_BASE, **self._size, **rest}, "steps": self._steps}
    result = alone("benchmarks.gpu_step", setting, self._env | env, min(left, _LONGEST))
    base = self.rate("base")
    if base and "tokens_per_second" in result:
      result["to_base"] = round(result["tokens_per_second"] / base, 3)
      if "torch" in setting and "mfu" in self.rows[0]:
        result["mfu"] = round(result["to_base"] * self.rows[0]["mfu"], 4)
    self._add({"setting": name, **result, "wall": round(time.monotonic() - began, 1)})

  def rate(self, name: str) -> float:
    """Tokens per second of a setting; 0 where it was not measured."""
    rates = [row.get("tokens_per_second", 0) for row in self.rows if row["setting"] == name]
    return max(rates, default=0)

  def faster(self, settings) -> dict:
    """{what was changed: the fastest value}, of those that were faster than base."""
    best: dict = {}
    for key, value in sorted(settings, key=lambda each: self.rate(_name(*each))):
      if key in _MEANS and self.rate(_name(key, value)) > _FASTER * self.rate("base"):
        best[key] = value
    return best

  def _add(self, row: dict) -> None:
    self.rows.append(row)
    print(json.dumps(row), flush=True)


def _name(key: str, value) -> str:
  return key if key == "base" else f"{key}={value}"


def main() -> None:
  """Measures the settings and prints the results."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--minutes", type=float, default=9.0)
  parser.add_argument("--only", default="", help="names of settings, as printed")
  parser.add_argument("--tiny", action="store_true")
  options = parser.parse_args()
  only = [name for name in options.only.split(",") if name]
  settings = [each for each in _SETTINGS if not only or _name(*each) in only]
  if unknown := set(only) - {_name(*each) for each in settings}:
    parser.error(f"--only: no setting {', '.join(sorted(unknown))}")
  if importlib.util.find_spec("torch") is None:
    print("torch is not installed: its setting is skipped", file=sys.stderr)
    settings = [each for each in settings if each[0] != "torch"]
  with tempfile.TemporaryDirectory() as cache:
    bench = Bench(options.tiny, options.minutes, cache)
    device = bench.device()
    if device.get("backend") != "gpu" and not options.tiny:
      parser.exit(1, f"no GPU found ({device}); --tiny runs the same on a CPU\n")
    for key, value in settings:
      spare = 2.0 * bench.rows[0].get("wall", 0) if bench.rows else 0.0  # for the last two
      bench.run(_name(key, value), {key: value} if key != "base" else {}, spare)
    if better := bench.faster(settings):
      bench.run("together", better)
      bench.run("kernels=together", {**better, "kernels": "together"})
    print(json.dumps({**device, "together": better, "settings": bench.rows}))


if __name__ == "__main__":
  main()
