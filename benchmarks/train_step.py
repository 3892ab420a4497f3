"""Prints the training speed of a decoder and of other implementations on the same machine.

python -m benchmarks.train_step [--json] [--steps=3] [--rounds=2] [--only=ours,...]

The decoder of a stage (6 layers, 8 heads, d 512, gated feed-forward 2048, vocabulary 1024, 8
sequences of 512 tokens, float32, dropout 0.1, T5's relative bias, Adafactor) by this package, and
by PyTorch with and without torch.compile (the extra [hf]), and by T5X where it is installed (it is
not on PyPI; its attention weights have dropout too). Each runs in a process of its own, one after
another, in rounds; its best round counts, without compilation. `matrix_product` is this machine's
rate for one float32 product of 4096 x 4096, in GFLOP/s, `of_matrix_product` the share of it that
the products of an implementation reach.
"""

import argparse
import importlib.util
import json
import sys
import time

import numpy as np

from benchmarks.alone import needed

BATCH, LENGTH = 8, 512
SIZE = dict(
  vocab_size=1024,
  num_layers=6,
  embed_dim=512,
  num_heads=8,
  mlp_dim=2048,
  dropout=0.1,
  buckets=32,
  distance=128,
)


def ours():
  """A function from tokens to the loss of one step of `musiclm train`, on one device."""
  from benchmarks import decoder

  program = decoder.program(
    decoder.plain(LENGTH, SIZE["vocab_size"]),
    batch=BATCH,
    layers=SIZE["num_layers"],
    heads=SIZE["num_heads"],
    embed=SIZE["embed_dim"],
    mlp=SIZE["mlp_dim"],
    dropout=SIZE["dropout"],
  )
  state, stage = program.init(), program.model.stage
  first = program.model.vocabulary.first_id(stage.target)

  def step(tokens) -> float:
    nonlocal state
    state, metrics = program.step(state, decoder.as_batch(stage, tokens + first))
    total, weight = metrics["loss"]
    return float(total / weight)

  return step


def pytorch():
  """As `ours`, in compiled PyTorch."""
  from benchmarks import torch_decoder

  return torch_decoder.trainer(SIZE, compiled=True)


def pytorch_eager():
  """As `ours`, in eager PyTorch."""
  from benchmarks import torch_decoder

  return torch_decoder.trainer(SIZE, compiled=False)


def t5x():
  """As `ours`, in T5X."""
  from benchmarks import t5x_decoder

  return t5x_decoder.train_step(SIZE)


RIVALS = {"ours": ours, "pytorch": pytorch, "pytorch_eager": pytorch_eager, "t5x": t5x}
_NEEDS = {"pytorch": "torch", "pytorch_eager": "torch", "t5x": "t5x"}


def measure(name: str, steps: int) -> dict[str, float]:
  """{tokens_per_second, first and last loss} of an implementation, in this process."""
  step = RIVALS[name]()
  tokens = np.random.default_rng(0).integers(0, SIZE["vocab_size"], (BATCH, LENGTH))
  first = step(tokens)
  step(tokens)  # the second call may still compile something
  began = time.perf_counter()
  for _ in range(steps):
    last = step(tokens)
  rate = steps * BATCH * LENGTH / (time.perf_counter() - began)
  return {"tokens_per_second": rate, "first_loss": first, "last_loss": last}


def matrix_product() -> float:
  """GFLOP/s of a product of two float32 matrices of 4096 x 4096, the best of five."""
  import jax
  import jax.numpy as jnp

  x = jnp.ones((4096, 4096))
  product = jax.jit(lambda x: x @ x)
  times = []
  for _ in range(6):
    began = time.perf_counter()
    product(x).block_until_ready()
    times.append(time.perf_counter() - began)
  return 2 * 4096**3 / min(times[1:]) / 1e9


def flops_per_token() -> float:
  """FLOPs of the matrix products of a step: forward, twice that backward, half for attention."""
  embed, mlp = SIZE["embed_dim"], SIZE["mlp_dim"]
  # the last term, of scores and values, is half of the full one, by causality
  layer = 4 * embed**2 + 3 * embed * mlp + embed * LENGTH
  return 3 * 2 * (SIZE["num_layers"] * layer + embed * SIZE["vocab_size"])


def one(setting: dict) -> dict[str, float]:
  """The measurement of a process that `main` starts: an implementation, or this machine."""
  if "rival" in setting:
    return measure(setting["rival"], setting["steps"])
  return {"gflops": matrix_product()}


def _do(setting: dict) -> dict:
  return needed("benchmarks.train_step", setting, {"JAX_PLATFORMS": "cpu"})


def main() -> None:
  """Measures all implementations in rounds and prints the results."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--steps", type=int, default=3)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--only", default=",".join(RIVALS))
  parser.add_argument("--one", help="for the processes that this one starts")
  options = parser.parse_args()
  if options.one:
    print(json.dumps(one(json.loads(options.one))))
    return
  names = []
  for name in options.only.split(","):
    if name in _NEEDS and importlib.util.find_spec(_NEEDS[name]) is None:
      print(f"{name} is skipped: {_NEEDS[name]} is not installed", file=sys.stderr)
    else:
      names.append(name)
  results: dict[str, list[dict]] = {name: [] for name in names}
  for _ in range(options.rounds):
    for name in names:
      results[name].append(_do({"rival": name, "steps": options.steps}))
      print(name, results[name][-1], file=sys.stderr)
  print(_report(results, _do({})["gflops"], options.json))


def _report(results: dict[str, list[dict]], peak: float, as_json: bool) -> str:
  report: dict = {"matrix_product": round(peak, 1)}
  for name, rounds in results.items():
    best = max(rounds, key=lambda each: each["tokens_per_second"])
    share = best["tokens_per_second"] * flops_per_token() / 1e9 / peak
    report[name] = {key: round(value, 3) for key, value in best.items()}
    report[name]["of_matrix_product"] = round(share, 3)
  for rival in results:
    if rival != "ours" and "ours" in results:
      ratio = report["ours"]["tokens_per_second"] / report[rival]["tokens_per_second"]
      report[f"ratio_to_{rival}"] = round(ratio, 3)
  if as_json:
    return json.dumps(report)
  return "\n".join(f"{name:<24}{value}" for name, value in report.items())


if __name__ == "__main__":
  main()
