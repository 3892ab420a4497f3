"""Examples of token shards: what the quantizers and the stages train on."""

import dataclasses

import numpy as np
from jax import ShapeDtypeStruct as Shape

from musiclm_jax.ranges import PositiveInt
from musiclm_jax.sequences import codes_of, decoder_features, sequence
from musiclm_jax.tokens import Stage, Stream, Vocabulary
from musiclm_jax.training.examples import ExampleMaker, Shapes, generator


@dataclasses.dataclass(frozen=True)
class Embeddings:
  """Examples {embeddings [n, dim] float32, weights [n] float32}: for the quantizers.

  Of each of the shards' embeddings `names` come `rows` random ones; where there are fewer, all of
  them and padding of weight 0.
  """

  names: tuple[str, ...]
  rows: PositiveInt
  dim: PositiveInt

  @property
  def shapes(self) -> Shapes:
    """The shapes of an example."""
    count = len(self.names) * self.rows
    return {
      "embeddings": Shape((count, self.dim), np.float32),
      "weights": Shape((count,), np.float32),
    }

  @property
  def sources(self) -> tuple[str, ...]:
    """The embeddings."""
    return self.names

  def open(self, records, parts: dict[str, str], seed: int) -> ExampleMaker:
    """The maker for token shards. Raises ValueError where theirs have another width."""
    del parts
    for name in self.names:
      found = records.entries[name]["width"]
      if found != self.dim:
        raise ValueError(f"{records.directory}: {name} has {found} dimensions, not {self.dim}")

    def make(record: dict, position: int) -> dict[str, np.ndarray]:
      rng = generator(seed, position)
      drawn = [self._drawn(record[name], rng) for name in self.names]
      embeddings, weights = (np.concatenate(each) for each in zip(*drawn))
      return {"embeddings": embeddings, "weights": weights}

    return ExampleMaker(self.names, make)

  def _drawn(self, values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random rows [rows, dim] of values [n, dim], and their weights [rows]."""
    chosen = rng.permutation(len(values))[: self.rows]
    embeddings = np.zeros((self.rows, self.dim), np.float32)
    embeddings[: len(chosen)] = values[chosen]
    return embeddings, (np.arange(self.rows) < len(chosen)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Examples decoder_{input_tokens, target_tokens, loss_weights} [stage.length] for a stage.

  All streams are cropped at one instant, a multiple of stage.grid_seconds, drawn from those at
  which the target has a whole crop. A clip shorter than the crop is followed by null ids in the
  conditions and by padding without loss in the target (`sequences.sequence`).
  """

  stage: Stage
  vocabulary: Vocabulary

  @property
  def shapes(self) -> Shapes:
    """The shapes of an example."""
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
    return dict.fromkeys(names, Shape((self.stage.length,), np.int32))

  @property
  def sources(self) -> tuple[Stream, ...]:
    """The stage's streams."""
    return self.stage.streams

  def open(self, records, parts: dict[str, str], seed: int) -> ExampleMaker:
    """The maker for token shards.

    Raises ValueError where a part does not give a stream's codes.
    """
    stage, streams = self.stage, self.stage.streams
    makers = {s.name: s.made.open(s, records.entries, parts) for s in streams}
    features = dict.fromkeys(name for s in streams for name in s.made.features(s))
    grid = float(stage.grid_seconds)
    grid_frames = round(grid * stage.target.frame_rate)
    crop_frames = stage.target.frames(stage.crop_seconds)

    def make(record: dict, position: int) -> dict[str, np.ndarray]:
      spare = max(len(record[stage.target.source]) - crop_frames, 0)
      rng = generator(seed, position)
      start = int(rng.integers(spare // grid_frames + 1)) * grid
      codes = codes_of(stage, makers, record, start, rng)
      return decoder_features(*sequence(stage, self.vocabulary, codes, stage.crop_seconds))

    return ExampleMaker(tuple(features), make)
