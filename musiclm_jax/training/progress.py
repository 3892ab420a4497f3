"""What a run tells: metrics.jsonl, TensorBoard, and one line of progress."""

import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp


def means(metrics: dict) -> dict[str, float]:
  """{name: sum / weight} as floats; a metric without weight is left out."""
  metrics = jax.device_get(metrics)
  return {name: float(s / w) for name, (s, w) in metrics.items() if w > 0}


def duration(seconds: float) -> str:
  """3725 as 1:02:05, 65 as 1:05."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
  """Gathers step metrics on the device and writes their means when flushed."""

  def __init__(self, model_dir: str, total_steps: int):
    self._name = pathlib.Path(model_dir).name
    self._total = total_steps
    self._gathered: dict = {}
    self._rows = self._steps = 0
    self._waited = 0.0
    self._since = self._began = time.perf_counter()
    self._first = None
    self._live = jax.process_index() == 0
    self._dir = pathlib.Path(model_dir)
    self._writer = self._jsonl = None

  def __enter__(self):
    if self._live:
      from tensorboardX import SummaryWriter

      self._dir.mkdir(parents=True, exist_ok=True)
      self._writer = SummaryWriter(str(self._dir / "tensorboard"))
      self._jsonl = open(self._dir / "metrics.jsonl", "a")  # noqa: SIM115 (closed in __exit__)
    return self

  def __exit__(self, *exc):
    if self._live:
      self._writer.close()
      self._jsonl.close()
      if sys.stderr.isatty():
        print(file=sys.stderr)

  def step(self, step: int, metrics: dict, *, rows: int, waited: float) -> None:
    """Adds the metrics of a step without waiting for it."""
    self._first = step if self._first is None else self._first
    self._gathered = jax.tree.map(jnp.add, self._gathered, metrics) if self._gathered else metrics
    self._rows += rows
    self._steps += 1
    self._waited += waited

  def flush(self, step: int) -> dict[str, float]:
    """Writes the means since the last flush and the progress line; gives the means."""
    weight = float(jax.device_get(self._gathered["loss"][1]))
    values = means(self._gathered)
    now = time.perf_counter()
    elapsed = now - self._since
    values["rows_per_second"] = self._rows / elapsed
    values["targets_per_second"] = weight / elapsed
    values["seconds_per_step"] = elapsed / self._steps
    values["data_wait_share"] = self._waited / elapsed
    self._write(step, "train", values)
    left = (self._total - step) * (now - self._began) / (step - self._first + 1)
    self._line(
      f"{self._name} {step}/{self._total}  loss {values['loss']:.3f}"
      f" (chance {values['chance']:.3f})"
      f"  {values['rows_per_second']:.1f} rows/s  {values['targets_per_second']:.0f} targets/s"
      f"  {duration(left)} left"
    )
    self._gathered, self._rows, self._steps, self._waited = {}, 0, 0, 0.0
    self._since = now
    return values

  def evaluation(self, step: int, values: dict[str, float]) -> None:
    """Writes held-out means, and says so where the loss is no better than chance."""
    self._write(step, "eval", values)
    verdict = "" if values["loss"] < 0.99 * values["chance"] else "  NOT LEARNING: at chance"
    self._line(
      f"{self._name} {step}/{self._total}  held-out loss {values['loss']:.3f}"
      f" (chance {values['chance']:.3f}){verdict}",
      keep=True,
    )

  def _write(self, step: int, split: str, values: dict[str, float]) -> None:
    if self._live:
      self._jsonl.write(json.dumps({"step": step, "split": split, **values}) + "\n")
      self._jsonl.flush()
      for name, value in values.items():
        self._writer.add_scalar(f"{split}/{name}", value, step)

  def _line(self, text: str, keep: bool = False) -> None:
    if self._live:
      terminal = sys.stderr.isatty()
      start = "\r\x1b[K" if terminal else ""
      end = "" if terminal and not keep else "\n"
      print(start + text, end=end, file=sys.stderr, flush=True)
