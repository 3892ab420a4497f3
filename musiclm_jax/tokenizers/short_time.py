"""Short-time spectra of waveforms and waveforms for their magnitudes, whole or as streams.

`Inversion` is RTISI (Beauregard, Zhu and Wyse 2005, "An efficient
algorithm for real-time spectrogram inversion"): it finds the phase of one frame after another. A
frame starts from the overlap of the frames before it, which continues their tones, and is improved
by rounds of Griffin and Lim's projection (1984) on its own window alone. It needs no future; where
there is one, rounds over the whole waveform improve it further.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from musiclm_jax import spectrograms
from musiclm_jax.ranges import NonNegativeInt, PositiveInt

_FLOOR = 1e-2  # of the sum of squared windows, at the start of the sound


class Analysis(nn.Module):
  """Waveforms [batch, samples] to spectra [batch, samples / hop, window // 2 + 1] complex64.

  samples is a multiple of hop. Where `causal` the window of a spectrum ends with its hop samples,
  else they are in its middle; around the waveform is silence. Where the collection "stream" is
  mutable, a waveform continues that of the call before. Raises ValueError for a stream that is not
  causal.
  """

  window: PositiveInt
  hop: PositiveInt
  causal: bool

  @nn.compact
  def __call__(self, waveform: jax.Array) -> jax.Array:
    outside = self.window - self.hop
    if self.is_mutable_collection("stream") and not self.is_initializing():
      if not self.causal:
        raise ValueError("a stream wants a causal model; this one sees the future")
      past = self.variable("stream", "past", jnp.zeros, (len(waveform), outside), waveform.dtype)
      waveform = jnp.concatenate([past.value, waveform], axis=1)
      past.value = waveform[:, waveform.shape[1] - outside :]
    else:
      before = outside if self.causal else outside // 2
      waveform = jnp.pad(waveform, ((0, 0), (before, outside - before)))
    return spectrograms.stft(waveform, window=self.window, hop=self.hop)


class Inversion(nn.Module):
  """Magnitudes [batch, frames, window // 2 + 1] of an STFT to a waveform float32.

  The waveform [batch, (frames - 1) * hop + window] is that of the frames from the start of the
  first to the end of the last, improved by `refinements` rounds of Griffin and Lim's projection of
  the whole. Where the collection "stream" is mutable, frames continue those of the call before, and
  the samples [batch, frames * hop] come out that later frames cannot change. Raises ValueError for
  a stream with refinements.
  """

  window: PositiveInt
  hop: PositiveInt
  iterations: PositiveInt
  refinements: NonNegativeInt = 0

  @nn.compact
  def __call__(self, magnitudes: jax.Array) -> jax.Array:
    batch = magnitudes.shape[0]
    start = jnp.zeros((batch, self.window)), jnp.zeros((self.window,))
    magnitudes = magnitudes.astype(jnp.float32).swapaxes(0, 1)
    if self.is_mutable_collection("stream") and not self.is_initializing():
      if self.refinements:
        raise ValueError("a stream wants no refinements: they see the future")
      overlap = self.variable("stream", "overlap", lambda: start[0])
      weight = self.variable("stream", "weight", lambda: start[1])
      state = overlap.value, weight.value
      (overlap.value, weight.value), pieces = lax.scan(self._add, state, magnitudes)
      return _joined(pieces)
    (overlap, weight), pieces = lax.scan(self._add, start, magnitudes)
    rest = self.window - self.hop
    tail = overlap[:, :rest] / jnp.maximum(weight, _FLOOR)[None, :rest]
    waveform = jnp.concatenate([_joined(pieces), tail], axis=1)
    return self._refined(waveform, magnitudes.swapaxes(0, 1))

  def _add(self, state, magnitudes):
    """The state after one frame of magnitudes [batch, bins], and the samples [batch, hop] it ends.

    The state is the weighted sum [batch, window] of the frames so far, from the start of the next
    frame's window on, and the sum [window] of their squared windows.
    """
    overlap, weight = state
    hann = spectrograms.hann_window(self.window)
    spread = hann[None]

    def project(estimate):
      spectrum = jnp.fft.rfft(estimate * spread)
      return jnp.fft.irfft(magnitudes * self._phase(spectrum), self.window)

    def improve(_, frame):
      total, squares = overlap + frame * spread, weight + hann**2
      return project(total / jnp.maximum(squares, _FLOOR)[None])

    frame = project(overlap / jnp.maximum(weight, _FLOOR)[None])
    frame = lax.fori_loop(1, self.iterations, improve, frame)
    overlap, weight = overlap + frame * spread, weight + hann**2
    ended = overlap[:, : self.hop] / jnp.maximum(weight, _FLOOR)[None, : self.hop]
    overlap = jnp.pad(overlap[:, self.hop :], ((0, 0), (0, self.hop)))
    return (overlap, jnp.pad(weight[self.hop :], (0, self.hop))), ended

  def _refined(self, waveform, magnitudes):
    def project(_, waveform):
      spectrum = spectrograms.stft(waveform, window=self.window, hop=self.hop)
      spectrum = magnitudes * self._phase(spectrum)
      return spectrograms.istft(spectrum, window=self.window, hop=self.hop)

    return lax.fori_loop(0, self.refinements, project, waveform)

  def _phase(self, spectrum):
    """Numbers of length 1 of a spectrum [..., bins]; of a pulse in the middle where it is 0."""
    length = jnp.abs(spectrum)
    middle = jnp.asarray(np.where(np.arange(spectrum.shape[-1]) % 2, -1.0, 1.0), jnp.complex64)
    known = length > 1e-6
    return jnp.where(known, spectrum / jnp.where(known, length, 1.0), middle)


def _joined(pieces):
  """[frames, batch, hop] to [batch, frames * hop]."""
  return pieces.swapaxes(0, 1).reshape(pieces.shape[1], -1)
