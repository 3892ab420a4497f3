"""The files that metrics are logged to: JSON lines and TensorBoard events; and Weights & Biases."""

import json
import os
import pathlib
import sys
import time

import numpy as np

from musiclm_jax.storage import digest


def read_lines(path: pathlib.Path) -> list[dict]:
  """The complete lines of a file of JSON lines, [] for a missing file; a last line without its
  newline, which a kill has cut, is left out.

  Raises ValueError with the place of a line that is not JSON.
  """
  found = []
  for number, line in enumerate(path.read_text().split("\n")[:-1] if path.exists() else (), 1):
    try:
      found.append(json.loads(line))
    except json.JSONDecodeError as error:
      raise ValueError(f"{path}:{number}: not JSON: {error}") from None
  return found


def append_to(path: pathlib.Path):
  """The file opened to append lines; an incomplete last line, left by a kill, is removed."""
  content = path.read_bytes() if path.exists() else b""
  if not content.endswith(b"\n") and content:
    print(f"{path}: removed the incomplete last line", file=sys.stderr)
    os.truncate(path, content.rfind(b"\n") + 1)
  return path.open("a")


class NoEvents:
  """In place of Events where tensorboardX is not installed."""

  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Writes nothing."""

  def audio(self, step: int, tag: str, waveform: np.ndarray, sample_rate: int) -> None:
    """Writes nothing."""

  def close(self) -> None:
    """Closes nothing."""


def events(folder: pathlib.Path) -> "Events | NoEvents":
  """The writer of a folder; without tensorboardX one that writes nothing, which a line reports."""
  try:
    return Events(folder)
  except ModuleNotFoundError as error:
    if error.name != "tensorboardX":
      raise
    print(f"{folder}: no TensorBoard files, tensorboardX is not installed", file=sys.stderr)
    return NoEvents()


class Events:
  """A file of TensorBoard events, written at once.

  tensorboardX's own SummaryWriter writes in a thread, which a full disk ends: the run would then
  wait for it without end.
  """

  def __init__(self, folder: pathlib.Path):
    from tensorboardX.event_file_writer import EventsWriter

    folder.mkdir(parents=True, exist_ok=True)
    self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")

  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Writes {tag: value}."""
    from tensorboardX import summary

    for tag, value in values.items():
      self._write(step, summary.scalar(tag, value))
    self._writer.flush()

  def audio(self, step: int, tag: str, waveform: np.ndarray, sample_rate: int) -> None:
    """Writes a waveform [samples] float32 in [-1, 1]; sample_rate in Hz."""
    from tensorboardX import summary

    self._write(step, summary.audio(tag, waveform, sample_rate))
    self._writer.flush()

  def close(self) -> None:
    """Closes the file."""
    self._writer.close()

  def _write(self, step: int, summary) -> None:
    from tensorboardX.proto.event_pb2 import Event

    self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))


def wandb_run(project: str, directory: pathlib.Path):
  """The W&B run of a model directory, the same after each start; WANDB_MODE=offline keeps it there.

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
