"""Measures one setting of benchmarks/gpu.py, which starts this in a process of its own.

python -m benchmarks.gpu_step --one=JSON: {} prints the device, {size, steps} the speed of a step,
{size, steps, kernels} its kernels, {size, steps, torch: cuda or cpu} the speed of PyTorch's step.
Needs only jax, flax, optax, orbax and numpy, and torch for the last.
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax

from benchmarks import decoder
from musiclm_jax.training import flops, hardware

_BLOCK = 128  # query block of the attention whose FLOPs count for MFU


def program(size: dict):
  """The step.Program of a size."""
  size = dict(size)
  tokens = decoder.coarse(size.pop("seconds"), size.pop("codes"))
  return decoder.program(tokens, **size)


def speed(size: dict, steps: int) -> dict:
  """`decoder.measure` with mfu and peak_gb where the device reports them."""
  result = decoder.measure(decoder.Running(program(size)), steps, rounds=3)
  device = jax.devices()[0]
  if memory := device.memory_stats():
    result["peak_gb"] = round(memory["peak_bytes_in_use"] / 1e9, 2)
  if chip := hardware.chip(device.device_kind):
    blocks = program({**size, "attention": "blocks", "query_block": _BLOCK})
    rate = flops.model_flops(blocks) / result["seconds_per_step"]
    result["mfu"] = round(rate / chip.flops, 4)
  return result


def kernels(size: dict) -> dict:
  """{kernels: the ten that take most time in two steps, each {name, share, count}, ...}."""
  running, options = decoder.Running(program(size)), jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      running.seconds(2)
    (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
  gpu = jax.default_backend() == "gpu"
  plane, stream = ("/device:GPU", "Stream") if gpu else ("/host:CPU", "tf_XLA")
  lines = [line for each in planes if each.name.startswith(plane) for line in each.lines]
  times: dict[str, list[float]] = {}
  for line in lines:
    if line.name.startswith(stream):
      for event in line.events:
        times.setdefault(event.name, []).append(event.duration_ns)
  if not times:
    raise ValueError(f"no kernels in the profile; its lines are {[line.name for line in lines]}")
  whole = sum(map(sum, times.values()))
  top = sorted(times.items(), key=lambda item: -sum(item[1]))[:10]
  rows = [{"name": k, "share": round(sum(v) / whole, 4), "count": len(v)} for k, v in top]
  return {"kernels": rows, "milliseconds_per_step": round(whole / 2e6, 1)}


def torch_speed(size: dict, steps: int, device: str) -> dict:
  """As `speed`, of PyTorch on "cuda" or "cpu". JAX must be on the CPU, where it makes the batch.

  Raises ValueError where torch finds no GPU.
  """
  import torch

  from benchmarks import torch_decoder

  if device == "cuda" and not torch.cuda.is_available():
    raise ValueError("torch finds no GPU")
  built = program(size)
  stage, vocabulary = built.model.stage, built.model.vocabulary
  shape = dict(
    vocab_size=vocabulary.size,
    num_layers=size["layers"],
    embed_dim=size["embed"],
    num_heads=size["heads"],
    mlp_dim=size["mlp"],
    dropout=size["dropout"],
    buckets=32,
    distance=128,
    conditions=stage.condition_length,
    levels=stage.target.num_quantizers,
    codes=stage.target.codebook_size,
    first=vocabulary.first_id(stage.target),
  )
  step = torch_decoder.trainer(shape, compiled=True, device=device, bfloat16=True)
  tokens, times = decoder.batch(built)["decoder_target_tokens"], []
  for _ in range(2 + 3 * steps):  # the second step may still compile something
    began = time.perf_counter()
    loss = step(tokens)
    times.append(time.perf_counter() - began)
  rounds = [sum(times[start : start + steps]) for start in range(2, len(times), steps)]
  peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
  return {
    "compile_seconds": round(times[0], 1),
    "seconds_per_step": round(min(rounds) / steps, 4),
    "tokens_per_second": round(tokens.size * steps / min(rounds), 1),
    "loss": round(loss, 3),
    **({"peak_gb": round(peak / 1e9, 2)} if peak else {}),
  }


def one(setting: dict) -> dict:
  """The measurement that the setting names."""
  size, steps = setting.get("size"), setting.get("steps")
  if size is None:
    return {"device": jax.devices()[0].device_kind, "backend": jax.default_backend()}
  if "torch" in setting:
    return torch_speed(size, steps, setting["torch"])
  return kernels(size) if "kernels" in setting else speed(size, steps)


def main() -> None:
  """Measures the setting and prints the result."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--one", required=True)
  print(json.dumps(one(json.loads(parser.parse_args().one))))


if __name__ == "__main__":
  main()
