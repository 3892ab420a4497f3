"""Views of a clip: level-normalised spectra that w2v-BERT reads and whose clusters it predicts.

Log-mel frames of 25 ms do not resolve semitones below 500 Hz, and their clusters follow level and
timbre. MERT (arXiv 2306.00107) and MuQ (arXiv 2501.01108) add targets of pitch; here each view is
one aspect of the sound: pitch, onsets or timbre. A gain of the clip changes none of them.

A view maps waveforms [batch, samples] at sample_rate Hz to rows [batch, samples // frame, dim]
float32, a row for every `frame` samples. Its window and hop are in samples; hops fill a frame. Rows
are multiplied by `scale`: the weight of a view among others that are quantized together.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from musiclm_jax import spectrograms
from musiclm_jax.ranges import (
  Fraction,
  NonNegativeFloat,
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
)

_SILENT = 1e-6  # the magnitude under which a clip is silent: 40 dB below a sample's last bit


@dataclasses.dataclass(frozen=True)
class MelBands:
  """Slaney mel bands from fmin to fmax Hz."""

  num_bands: PositiveInt
  fmin: NonNegativeFloat
  fmax: PositiveFloat

  def filters(self, sample_rate: int, window: int) -> np.ndarray:
    """Weights [window // 2 + 1, num_bands] float32."""
    return spectrograms.mel_filters(sample_rate, window, self.num_bands, self.fmin, self.fmax)


@dataclasses.dataclass(frozen=True)
class PitchBands:
  """`bands_per_octave` bands to the octave from `fmin` Hz up: a constant-Q transform by filters."""

  num_bands: PositiveInt
  bands_per_octave: PositiveInt
  fmin: PositiveFloat

  def filters(self, sample_rate: int, window: int) -> np.ndarray:
    """Weights [window // 2 + 1, num_bands] float32. Raises as `spectrograms.pitch_filters`."""
    return spectrograms.pitch_filters(
      sample_rate, window, self.num_bands, self.bands_per_octave, self.fmin
    )


@dataclasses.dataclass(frozen=True)
class Spectrum:
  """log(1 + compression * magnitude / the clip's mean), the bands of all hops of a frame in a row.

  A small `compression` leaves the strongest partials, a large one shows weak ones and onsets. Rows
  have a mean square near 1, and less where a frame is far softer than the clip, by `softness`: the
  share of the clip's mean square that is added to the frame's own before its root divides.
  """

  name: str
  bands: MelBands | PitchBands
  window: PositiveInt
  hop: PositiveInt
  compression: PositiveFloat
  softness: Fraction
  scale: PositiveFloat

  def __call__(self, waveform: jax.Array, sample_rate: int, frame: int) -> jax.Array:
    """[batch, samples] to [batch, samples // frame, frame // hop * num_bands] float32."""
    x = _relative(_bands(waveform, self, sample_rate, frame))
    x = jnp.log1p(self.compression * x)
    x = x.reshape(x.shape[0], waveform.shape[1] // frame, -1)
    power = jnp.square(x).mean(axis=2, keepdims=True)
    power = power + self.softness * power.mean(axis=1, keepdims=True)
    return self.scale * x / jnp.sqrt(jnp.maximum(power, _SILENT))


@dataclasses.dataclass(frozen=True)
class Envelope:
  """The spectral envelope: mel-cepstral coefficients 1..num_coefficients, averaged over `seconds`.

  They hold timbre and hardly any pitch: low coefficients do not resolve partials, and the mean over
  several notes has none of them. Coefficient 0, the level, is left out. Magnitudes under
  `floor` times the clip's mean are raised to that.
  """

  name: str
  bands: MelBands
  window: PositiveInt
  hop: PositiveInt
  num_coefficients: PositiveInt
  seconds: PositiveFloat
  floor: PositiveFloat
  scale: PositiveFloat

  def __call__(self, waveform: jax.Array, sample_rate: int, frame: int) -> jax.Array:
    """[batch, samples] to [batch, samples // frame, num_coefficients] float32."""
    x = jnp.log(_relative(_bands(waveform, self, sample_rate, frame)) + self.floor)
    x = x @ _cosines(self.bands.num_bands, self.num_coefficients)
    x = x.reshape(x.shape[0], waveform.shape[1] // frame, -1, x.shape[-1]).mean(axis=2)
    return self.scale * _moving_average(x, round(self.seconds * sample_rate / frame))


@dataclasses.dataclass(frozen=True)
class Flux:
  """How much each band grows in a frame and in the `context` frames on each side: onsets, whatever
  their pitch.

  The growth is that of log(1 + compression * magnitude / the clip's mean) from hop to hop where it
  is positive, summed over a frame, over the root of the clip's mean square.
  """

  name: str
  bands: MelBands | PitchBands
  window: PositiveInt
  hop: PositiveInt
  compression: PositiveFloat
  context: NonNegativeInt
  scale: PositiveFloat

  def __call__(self, waveform: jax.Array, sample_rate: int, frame: int) -> jax.Array:
    """[batch, samples] to [batch, samples // frame, (1 + 2 * context) * num_bands] float32."""
    x = jnp.log1p(self.compression * _relative(_bands(waveform, self, sample_rate, frame)))
    x = jnp.maximum(jnp.diff(x, axis=1, prepend=x[:, :1]), 0)
    frames = waveform.shape[1] // frame
    x = x.reshape(x.shape[0], frames, -1, self.bands.num_bands).sum(axis=2)
    power = jnp.square(x).mean(axis=(1, 2), keepdims=True)
    x = self.scale * x / jnp.sqrt(jnp.maximum(power, _SILENT))
    padded = jnp.pad(x, ((0, 0), (self.context, self.context), (0, 0)))
    shifts = range(1 + 2 * self.context)
    return jnp.concatenate([padded[:, i : i + frames] for i in shifts], axis=2)


View = Spectrum | Envelope | Flux


def _bands(waveform: jax.Array, view: View, sample_rate: int, frame: int) -> jax.Array:
  """Magnitudes [batch, hops, num_bands] float32 of the whole frames.

  Raises ValueError where hops do not fill a frame.
  """
  if frame % view.hop:
    raise ValueError(f"view {view.name}: hops of {view.hop} samples do not fill a frame of {frame}")
  whole = waveform[:, : waveform.shape[1] // frame * frame]
  padded = spectrograms.centred(whole, window=view.window, hop=view.hop)
  magnitudes = spectrograms.magnitudes(padded, window=view.window, hop=view.hop)
  return magnitudes @ view.bands.filters(sample_rate, view.window)


def _relative(x: jax.Array) -> jax.Array:
  """x [batch, n, bands] over the mean of each clip."""
  return x / jnp.maximum(x.mean(axis=(1, 2), keepdims=True), _SILENT)


@functools.lru_cache
def _cosines(size: int, count: int) -> np.ndarray:
  """Coefficients 1..count of the orthonormal DCT-II of `size` values, [size, count] float32."""
  return scipy.fft.dct(np.eye(size), axis=1, norm="ortho")[:, 1 : count + 1].astype(np.float32)


def _moving_average(x: jax.Array, width: int) -> jax.Array:
  """The mean of x [batch, n, dim] over the `width` rows around each; the ends repeat."""
  padded = jnp.pad(x, ((0, 0), (width // 2, width - 1 - width // 2), (0, 0)), mode="edge")
  return sum(padded[:, i : i + x.shape[1]] for i in range(width)) / width
