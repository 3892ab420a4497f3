"""What the stages are told, as functions of time: (start, seconds) to codes of a span.

A `Condition` gives all levels of one source, codes [batch, frames, levels] int32; fewer frames
where it ends before the span.
"""

from collections.abc import Callable

import numpy as np

from musiclm_jax.tokens import Stream

Condition = Callable[[float, float], np.ndarray]


def constant(codes: np.ndarray) -> Condition:
  """The same codes [batch, 1, levels] at any time: one prompt."""
  return lambda start, seconds: codes


def stepwise(changes: list[tuple[float, np.ndarray]]) -> Condition:
  """Codes [batch, 1, levels] that change at times in seconds: the prompts of a story.

  A span has the codes of its end. Raises ValueError where the times do not begin at 0 and rise.
  """
  return switched([(time, constant(codes)) for time, codes in changes])


def switched(changes: list[tuple[float, Condition]]) -> Condition:
  """Conditions that follow each other at times in seconds; a span has that of its end.

  What a window writes is its end, and no window reaches across a change (`Composer.compose`), so
  that the context before a change is read with the condition of what goes on from it. Raises
  ValueError where the times do not begin at 0 and rise.
  """
  times = [time for time, _ in changes]
  if not times or times[0] != 0 or any(a >= b for a, b in zip(times, times[1:])):
    raise ValueError(f"wanted times that begin at 0 and rise, found {times}")

  def condition(start: float, seconds: float) -> np.ndarray:
    # A window that ends at a change is before it; its frames may end a rounding later.
    which = int(np.searchsorted(times, start + seconds - 1e-6, side="left")) - 1
    return changes[max(which, 0)][1](start, seconds)

  return condition


def stacked(rows: list[Condition]) -> Condition:
  """One condition of a batch of conditions of one row each."""
  return lambda start, seconds: np.concatenate([row(start, seconds) for row in rows])


def codes_at(
  streams: tuple[Stream, ...],
  conditions: dict[str, Condition],
  start: float,
  seconds: float,
  rows: int,
) -> dict[str, np.ndarray]:
  """The codes {stream: [rows, frames, levels]} of a span; no frames, which is null, where there is
  no condition {source: condition} of a stream.
  """
  nothing = np.zeros((rows, 0, max(stream.last_quantizer for stream in streams)), np.int32)

  def codes(stream: Stream) -> np.ndarray:
    condition = conditions.get(stream.source)
    return nothing if condition is None else condition(start, seconds)

  return {stream.name: stream.slice(codes(stream), 0.0, seconds) for stream in streams}


def of_records(stream: Stream, records: list[dict]) -> Condition:
  """The codes of what is known of each row's piece, as in training: tokens.Facts."""
  make = stream.made.open(stream, {}, {})
  return lambda start, seconds: np.stack([make(record, start, seconds) for record in records])


def sliced(codes: np.ndarray, frame_rate: float) -> Condition:
  """A slice of codes [batch, frames, levels] at `frame_rate` Hz: a melody, or another stage's."""

  def condition(start: float, seconds: float) -> np.ndarray:
    first = round(start * frame_rate)
    return codes[:, first : first + int(seconds * frame_rate + 1e-6)]

  return condition
