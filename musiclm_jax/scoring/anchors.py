"""What every table of scores has beside the systems: the best and the worst that they can reach."""

import os
import pathlib

import numpy as np

from musiclm_jax import audio
from musiclm_jax.scoring.clips import Clips

NOISE, ROUND_TRIP = "noise", "codec round trip"
REAL, HALVES, SHUFFLED = "real", "real half against half", "shuffled prompts"


def noise(clips: Clips, folder: pathlib.Path, sample_rate: int, seed: int) -> Clips:
  """White noise as loud as each of the clips, under their names, written into the folder."""
  rng = np.random.default_rng(seed)
  return _written(
    clips,
    folder,
    sample_rate,
    lambda rows: rng.normal(size=rows.shape) * rows.std(axis=1, keepdims=True),
  )


def round_trip(clips: Clips, folder: pathlib.Path, codec) -> Clips:
  """The clips through a codec (tokenizers.frozen) and back, under their names, in the folder."""

  def change(rows):
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % codec.module.hop)))
    return np.asarray(codec("decode", codec("encode", padded)))[:, : rows.shape[1]]

  return _written(clips, folder, codec.module.sample_rate, change)


def _written(clips: Clips, folder: pathlib.Path, sample_rate: int, change) -> Clips:
  names = iter(clips.names)
  for rows in clips.batches(sample_rate):
    for row, name in zip(change(rows), names):
      audio.write(os.fspath(folder / f"{name}.wav"), row, sample_rate)
  return Clips(tuple(os.fspath(folder / f"{name}.wav") for name in clips.names), clips.seconds)


def rotated(works: tuple[str, ...]) -> list[int]:
  """For each clip the index of one of another work, each once; of the own work only where more than
  half of the clips are of one.
  """
  order = np.argsort(works, kind="stable")
  partner = np.empty(len(works), int)
  partner[order] = np.roll(order, len(works) // 2)
  return partner.tolist()


def halves(works: tuple[str, ...], seed: int) -> tuple[list[int], list[int]]:
  """Indices of the clips of two halves of the works, drawn at random."""
  labels = np.random.default_rng(seed).permutation(sorted(set(works)))
  first = set(labels[: len(labels) // 2].tolist())
  return (
    [i for i, work in enumerate(works) if work in first],
    [i for i, work in enumerate(works) if work not in first],
  )
