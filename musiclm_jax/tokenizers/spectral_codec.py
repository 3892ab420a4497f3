"""A codec of magnitudes: SoundStream with all layers at the frame rate and no phase in its codes.

The encoder reads log magnitudes of a short-time spectrum and the decoder makes them; between are
residual units of one width and SoundStream's residual quantizer (2107.03312, III-C). As in Vocos
(2306.00814) and APCodec (2402.10533) nothing is learned above the frame rate. The phase is not
coded: a steady tone keeps its codes, which makes them predictable, and `short_time.Inversion` finds
a phase for what is decoded. In training the decoded magnitudes have the phase of the original, so
that SoundStream's adversaries hear waveforms in which magnitudes alone can be wrong.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from musiclm_jax import spectrograms
from musiclm_jax.ranges import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt
from musiclm_jax.tokenizers import discriminators as adversaries
from musiclm_jax.tokenizers import inputs
from musiclm_jax.tokenizers.convolutions import FrameStack, fold, unfold
from musiclm_jax.tokenizers.discriminators import Discriminators
from musiclm_jax.tokenizers.quantizer import ResidualQuantizer
from musiclm_jax.tokenizers.short_time import Analysis, Inversion

_FLOOR = 2e-6  # of magnitudes, where a sine of full scale has 1: that of 16-bit rounding
_MEAN, _SPREAD = -9.0, 2.5  # of the log magnitudes of music, in nats: networks see about (-1, 1)
_COMPRESSION = 0.3  # exponent of magnitudes that grow like loudness
_BANDS = 32


class SpectralCodec(nn.Module):
  """Meets the model contract on {"waveform": [batch, samples]}; a kind of `protocols.Codec`.

  A spectrum of `window` samples every `spectrum_hop` is cut into frames of `spectra` spectra. Where
  encoder and decoder are causal, windows end with their frame, the decoded waveform is
  window - spectrum_hop samples late, and streams come out as the whole does; else windows are
  centred, nothing is late, and `refinements` rounds over the whole improve the phase.

  The loss is the weighted sum of: "magnitude", the mean absolute difference of log magnitudes in
  nats, in which bins count as the mel scale has them; "loudness", the difference of magnitudes to
  the power 0.3 relative to their mean, in which loud bins count more; "balance", the difference in
  nats of the power of each of 32 mel bands over the waveform, which the other two, being least at a
  median, leave too small; SoundStream's adversarial and feature losses; the discriminators' own;
  and the commitment over the variance of the embeddings.
  Without `discriminators` nothing is adversarial. A share `unquantized` of the examples trains past
  the quantizer.
  """

  sample_rate: PositiveInt
  window: PositiveInt
  spectrum_hop: PositiveInt
  spectra: PositiveInt
  encoder: FrameStack
  quantizer: ResidualQuantizer
  decoder: FrameStack
  inversion_iterations: PositiveInt
  discriminators: Discriminators | None
  magnitude_weight: NonNegativeFloat
  loudness_weight: NonNegativeFloat
  balance_weight: NonNegativeFloat
  adversarial_weight: NonNegativeFloat
  feature_weight: NonNegativeFloat
  commitment_weight: NonNegativeFloat
  adversarial_samples: PositiveInt
  unquantized: Fraction
  refinements: NonNegativeInt = 0  # of codecs described before there was a choice

  @property
  def methods(self) -> inputs.Methods:
    """What a trained codec can do."""
    codes = inputs.Codes(self.num_quantizers, self.codebook_size)
    return {"encode": (inputs.Waveform(),), "decode": (codes,)}

  @property
  def hop(self) -> int:
    """Samples in a frame."""
    return self.spectrum_hop * self.spectra

  @property
  def frame_rate(self) -> float:
    """Frames of codes in a second."""
    return self.sample_rate / self.hop

  @property
  def num_quantizers(self) -> int:
    """Codes in a frame."""
    return self.quantizer.num_quantizers

  @property
  def codebook_size(self) -> int:
    """How many codes each level has."""
    return self.quantizer.codebook_size

  @property
  def bins(self) -> int:
    """Magnitudes in a spectrum: the highest, at half the sample rate, is left out."""
    return self.window // 2

  def setup(self):
    if self.encoder is self.decoder:
      raise ValueError("encoder and decoder are one FrameStack: they would share their weights")
    if self.encoder.causal != self.decoder.causal:
      raise ValueError("wanted an encoder and a decoder that are both causal or both not")

    def dense(features, axes):
      init = nn.initializers.lecun_normal()
      return nn.Dense(features, kernel_init=nn.with_logical_partitioning(init, axes))

    self.to_code = dense(self.quantizer.dim, ("channels_in", "channels_out"))
    self.to_spectra = dense(self.spectra * self.bins, ("channels_in", "channels_out"))
    self.analysis = Analysis(self.window, self.spectrum_hop, self.encoder.causal)
    refinements = 0 if self.encoder.causal else self.refinements
    self.inversion = Inversion(
      self.window, self.spectrum_hop, self.inversion_iterations, refinements
    )

  def encode(self, waveform):
    """Codes [batch, ceil(samples / hop), num_quantizers] int32 of [batch, samples], zeros after its
    end.
    """
    logs = _log(self._scaled(jnp.abs(self._spectrum(waveform))))
    return self.quantizer.encode(self._embed(logs))

  def decode(self, codes):
    """Waveform [batch, frames * hop] float32 of codes [batch, frames, levels], levels <=
    num_quantizers.
    """
    logs = self._spectra(self.quantizer.decode(codes))
    waveform = self.inversion(self._magnitudes(logs))
    late = 0 if self.decoder.causal else (self.window - self.spectrum_hop) // 2
    return waveform[:, late : late + codes.shape[1] * self.hop]

  def __call__(self, batch, *, train: bool):
    """(loss, metrics): all parts of the loss, chance (the loss of silence), chroma (correlation of
    the pitch classes of decoded and original magnitudes), codebook use.
    """
    spectrum = self._spectrum(batch["waveform"])
    original = self._scaled(jnp.abs(spectrum))
    logs = _log(original)
    embeddings = self._embed(logs)
    quantized, _, metrics = self.quantizer(embeddings, train)
    if train and self.unquantized:
      past = jax.random.bernoulli(self.make_rng("dropout"), self.unquantized, (len(logs), 1, 1))
      quantized = jnp.where(past, embeddings, quantized)
    decoded = self._spectra(quantized)
    losses = self._distances(logs, decoded)
    silence = self._distances(logs, jnp.full_like(logs, np.log(_FLOOR)))
    weights = {
      "magnitude": self.magnitude_weight,
      "loudness": self.loudness_weight,
      "balance": self.balance_weight,
    }
    chance = sum(weights[name] * silence[name] for name in weights)
    loss = 0.0
    if self.discriminators is not None:
      rng = self.make_rng("dropout") if train and not self.is_initializing() else None
      x, y = self._heard(spectrum, decoded)
      judge, own = adversaries.opposed(self.discriminators, x, y, self.adversarial_samples, rng)
      losses |= judge(y)
      weights |= {"adversarial": self.adversarial_weight, "features": self.feature_weight}
      losses["discriminator"] = loss = own
    variance = jnp.square(embeddings - embeddings.mean(axis=(0, 1), keepdims=True)).mean()
    commitment = metrics["commitment"][0] / metrics["commitment"][1]
    commitment = commitment / jnp.maximum(lax.stop_gradient(variance), 1e-6)
    loss += sum(weights[name] * losses[name] for name in weights)
    loss += self.commitment_weight * commitment
    chroma = _chroma_correlation(original, jnp.exp(decoded) - _FLOOR, self.sample_rate)
    parts = {"loss": loss, "chance": chance, **losses, "chroma": chroma}
    weight = jnp.asarray(len(logs), jnp.float32)
    parts = {name: (lax.stop_gradient(value) * weight, weight) for name, value in parts.items()}
    return loss, metrics | parts | {"commitment": (lax.stop_gradient(commitment) * weight, weight)}

  def _spectrum(self, waveform):
    """Complex spectra [batch, frames * spectra, bins] of [batch, samples]."""
    waveform = jnp.pad(waveform, ((0, 0), (0, -waveform.shape[1] % self.hop)))
    return self.analysis(waveform)[..., : self.bins]

  def _scaled(self, magnitudes):
    """Magnitudes in which a sine of full scale has 1."""
    return magnitudes * (4.0 / self.window)

  def _embed(self, logs):
    x = fold((logs - _MEAN) / _SPREAD, self.spectra)
    return self.to_code(self.encoder(x)).astype(jnp.float32)

  def _spectra(self, embeddings):
    """Log magnitudes [batch, frames * spectra, bins] of embeddings [batch, frames, dim]."""
    x = self.to_spectra(self.decoder(embeddings)).astype(jnp.float32)
    return unfold(x, self.spectra) * _SPREAD + _MEAN

  def _magnitudes(self, logs):
    """Magnitudes [batch, spectra, bins + 1] as `spectrograms.stft` has them."""
    magnitudes = jnp.maximum(jnp.exp(logs) - _FLOOR, 0.0) * (self.window / 4.0)
    return jnp.pad(magnitudes, ((0, 0), (0, 0), (0, 1)))

  def _heard(self, spectrum, logs):
    """Waveforms [batch, samples] of the spectrum, and of decoded magnitudes with its phase."""
    spectrum = jnp.pad(spectrum, ((0, 0), (0, 0), (0, 1)))
    length = jnp.abs(spectrum)
    phase = spectrum / jnp.maximum(length, 1e-12)
    decoded = self._magnitudes(logs) * phase
    invert = functools.partial(spectrograms.istft, window=self.window, hop=self.spectrum_hop)
    inside = slice(self.window // 2, -self.window // 2)  # where several windows overlap
    return tuple(invert(z)[:, inside] for z in (spectrum, decoded))

  def _distances(self, logs, decoded):
    bins = 700.0 + np.arange(self.bins) * self.sample_rate / self.window
    weights = (1 / bins / (1 / bins).mean()).astype(np.float32)[None, None]
    loud, made = (jnp.exp(_COMPRESSION * x) for x in (logs, decoded))
    bands = spectrograms.mel_filters(self.sample_rate, self.window, _BANDS, 0.0, None)[:-1]
    powers = [jnp.exp(2 * x).mean(axis=1) @ bands for x in (logs, decoded)]
    return {
      "magnitude": (jnp.abs(logs - decoded) * weights).mean(),
      "loudness": (jnp.abs(loud - made) * weights).mean() / (loud * weights).mean(),
      "balance": jnp.abs(jnp.log(powers[0]) - jnp.log(powers[1])).mean() / 2,
    }


def _log(magnitudes):
  return jnp.log(magnitudes + _FLOOR)


@functools.lru_cache(maxsize=8)
def _chroma_filters(sample_rate: int, bins: int) -> np.ndarray:
  """[bins, 12] float32: shares of pitch classes, most around A4 (Ellis 2007, fft2chromamx.m)."""
  frequencies = np.arange(1, 2 * bins) * sample_rate / (2 * bins)
  octaves = np.log2(frequencies / 27.5)  # above A0
  octaves = np.concatenate([octaves[:1] - 1.5, octaves])
  widths = np.append(np.maximum(12 * np.diff(octaves), 1.0), 1.0)  # of bins, in semitones
  distances = (12 * octaves[:, None] - np.arange(3, 15) + 6) % 12 - 6  # from C, C sharp, ...
  bumps = np.exp(-0.5 * (2 * distances / widths[:, None]) ** 2)
  bumps /= np.linalg.norm(bumps, axis=1, keepdims=True)
  heard = np.exp(-0.5 * ((octaves - 4.0) / 2.0) ** 2)  # by octave
  return (bumps * heard[:, None])[:bins].astype(np.float32)


def _chroma_correlation(x, y, sample_rate: int):
  """The mean over frames of the correlation of pitch classes of magnitudes [batch, frames, bins].

  A frame counts by its power in x.
  """
  filters = _chroma_filters(sample_rate, x.shape[-1])
  a, b = (jnp.square(z) @ filters for z in (x, lax.stop_gradient(y)))
  power = a.sum(axis=-1)
  a, b = (z - z.mean(axis=-1, keepdims=True) for z in (a, b))
  norms = jnp.sqrt(jnp.square(a).sum(axis=-1) * jnp.square(b).sum(axis=-1))
  return ((a * b).sum(axis=-1) / (norms + 1e-12) * power).sum() / (power.sum() + 1e-12)
