"""What a part can do: the contracts between trained parts and all that runs them.

A part is asked for its rates and sizes by these names, whoever made it, and never for its fields.
`methods` is {method: the arrays it takes}, in the terms of `inputs`; every call is checked against
it. `frozen.load(directory, Codec)` checks that a part is of a kind.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from musiclm_jax.tokenizers.inputs import Methods
from musiclm_jax.tokens import Stage, Vocabulary


@runtime_checkable
class Part(Protocol):
  """A part of any kind."""

  methods: Methods


@runtime_checkable
class Codec(Part, Protocol):
  """Waveforms to codes and back: SoundStream.

  `hop` samples at sample_rate Hz are one frame: frame_rate frames a second, each of num_quantizers
  codes in 0..codebook_size - 1.
  """

  sample_rate: int
  hop: int
  frame_rate: float
  num_quantizers: int
  codebook_size: int

  def encode(self, *arrays):
    """Codes [batch, frames, num_quantizers] int32 of waveforms [batch, samples] float32."""

  def decode(self, *arrays):
    """Waveforms [batch, frames * hop] float32 of codes [batch, frames, levels]."""


@runtime_checkable
class FrameEncoder(Part, Protocol):
  """Waveforms to the frames of one of `layers`: w2v-BERT.

  Layers are numbers; None is what codes can be made of before any layer.
  """

  sample_rate: int
  layers: tuple[int | None, ...]

  def embed(self, *arrays, layer: int | None):
    """Embeddings [batch, frames, dim] of waveforms [batch, samples] float32."""


@runtime_checkable
class ClipEncoder(Part, Protocol):
  """Waveforms to one embedding each: the melody encoder."""

  sample_rate: int
  embed_dim: int

  def embed(self, *arrays):
    """Embeddings [batch, embed_dim] float32 of waveforms [batch, samples] float32."""


@runtime_checkable
class JointEncoder(Part, Protocol):
  """Waveforms and texts to one space: MuLan.

  A text is at most max_tokens ids in 0..vocab_size - 1.
  """

  sample_rate: int
  embed_dim: int
  vocab_size: int
  max_tokens: int

  def embed_audio(self, *arrays):
    """Embeddings [batch, embed_dim] float32 of length 1 of waveforms [batch, samples] float32."""

  def embed_text(self, *arrays):
    """Embeddings [batch, embed_dim] float32 of length 1 of token ids [batch, length]; 0 pads."""


@runtime_checkable
class Quantizer(Part, Protocol):
  """Embeddings to codes and back: k-means, and the residual quantizers of MuLan and melody."""

  embed_dim: int
  num_quantizers: int
  codebook_size: int

  def encode(self, *arrays):
    """Codes [..., num_quantizers] int32 of embeddings [..., embed_dim] float32."""

  def decode(self, *arrays):
    """Embeddings [..., embed_dim] float32 of codes [..., levels]."""


@runtime_checkable
class StageModel(Part, Protocol):
  """A token model: `stage` is what it reads and writes, in ids of `vocabulary`."""

  stage: Stage
  vocabulary: Vocabulary

  def generate(self, conditions, known, keys, *, frames: int, settings):
    """Ids [batch, new] int32 of the target's frames after the `known` ones."""


# What each part of MusicLM but its stages must be able to do, by its role.
ROLES: Mapping[str, type] = {
  "soundstream": Codec,
  "w2v_bert": FrameEncoder,
  "kmeans": Quantizer,
  "mulan": JointEncoder,
  "mulan_rvq": Quantizer,
  "melody": ClipEncoder,
  "melody_rvq": Quantizer,
}


def check_kind(module, kind: type, where: str) -> None:
  """Raises ValueError, beginning with `where`, if a module is not of a kind of part."""
  if not isinstance(module, kind):
    raise ValueError(f"{where}: wanted the kind {kind.__name__}, found {type(module).__name__}")
