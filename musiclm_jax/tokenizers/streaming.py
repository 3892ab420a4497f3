"""The codec on a stream: state in, state out, in pieces of any length.

Nothing in SoundStream looks ahead (2107.03312, III-A), so that pieces come out as the whole would.
"""

from typing import NamedTuple

import numpy as np

from musiclm_jax.tokenizers import inputs
from musiclm_jax.tokenizers.frozen import Frozen


class EncoderState(NamedTuple):
  """The state of an encoder's convolutions, and samples [batch, rest] that fill no frame yet."""

  state: dict
  rest: np.ndarray


def initial_state(batch: int) -> EncoderState:
  """The start of `batch` streams."""
  return EncoderState({}, np.zeros((batch, 0), np.float32))


def encode(
  codec: Frozen, before: EncoderState, waveform: np.ndarray
) -> tuple[np.ndarray, EncoderState]:
  """Codes [batch, frames, num_quantizers] int32 of the frames that waveform [batch, samples]
  completes, and the state after them. Raises ValueError where the batch changed, and as the codec
  does.
  """
  if len(waveform) != len(before.rest):
    raise ValueError(f"wanted {len(before.rest)} streams, found {len(waveform)}")
  if waveform.size:  # checked alone: concatenating it to the rest would make any numbers floats
    inputs.check(codec.module, "encode", (waveform,))
  hop = codec.module.hop
  samples = np.concatenate([before.rest, waveform], axis=1)
  whole = samples.shape[1] // hop * hop
  if not whole:
    empty = np.zeros((len(samples), 0, codec.module.num_quantizers), np.int32)
    return empty, EncoderState(before.state, samples)
  codes, state = codec.resume("encode", before.state, samples[:, :whole])
  return np.asarray(codes), EncoderState(state, samples[:, whole:])


def decode(codec: Frozen, before: dict, codes: np.ndarray) -> tuple[np.ndarray, dict]:
  """Waveform [batch, frames * hop] of the next codes [batch, frames, levels], and the state after
  them; {} is the start.
  """
  waveform, state = codec.resume("decode", before, codes)
  return np.asarray(waveform), state
