"""The front ends of w2v-BERT: a waveform to views of its frames, and those to features.

`LogMel` is the paper's (arXiv 2108.06209). `Views` reads level-normalised spectra that resolve
semitones (tokenizers/views.py). Both give `views(waveform)`, {name: [batch, frames, dim] float32},
of which targets cluster one, and `vectors(waveform)`, those of which codes can be made without the
layers; and they map views to features [batch, frames, embed].
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from musiclm_jax import spectrograms
from musiclm_jax.encoder import Affine
from musiclm_jax.layers import norm, normal, standardised
from musiclm_jax.ranges import Fraction, PositiveInt
from musiclm_jax.tokenizers.views import View

_SUBSAMPLING = 4  # two convolutions of stride 2


def whole_frames(waveform: jax.Array, frame: int) -> int:
  """How many times `frame` samples [batch, samples] has. Raises ValueError where not once."""
  if waveform.shape[1] < frame:
    raise ValueError(f"wanted a waveform of {frame} samples or more, found {waveform.shape[1]}")
  return waveform.shape[1] // frame


class LogMel(nn.Module):
  """A log-mel spectrogram; two convolutions of stride 2, a linear layer and a norm over it.

  window and hop are samples at `sample_rate` Hz.
  """

  sample_rate: PositiveInt
  window: PositiveInt
  hop: PositiveInt
  num_mels: PositiveInt
  channels: PositiveInt
  embed_dim: PositiveInt
  dtype: str

  def views(self, waveform: jax.Array) -> dict[str, jax.Array]:
    """{"log_mel": [batch, frames, 4 * num_mels] float32}, frames = samples // (4 * hop).

    -1 is silence, 1 a magnitude of 1. The last samples that fill no frame are dropped; raises
    ValueError where they are all.
    """
    stride = _SUBSAMPLING * self.hop
    frames = whole_frames(waveform, stride)
    x = spectrograms.log_mel(
      spectrograms.centred(waveform[:, : frames * stride], window=self.window, hop=self.hop),
      sample_rate=self.sample_rate,
      window=self.window,
      hop=self.hop,
      num_mels=self.num_mels,
    )
    x = x.reshape(x.shape[0], frames, -1)
    return {"log_mel": 1 - 2 * x / math.log(spectrograms.LOG_FLOOR)}

  def vectors(self, waveform: jax.Array) -> jax.Array:
    """The view [batch, frames, 4 * num_mels] float32. Raises as `views`."""
    return self.views(waveform)["log_mel"]

  @nn.compact
  def __call__(self, views: dict[str, jax.Array], train: bool) -> jax.Array:
    """The view of 4 * num_mels to features [batch, frames, embed]."""
    x = views["log_mel"]
    batch, frames, _ = x.shape
    x = x.reshape(batch, frames * _SUBSAMPLING, self.num_mels)
    x = x[..., None].astype(self.dtype)
    for index in range(2):
      x = nn.relu(
        nn.Conv(
          self.channels,
          (3, 3),
          strides=(2, 2),
          dtype=self.dtype,
          kernel_init=nn.with_logical_partitioning(
            normal(fan_in_axes=3), ("kernel", "kernel", "channels_in", "channels_out")
          ),
          bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), ("channels_out",)),
          name=f"convolution_{index}",
        )(x)
      )
    x = x.reshape(*x.shape[:2], -1)
    init = nn.with_logical_partitioning(normal(fan_in_axes=1), ("mlp", "embed"))
    x = x @ self.param("project", init, (x.shape[-1], self.embed_dim)).astype(self.dtype)
    return norm("norm", self.dtype)(x)


class Views(nn.Module):
  """Several views side by side; two linear layers with a Swish between them, and a norm.

  Every dimension is brought to mean 0 and variance 1 first: over the batch in training, by moving
  averages of `decay` (collection "batch_stats") in evaluation. Magnitudes are positive, and what
  all frames have in common would hide how they differ. There is a frame for every `frame` samples
  at `sample_rate` Hz. `coded` names the views that are side by side in `vectors`.
  """

  kinds: tuple[View, ...]
  coded: tuple[str, ...]
  sample_rate: PositiveInt
  frame: PositiveInt
  decay: Fraction
  mlp_dim: PositiveInt
  embed_dim: PositiveInt
  dtype: str

  def views(self, waveform: jax.Array) -> dict[str, jax.Array]:
    """{name of a view: [batch, samples // frame, its dim] float32}.

    The last samples that fill no frame are dropped; raises ValueError where they are all.
    """
    whole_frames(waveform, self.frame)
    return {kind.name: kind(waveform, self.sample_rate, self.frame) for kind in self.kinds}

  def vectors(self, waveform: jax.Array) -> jax.Array:
    """The views `coded` side by side, [batch, frames, the sum of their dims] float32.

    Raises as `views`, and where there is no such view.
    """
    views = self.views(waveform)
    if unknown := sorted(set(self.coded) - set(views)):
      raise ValueError(f"coded: wanted some of {', '.join(views)}, found {unknown[0]!r}")
    return jnp.concatenate([views[name] for name in self.coded], axis=-1)

  @nn.compact
  def __call__(self, views: dict[str, jax.Array], train: bool) -> jax.Array:
    """The views to features [batch, frames, embed]."""
    x = jnp.concatenate([views[kind.name] for kind in self.kinds], axis=-1)
    x = standardised("standardise", x, train, self.decay).astype(self.dtype)
    x = Affine((self.mlp_dim,), (None, "mlp"), self.dtype, name="wi")(x)
    x = Affine((self.embed_dim,), ("mlp", "embed"), self.dtype, name="wo")(nn.swish(x))
    return norm("norm", self.dtype)(x)
