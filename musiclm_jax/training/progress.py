"""What a run logs: metrics.jsonl, TensorBoard events, Weights & Biases, one line of progress."""

import contextlib
import json
import math
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.training import writers
from musiclm_jax.training.step import Metrics


def due(step: int, period: int) -> bool:
  """Whether something that happens every `period` steps (0: never) happens after this step."""
  return period > 0 and step % period == 0


def means(metrics: Metrics) -> dict[str, float]:
  """{name: sum / weight} as floats; a metric without weight is left out."""
  metrics = jax.device_get(metrics)
  return {name: float(s / w) for name, (s, w) in metrics.items() if w > 0}


def duration(seconds: float) -> str:
  """3725 as 1:02:05, 65 as 1:05."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Rates:
  """Measures the speed of steps.

  `flops` are the operations of a step as MFU counts them, `peak` the operations per second that all
  devices can do together, None where that is unknown.
  """

  def __init__(self, flops: int, peak: float | None):
    self._flops, self._peak = flops, peak
    self.restart()

  def restart(self) -> None:
    """Starts a new measurement."""
    self._since = self._last = time.perf_counter()
    self._seconds: list[float] = []
    self._rows, self._waited = 0, 0.0

  def step(self, rows: int, waited: float) -> None:
    """Counts a step, which waited so many seconds for its data."""
    now = time.perf_counter()
    self._seconds.append(now - self._last)
    self._rows += rows
    self._waited += waited
    self._last = now

  def skip(self, seconds: float) -> None:
    """Excludes so many seconds from the next step."""
    self._since += seconds
    self._last += seconds

  def flush(self, targets: float) -> dict[str, float]:
    """The rates since the last flush, in which the loss was taken of so many targets."""
    steps, elapsed = len(self._seconds), time.perf_counter() - self._since
    flops = self._flops * steps / elapsed
    rates = {
      "seconds": elapsed,
      "rows_per_second": self._rows / elapsed,
      "targets_per_second": targets / elapsed,
      "seconds_per_step": elapsed / steps,
      "step_time_deviation": float(np.std(self._seconds) / np.mean(self._seconds)),
      "data_wait_share": self._waited / elapsed,
      "teraflops_per_second": flops / 1e12,
    }
    if self._peak:
      rates["mfu"] = flops / self._peak
    self.restart()
    return rates


class Goodput:
  """The share of the wall time since a run began that produced the steps it has now.

  Earlier starts of the run are read from metrics.jsonl; steps that were repeated count once.
  """

  def __init__(self, path: pathlib.Path, first_step: int):
    lines = [line for line in writers.read_lines(path) if line["split"] == "train"]
    before = lines[0]["seconds"] / lines[0]["goodput"] if lines else 0
    self._began = lines[0]["time"] - before if lines else time.time()
    kept = {line["step"]: line["seconds"] for line in lines if line["step"] < first_step}
    self._productive = sum(kept.values())

  def add(self, seconds: float) -> float:
    """The goodput after so many more seconds of steps."""
    self._productive += seconds
    return self._productive / max(time.time() - self._began, 1e-9)


class Progress:
  """Sums step metrics on the devices and logs their means when flushed.

  Process 0 of a job writes the files and the progress lines; the others only count.
  """

  def __init__(
    self, model_dir: str, first_step: int, total_steps: int, rates: Rates, wandb_project: str
  ):
    self._dir = pathlib.Path(model_dir)
    self._first, self._total = first_step, total_steps
    self._rates = rates
    self._goodput = Goodput(self._dir / "metrics.jsonl", first_step)
    self._sums: Metrics = {}
    self._compile_seconds = 0.0
    self._began = time.perf_counter()
    self._writes = jax.process_index() == 0
    self._wandb_project = wandb_project
    self._events = self._jsonl = self._wandb = None

  def __enter__(self) -> "Progress":
    if self._writes:
      self._dir.mkdir(parents=True, exist_ok=True)
      if self._wandb_project:
        self._wandb = writers.wandb_run(self._wandb_project, self._dir)
      self._events = writers.events(self._dir / "tensorboard")
      self._jsonl = writers.append_to(self._dir / "metrics.jsonl")
    return self

  def __exit__(self, *exc) -> None:
    if self._writes:
      self._events.close()
      if self._wandb:
        self._wandb.finish()
      self._jsonl.close()
      if sys.stderr.isatty():
        print(file=sys.stderr)

  def step(self, metrics: dict, *, rows: int, waited: float) -> None:
    """Adds the metrics of a step without waiting for it."""
    self._sums = jax.tree.map(jnp.add, self._sums, metrics) if self._sums else metrics
    self._rates.step(rows, waited)

  def flush(self, step: int) -> dict[str, float]:
    """Logs the means since the last flush, after step `step`, and returns them."""
    values = means(self._sums)
    values |= self._rates.flush(float(jax.device_get(self._sums["loss"][1])))
    values["goodput"] = self._goodput.add(values["seconds"])
    if self._compile_seconds:
      values["compile_seconds"], self._compile_seconds = self._compile_seconds, 0.0
    self._write(step, "train", values)
    left = (self._total - step) * (time.perf_counter() - self._began) / (step - self._first + 1)
    skipped = f"  {values['skipped']:.0%} SKIPPED" if values["skipped"] else ""
    self.line(
      f"{step}/{self._total}  {_loss(values)}{skipped}  {values['rows_per_second']:.1f} rows/s"
      f"  {values['targets_per_second']:.0f} targets/s  {duration(left)} left",
      keep=False,
    )
    self._sums = {}
    return values

  def compiled(self, seconds: float) -> None:
    """Logs how long the first step took to compile; rates are measured from here on."""
    self._rates.restart()
    self._began = time.perf_counter()
    self._compile_seconds = seconds

  @contextlib.contextmanager
  def excluded_from_timing(self, state):
    """A context whose time, after the step that computes `state`, counts for no step."""
    jax.block_until_ready(state)
    began = time.perf_counter()
    yield
    self._rates.skip(time.perf_counter() - began)

  def evaluation(self, step: int, values: dict[str, float]) -> None:
    """Logs held-out means; the progress line names a loss that is no better than chance."""
    self._write(step, "eval", values)
    verdict = "" if values["loss"] < 0.99 * values["chance"] else "  NOT LEARNING: at chance"
    self.line(f"{step}/{self._total}  held-out {_loss(values)}{verdict}")

  def audio(self, step: int, name: str, waveform: np.ndarray, sample_rate: int) -> None:
    """Shows a waveform [samples] float32 in [-1, 1] in TensorBoard; sample_rate in Hz."""
    if self._writes:
      self._events.audio(step, name, waveform, sample_rate)

  def line(self, text: str, *, keep: bool = True) -> None:
    """Prints a line on stderr; on a terminal the next line overwrites one that is not kept."""
    if self._writes:
      terminal = sys.stderr.isatty()
      start = "\r\x1b[K" if terminal else ""
      end = "" if terminal and not keep else "\n"
      print(f"{start}{self._dir.name} {text}", end=end, file=sys.stderr, flush=True)

  def _write(self, step: int, split: str, values: dict[str, float]) -> None:
    if not self._writes:
      return
    line = {"step": step, "split": split, "time": time.time(), **values}
    self._jsonl.write(json.dumps(line) + "\n")
    self._jsonl.flush()
    named = {f"{split}/{name}": value for name, value in values.items()}
    self._events.scalars(step, named)
    if self._wandb:
      self._wandb.log(named, step=step)


def _loss(values: dict[str, float]) -> str:
  loss = values.get("loss", math.nan)  # NaN where every step was skipped
  return f"loss {loss:.3f} (chance {values.get('chance', math.nan):.3f})"
