"""The notes that basic-pitch hears in audio: a published transcriber, independent of our models.

Bittner et al., "A Lightweight Instrument-Agnostic Model for Polyphonic Note Transcription and
Multipitch Estimation" (ICASSP 2022, 2203.09893); its network is run by onnxruntime from the package
basic-pitch 0.4.0 (Apache-2.0), whose own code is not used.
"""

import functools

import numpy as np
import soxr

from musiclm_jax.embedders import packages

LOWEST_PITCH = 21  # MIDI; column 0 of the notes
FRAME_RATE = 22050 / 256  # Hz

_RATE, _HOP = 22050, 256
_WINDOW = 43844  # samples, 172 frames
_TRIM = 15  # frames dropped at both ends of a window, where the network lacks context
_KEPT = 172 - 2 * _TRIM
_BATCH = 16  # windows
_INPUT = "serving_default_input_2:0"
_OUTPUTS = {
  "contours": "StatefulPartitionedCall:0",
  "notes": "StatefulPartitionedCall:1",
  "onsets": "StatefulPartitionedCall:2",
}
_SOUNDING = 0.5
_NETWORK = "saved_models/icassp_2022/nmp.onnx"


def transcribe(waveforms: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
  """Probabilities that a note sounds and that one begins, [clips, frames, 88] float32 each.

  waveforms [clips, samples] float at sample_rate Hz. Frames are FRAME_RATE a second, frame i is
  centred at i / FRAME_RATE seconds, and column n is MIDI pitch LOWEST_PITCH + n.

  Raises ValueError where basic-pitch or onnxruntime is not installed.
  """
  notes, onsets = outputs(waveforms, sample_rate, ("notes", "onsets"))
  return notes, onsets


def outputs(
  waveforms: np.ndarray, sample_rate: int, names: tuple[str, ...]
) -> tuple[np.ndarray, ...]:
  """The network's outputs of these names, of one run of it: [clips, frames, columns] float32 each.

  waveforms and frames as of `transcribe`. "notes" and "onsets" are those of `transcribe`;
  "contours" has 264 columns, three a semitone: probabilities that a pitch sounds, column 3n + 1
  being MIDI pitch LOWEST_PITCH + n in tune.

  The published windows advance by 36,164 samples, 141.3 frames, and give 142; here they advance by
  142 frames, so that times do not drift.

  Raises ValueError where basic-pitch or onnxruntime is not installed.
  """
  packages.file("onnxruntime")
  network = _network(str(packages.file("basic_pitch", _NETWORK)))
  wanted = [_OUTPUTS[name] for name in names]
  results = []
  for waveform in waveforms:
    x = soxr.resample(np.asarray(waveform, np.float32), sample_rate, _RATE)
    frames = 1 + len(x) // _HOP
    count = -(-frames // _KEPT)
    after = (count - 1) * _KEPT * _HOP + _WINDOW - _TRIM * _HOP - len(x)
    x = np.pad(x, (_TRIM * _HOP, max(0, after)))
    windows = np.lib.stride_tricks.sliding_window_view(x, _WINDOW)[:: _KEPT * _HOP][:count]
    parts = [
      network.run(wanted, {_INPUT: windows[i : i + _BATCH, :, None]})
      for i in range(0, count, _BATCH)
    ]
    found = [np.concatenate(part)[:, _TRIM:-_TRIM] for part in zip(*parts)]
    results.append([each.reshape(-1, each.shape[-1])[:frames] for each in found])
  return tuple(np.stack(each) for each in zip(*results))


def sounding(notes: np.ndarray) -> np.ndarray:
  """Whether each note sounds, its probability being above 0.5: [..., 88] bool."""
  return notes > _SOUNDING


def notes_at_once(notes: np.ndarray) -> np.ndarray:
  """Notes sounding at once, a mean over frames, [clips]; of notes [clips, frames, 88]."""
  return sounding(notes).sum(axis=2).mean(axis=1)


def frame_agreement(real: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Counts [clips, 2] whose ratio is the F-measure of the notes of `other` by frame.

  real and other [clips, frames, 88] of `transcribe`. The first column is twice the number of
  (frame, pitch) that sound in both, the second the sum of those of each: the F-measure of many
  clips is the ratio of the columns' sums, and so one of a clip with no note counts as nothing.
  """
  a, b = sounding(real), sounding(other)
  return np.stack([2 * (a & b).sum(axis=(1, 2)), a.sum(axis=(1, 2)) + b.sum(axis=(1, 2))], axis=1)


def note_chroma(notes: np.ndarray) -> np.ndarray:
  """How many notes of each pitch class sound, [clips, frames, 12] float32 from C.

  notes [clips, frames, 88] of `transcribe`.
  """
  classes = (LOWEST_PITCH + np.arange(notes.shape[2])) % 12
  return sounding(notes).astype(np.float32) @ np.eye(12, dtype=np.float32)[classes]


@functools.cache
def _network(path: str):
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads sleep
  return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
