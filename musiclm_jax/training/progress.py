"""What a run tells: metrics.jsonl, TensorBoard, and one line of progress."""

import contextlib
import json
import math
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax import audio
from musiclm_jax.storage import digest


def means(metrics: dict) -> dict[str, float]:
  """{name: sum / weight} as floats; a metric without weight is left out."""
  metrics = jax.device_get(metrics)
  return {name: float(s / w) for name, (s, w) in metrics.items() if w > 0}


def duration(seconds: float) -> str:
  """3725 as 1:02:05, 65 as 1:05."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Rates:
  """How fast steps go.

  `flops` are the operations of a step as MFU counts them, `peak` those that all devices could do in
  a second, None where that is not known.
  """

  def __init__(self, flops: int, peak: float | None):
    self._flops, self._peak = flops, peak
    self.restart()

  def restart(self) -> None:
    """Forgets what came before."""
    self._since = self._last = time.perf_counter()
    self._seconds: list[float] = []
    self._rows, self._waited = 0, 0.0

  def step(self, rows: int, waited: float) -> None:
    """Notes a step, and how many seconds of it went by waiting for data."""
    now = time.perf_counter()
    self._seconds.append(now - self._last)
    self._rows += rows
    self._waited += waited
    self._last = now

  def skip(self, seconds: float) -> None:
    """Takes so many seconds out of the step that comes next."""
    self._since += seconds
    self._last += seconds

  def flush(self, targets: float) -> dict[str, float]:
    """The rates since the last flush, in which so many targets were learnt from."""
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
  """The share of the wall time since a run began that made the steps that it has now.

  What came before a kill is read from metrics.jsonl; steps that are made again count once.
  """

  def __init__(self, path: pathlib.Path, first_step: int):
    lines = [line for line in read_lines(path) if line["split"] == "train"]
    before = lines[0]["seconds"] / lines[0]["goodput"] if lines else 0
    self._began = lines[0]["time"] - before if lines else time.time()
    kept = {line["step"]: line["seconds"] for line in lines if line["step"] < first_step}
    self._productive = sum(kept.values())

  def add(self, seconds: float) -> float:
    """The goodput after so many more seconds of steps."""
    self._productive += seconds
    return self._productive / max(time.time() - self._began, 1e-9)


def read_lines(path: pathlib.Path) -> list[dict]:
  """The whole lines of a file of JSON, none where there is none; what a kill has cut is no line.

  Raises ValueError with the place of a line that is no JSON.
  """
  found = []
  for number, line in enumerate(path.read_text().split("\n")[:-1] if path.exists() else (), 1):
    try:
      found.append(json.loads(line))
    except json.JSONDecodeError as error:
      raise ValueError(f"{path}:{number}: no JSON: {error}") from None
  return found


def _append_to(path: pathlib.Path):
  """The file opened to write lines behind its whole ones: half a line, left by a kill, goes."""
  content = path.read_bytes() if path.exists() else b""
  if not content.endswith(b"\n") and content:
    print(f"{path}: dropped the half line at its end", file=sys.stderr)
    os.truncate(path, content.rfind(b"\n") + 1)
  return path.open("a")


class Progress:
  """Gathers step metrics on the device and writes their means when flushed."""

  def __init__(
    self, model_dir: str, first_step: int, total_steps: int, rates: Rates, wandb_project: str
  ):
    self._dir = pathlib.Path(model_dir)
    self._first, self._total = first_step, total_steps
    self._rates = rates
    self._goodput = Goodput(self._dir / "metrics.jsonl", first_step)
    self._gathered: dict = {}
    self._compile_seconds = 0.0
    self._began = time.perf_counter()
    self._live = jax.process_index() == 0
    self._wandb_project = wandb_project
    self._writer = self._jsonl = self._wandb = None

  def __enter__(self):
    if self._live:
      from tensorboardX import SummaryWriter

      self._dir.mkdir(parents=True, exist_ok=True)
      self._writer = SummaryWriter(str(self._dir / "tensorboard"))
      if self._wandb_project:
        self._wandb = _wandb_run(self._wandb_project, self._dir)
      self._jsonl = _append_to(self._dir / "metrics.jsonl")
    return self

  def __exit__(self, *exc):
    if self._live:
      self._writer.close()
      if self._wandb:
        self._wandb.finish()
      self._jsonl.close()
      if sys.stderr.isatty():
        print(file=sys.stderr)

  def step(self, metrics: dict, *, rows: int, waited: float) -> None:
    """Adds the metrics of a step without waiting for it."""
    self._gathered = jax.tree.map(jnp.add, self._gathered, metrics) if self._gathered else metrics
    self._rates.step(rows, waited)

  def flush(self, step: int) -> dict[str, float]:
    """Writes the means since the last flush and the progress line; gives the means."""
    values = means(self._gathered)
    values |= self._rates.flush(float(jax.device_get(self._gathered["loss"][1])))
    values["goodput"] = self._goodput.add(values["seconds"])
    if self._compile_seconds:
      values["compile_seconds"], self._compile_seconds = self._compile_seconds, 0.0
    self._write(step, "train", values)
    left = (self._total - step) * (time.perf_counter() - self._began) / (step - self._first + 1)
    skipped = f"  {values['skipped']:.0%} SKIPPED" if values["skipped"] else ""
    self.say(
      f"{step}/{self._total}  {_loss(values)}{skipped}  {values['rows_per_second']:.1f} rows/s"
      f"  {values['targets_per_second']:.0f} targets/s  {duration(left)} left",
      keep=False,
    )
    self._gathered = {}
    return values

  def compiled(self, seconds: float) -> None:
    """Says how long the first step took to compile; rates are counted from here."""
    self._rates.restart()
    self._began = time.perf_counter()
    self._compile_seconds = seconds

  @contextlib.contextmanager
  def excluded_from_timing(self, state):
    """What goes on in here, between the step that makes `state` and the next, counts as no step."""
    jax.block_until_ready(state)
    began = time.perf_counter()
    yield
    self._rates.skip(time.perf_counter() - began)

  def evaluation(self, step: int, values: dict[str, float]) -> None:
    """Writes held-out means, and says so where the loss is no better than chance."""
    self._write(step, "eval", values)
    verdict = "" if values["loss"] < 0.99 * values["chance"] else "  NOT LEARNING: at chance"
    self.say(f"{step}/{self._total}  held-out {_loss(values)}{verdict}")

  def music(self, step: int, waveforms: np.ndarray, sample_rate: int) -> None:
    """Writes waveforms [prompts, samples] as audition/STEP_PROMPT.wav, and for TensorBoard."""
    for index, waveform in enumerate(waveforms):
      path = self._dir / "audition" / f"{step:06}_{index:02}.wav"
      audio.write(str(path), waveform, sample_rate)
      self._writer.add_audio(f"audition/{index:02}", waveform, step, sample_rate)
    self.say(f"{step}/{self._total}  {len(waveforms)} x music in {path.parent}")

  def say(self, text: str, *, keep: bool = True) -> None:
    """A line on stderr; one that is not to be kept is written over on a terminal."""
    if self._live:
      terminal = sys.stderr.isatty()
      start = "\r\x1b[K" if terminal else ""
      end = "" if terminal and not keep else "\n"
      print(f"{start}{self._dir.name} {text}", end=end, file=sys.stderr, flush=True)

  def _write(self, step: int, split: str, values: dict[str, float]) -> None:
    if self._live:
      line = {"step": step, "split": split, "time": time.time(), **values}
      self._jsonl.write(json.dumps(line) + "\n")
      self._jsonl.flush()
      for name, value in values.items():
        self._writer.add_scalar(f"{split}/{name}", value, step)
      if self._wandb:
        self._wandb.log({f"{split}/{name}": value for name, value in values.items()}, step=step)


def _wandb_run(project: str, directory: pathlib.Path):
  """The run of a model directory, the same one after each start; WANDB_MODE=offline keeps it here.

  Raises ValueError where the package is missing.
  """
  try:
    import wandb
  except ImportError:
    raise ValueError("--wandb_project: pip install wandb first (the extra [wandb])") from None
  return wandb.init(
    project=project,
    name=directory.name,
    id=digest(str(directory.resolve())),
    dir=str(directory),
    resume="allow",
    config={"gin": (directory / "config.gin").read_text()},
  )


def _loss(values: dict[str, float]) -> str:
  loss = values.get("loss", math.nan)  # nan where every step was skipped
  return f"loss {loss:.3f} (chance {values.get('chance', math.nan):.3f})"
