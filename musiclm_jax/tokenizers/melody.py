"""The melody encoder: embeddings of renditions of one melody are close (MusicLM, Appendix C).

A small ViT over the frames of a spectrogram, trained with semi-hard triplets (FaceNet, arXiv
1503.03832). The bands are spaced by pitch: a transposition is then a shift, and training shifts.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax import spectrograms
from musiclm_jax.layers import normal, unit
from musiclm_jax.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from musiclm_jax.tokenizers import inputs
from musiclm_jax.tokenizers.towers import SpectrogramTransformer

_FAR = 1e9


@dataclasses.dataclass(frozen=True)
class LogPitch:
  """A spectrogram with `bins_per_octave` triangular bands to the octave from `fmin` Hz on. window
  and hop are in samples.
  """

  sample_rate: PositiveInt
  window: PositiveInt
  hop: PositiveInt
  num_bins: PositiveInt
  bins_per_octave: PositiveInt
  fmin: PositiveFloat

  def filters(self) -> np.ndarray:
    """`spectrograms.pitch_filters`, [window // 2 + 1, num_bins] float32."""
    return spectrograms.pitch_filters(
      self.sample_rate, self.window, self.num_bins, self.bins_per_octave, self.fmin
    )

  def __call__(self, waveform: jax.Array) -> jax.Array:
    """[batch, samples] to log magnitudes [batch, frames, num_bins] float32, mean 0 in each clip.

    Raises ValueError where the samples do not fill one window.
    """
    if waveform.shape[-1] < self.window:
      raise ValueError(f"wanted {self.window} samples or more, found {waveform.shape[-1]}")
    filters = self.filters()
    used = 1 + np.flatnonzero(filters.any(axis=1))[-1]  # frequencies above the last band cost time
    magnitudes = spectrograms.magnitudes(waveform, window=self.window, hop=self.hop)
    x = magnitudes[..., :used] @ filters[:used]
    x = jnp.log(jnp.maximum(x, spectrograms.LOG_FLOOR))
    return x - x.mean(axis=(1, 2), keepdims=True)


def transpose(rng: jax.Array, x: jax.Array, max_shift: int) -> jax.Array:
  """x [batch, frames, bins] with each clip moved by -max_shift..max_shift bins, the same bins out.

  The edge bins are repeated at the side that the shift uncovers.
  """
  shifts = jax.random.randint(rng, (x.shape[0],), 0, 2 * max_shift + 1)
  padded = jnp.pad(x, ((0, 0), (0, 0), (max_shift, max_shift)), mode="edge")

  def cut(clip, shift):
    return jax.lax.dynamic_slice_in_dim(clip, shift, x.shape[2], axis=1)

  return jax.vmap(cut)(padded, shifts)


def semi_hard_loss(embeddings: jax.Array, labels: jax.Array, margin: float):
  """Triplet losses [batch] of embeddings [batch, dim] of length 1, and where they count (bool).

  Rows 2i and 2i + 1 are anchor and positive of each other. The negative is the nearest that is
  farther than the positive, of all rows with another of the labels [batch], or the farthest where
  no negative is. Distances are squared. Pairs whose labels differ and rows without negatives do not
  count. Raises ValueError where a row has no partner.
  """
  batch = len(labels)
  if batch % 2:
    raise ValueError(f"wanted pairs of rows, found a batch of {batch}")
  swap = np.arange(batch) ^ 1
  distances = 2 - 2 * embeddings @ embeddings.T
  positive = jnp.diagonal(distances[:, swap])
  negative = labels[:, None] != labels[None, :]
  farther = negative & (distances > positive[:, None])
  nearest = jnp.where(farther, distances, _FAR).min(axis=1)
  farthest = jnp.where(negative, distances, -_FAR).max(axis=1)
  chosen = jnp.where(farther.any(axis=1), nearest, farthest)
  counted = (labels == labels[swap]) & negative.any(axis=1)
  return jnp.maximum(positive - jnp.where(counted, chosen, positive) + margin, 0), counted


class MelodyEncoder(nn.Module):
  """Meets the model contract with {"waveform": [batch, samples], "melody": [batch] int32 labels}.

  Rows 2i and 2i + 1 of a batch are renditions of one melody. In training each clip is transposed by
  up to `max_shift` bins.
  """

  rows_together = 2

  log_pitch: LogPitch
  tower: SpectrogramTransformer
  embed_dim: PositiveInt
  margin: NonNegativeFloat
  max_shift: NonNegativeInt

  @property
  def methods(self) -> inputs.Methods:
    """What a trained melody encoder can do."""
    return {"embed": (inputs.Waveform(),)}

  @property
  def sample_rate(self) -> int:
    """Hz of the waveforms."""
    return self.log_pitch.sample_rate

  def setup(self):
    init = nn.with_logical_partitioning(normal(fan_in_axes=1), ("embed", None))
    self.head = nn.Dense(self.embed_dim, use_bias=False, kernel_init=init)

  def _embed(self, waveform, train: bool):
    x = self.log_pitch(waveform)
    if train and self.max_shift:
      x = transpose(self.make_rng("dropout"), x, self.max_shift)
    return unit(self.head(self.tower(x, train=train)))

  def __call__(self, batch, *, train: bool):
    """(loss, metrics); triplets are mined over the global batch."""
    labels = jnp.asarray(batch["melody"])
    embeddings = self._embed(batch["waveform"], train)
    losses, counted = semi_hard_loss(embeddings, labels, self.margin)
    weight = counted.sum().astype(jnp.float32)

    def mean(values):
      return jnp.where(counted, values, 0).sum().astype(jnp.float32), weight

    # The partner must beat every other melody; a further rendition of its own is no rival.
    similarity = embeddings @ embeddings.T
    rivals = jnp.where(labels[:, None] != labels[None, :], similarity, -_FAR).max(axis=1)
    found = jnp.diagonal(similarity[:, np.arange(len(labels)) ^ 1]) > rivals
    total = mean(losses)
    return total[0] / jnp.maximum(weight, 1), {
      "loss": total,
      "chance": (self.margin * weight, weight),
      "retrieval_accuracy": mean(found),
      "active_triplets": mean(losses > 0),
    }

  def embed(self, waveform: jax.Array) -> jax.Array:
    """Embeddings [batch, embed_dim] float32 of length 1 of waveforms [batch, samples]."""
    return self._embed(waveform, False)
