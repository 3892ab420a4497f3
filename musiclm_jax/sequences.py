"""From codes to the sequences of a stage: what training, held-out losses and generation share."""

import numpy as np

from musiclm_jax.tokens import PAD, Make, Stage, Stream, Vocabulary, flatten


def codes_of(
  stage: Stage,
  makers: dict[str, Make],
  record: dict,
  start: float,
  rng: np.random.Generator | None = None,
) -> dict:
  """The codes {stream: [frames, num_quantizers] int32} of a crop of a record, `start` in seconds.

  `makers` are those of the stage's streams, by their names, and take `rng`: `Source.open`.
  """
  names = [stream.name for stream in stage.streams]
  return {name: makers[name](record, start, stage.crop_seconds, rng) for name in names}


def sequence(
  stage: Stage, vocabulary: Vocabulary, codes: dict[str, np.ndarray], seconds: float
) -> tuple[np.ndarray, np.ndarray]:
  """The ids of a span: conditions [..., tokens] and target [..., tokens], both int32.

  codes are [..., frames, num_quantizers] by the stream's name. Frames that are missing at a span's
  end are null ids in a condition and PAD in the target, which no loss counts; so are codes of -1.

  >>> semantic = Stream("semantic", "semantic", 25.0, 0, 1, 10)
  >>> coarse = Stream("coarse", "acoustic", 50.0, 0, 2, 10)
  >>> stage = Stage("coarse", (semantic,), coarse, 0.04)
  >>> codes = {"semantic": np.array([[7]]), "coarse": np.array([[1, 2], [3, 4]])}
  >>> sequence(stage, Vocabulary((semantic, coarse)), codes, 0.04)
  (array([10], dtype=int32), array([14, 25, 16, 27], dtype=int32))
  """

  def ids(stream: Stream, filler: int):
    found = flatten(codes[stream.name], vocabulary.offsets(stream))
    found = np.where(codes[stream.name].reshape(found.shape) < 0, filler, found)
    missing = stream.length(seconds) - found.shape[-1]
    width = [(0, 0)] * (found.ndim - 1) + [(0, missing)]
    return np.pad(found, width, constant_values=filler).astype(np.int32)

  target = ids(stage.target, PAD)
  nothing = np.zeros((*target.shape[:-1], 0), np.int32)
  conditions = [ids(stream, vocabulary.null(stream)) for stream in stage.conditions]
  return np.concatenate([nothing, *conditions], axis=-1), target


def decoder_features(conditions: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
  """A stage's example in SeqIO's names, [..., stage.length] int32 each: `decoder_target_tokens`,
  `decoder_input_tokens` (the targets shifted right) and `decoder_loss_weights` (1 at the target's
  tokens that are not PAD).

  >>> features = decoder_features(np.array([11, 12]), np.array([21, 32, 22, 0]))
  >>> features["decoder_target_tokens"]
  array([11, 12, 21, 32, 22,  0], dtype=int32)
  >>> features["decoder_input_tokens"]
  array([ 0, 11, 12, 21, 32, 22], dtype=int32)
  >>> features["decoder_loss_weights"]
  array([0, 0, 1, 1, 1, 0], dtype=int32)
  """
  tokens = np.concatenate([conditions, target], axis=-1).astype(np.int32)
  inputs = np.full_like(tokens, PAD)
  inputs[..., 1:] = tokens[..., :-1]
  weights = np.zeros_like(tokens)
  weights[..., conditions.shape[-1] :] = target != PAD
  return {
    "decoder_target_tokens": tokens,
    "decoder_input_tokens": inputs,
    "decoder_loss_weights": weights,
  }
