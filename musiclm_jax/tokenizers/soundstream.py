"""SoundStream, a neural audio codec (Zeghidour et al. 2021, 2107.03312)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from musiclm_jax import spectrograms
from musiclm_jax.ranges import Fraction, NonNegativeFloat, PositiveInt
from musiclm_jax.tokenizers import discriminators as adversaries
from musiclm_jax.tokenizers import inputs
from musiclm_jax.tokenizers.balancer import Balancer, WeightedSum
from musiclm_jax.tokenizers.convolutions import Decoder, Encoder
from musiclm_jax.tokenizers.discriminators import Discriminators
from musiclm_jax.tokenizers.quantizer import ResidualQuantizer

WINDOWS = (64, 128, 256, 512, 1024, 2048)
NUM_MELS = 64


def spectral_loss(x, y, sample_rate: int):
  """Multi-scale spectral distance of waveforms [batch, samples], a float32 scalar (III-E, eq. 4-5).

  Over windows s of 64 to 2048 samples, hop s / 4: mean absolute difference of 64-bin mel
  spectrograms, plus sqrt(s / 2) times the root mean square difference of their logarithms in a
  frame.
  """
  loss = 0.0
  for window in WINDOWS:
    mels = [_mel(waveform, sample_rate, window) for waveform in (x, y)]
    logs = [jnp.log(jnp.maximum(mel, spectrograms.LOG_FLOOR)) for mel in mels]
    squares = jnp.square(logs[0] - logs[1]).mean(axis=-1)
    # the gradient of the root is infinite at 0
    roots = jnp.sqrt(squares + 1e-8).mean()
    loss += jnp.abs(mels[0] - mels[1]).mean() + (window / 2) ** 0.5 * roots
  return loss


def log_mel_distance(x, y, sample_rate: int):
  """Mean absolute difference [batch] of natural-log 64-bin mel spectrograms of [batch, samples].

  The mean is over the windows of 64 to 2048 samples (hop a quarter), frames and bins; floor 1e-5.
  """
  distances = []
  for window in WINDOWS:
    mels = [_mel(waveform, sample_rate, window) for waveform in (x, y)]
    logs = [jnp.log(jnp.maximum(mel, spectrograms.LOG_FLOOR)) for mel in mels]
    distances.append(jnp.abs(logs[0] - logs[1]).mean(axis=(1, 2)))
  return sum(distances) / len(distances)


def si_snr(target, estimate):
  """Scale-invariant signal-to-noise ratio [batch] in dB of an estimate [batch, samples]."""
  target = target - target.mean(axis=-1, keepdims=True)
  estimate = estimate - estimate.mean(axis=-1, keepdims=True)
  power = jnp.square(target).sum(axis=-1, keepdims=True)
  signal = (target * estimate).sum(axis=-1, keepdims=True) / (power + 1e-8) * target
  noise = jnp.square(estimate - signal).sum(axis=-1)
  return 10 * jnp.log10((jnp.square(signal).sum(axis=-1) + 1e-8) / (noise + 1e-8))


def _mel(waveform, sample_rate, window):
  return spectrograms.mel(
    waveform, sample_rate=sample_rate, window=window, hop=window // 4, num_mels=NUM_MELS
  )


class SoundStream(nn.Module):
  """The codec with its adversaries; meets the model contract on {"waveform": [batch, samples]}.

  The loss is the generator's plus the discriminators': stop-gradients keep each from moving the
  other's parameters, so an optimizer may treat "discriminators", one branch of the parameters,
  separately. The discriminators are given `adversarial_samples` of each waveform, a random slice.
  A share `unquantized` of the examples trains past the quantizer (0 in the paper; Mimi, 2410.00037,
  takes a half): encoder and decoder then learn before the codebooks are useful. The distance of
  waveforms relative to silence has `waveform_weight` (0 in the paper; EnCodec, 2210.13438, has such
  a term): short trainings learn the phase from it, which spectra do not contain. `combine` makes
  one loss of those of the output: all but the commitment and the discriminators' own.
  """

  sample_rate: PositiveInt
  encoder: Encoder
  quantizer: ResidualQuantizer
  decoder: Decoder
  discriminators: Discriminators
  reconstruction_weight: NonNegativeFloat
  waveform_weight: NonNegativeFloat
  adversarial_weight: NonNegativeFloat
  feature_weight: NonNegativeFloat
  commitment_weight: NonNegativeFloat
  adversarial_samples: PositiveInt
  unquantized: Fraction
  combine: WeightedSum | Balancer = WeightedSum()  # of codecs described before there was a choice

  @property
  def methods(self) -> inputs.Methods:
    """What a trained codec can do."""
    codes = inputs.Codes(self.num_quantizers, self.codebook_size)
    return {"encode": (inputs.Waveform(),), "decode": (codes,)}

  @property
  def hop(self) -> int:
    """Samples in a frame."""
    return self.encoder.hop

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

  def encode(self, waveform):
    """Codes [batch, ceil(samples / hop), num_quantizers] int32 of [batch, samples], zeros after its
    end.
    """
    return self.quantizer.encode(self.encoder(self._whole_frames(waveform)))

  def decode(self, codes):
    """Waveform [batch, frames * hop] float32 of codes [batch, frames, levels], levels <=
    num_quantizers.
    """
    return self.decoder(self.quantizer.decode(codes))

  def __call__(self, batch, *, train: bool):
    """(loss, metrics): all parts of the loss, chance (the reconstruction and waveform loss of
    silence), si_snr in dB, log_mel and log_mel_silence (log_mel_distance to the output and to
    silence), codebook use.
    """
    if self.encoder.hop != self.decoder.hop:
      raise ValueError(
        f"SoundStream wants one hop, found {self.encoder.hop} and {self.decoder.hop}"
      )
    x = self._whole_frames(batch["waveform"])
    embeddings = self.encoder(x)
    quantized, _, metrics = self.quantizer(embeddings, train)
    if train and self.unquantized:
      past = jax.random.bernoulli(self.make_rng("dropout"), self.unquantized, (len(x), 1, 1))
      quantized = jnp.where(past, embeddings, quantized)
    y = self.decoder(quantized)
    commitment = metrics["commitment"][0] / metrics["commitment"][1]
    losses, discriminator = self._losses(x, y, train)
    weights = {
      "reconstruction": self.reconstruction_weight,
      "waveform": self.waveform_weight,
      "adversarial": self.adversarial_weight,
      "features": self.feature_weight,
    }
    loss, values = self.combine(losses, y, weights, train)
    loss = loss + self.commitment_weight * commitment + discriminator
    silence = jnp.zeros_like(x)
    parts = {
      "loss": loss,
      "chance": self.reconstruction_weight * spectral_loss(x, silence, self.sample_rate)
      + self.waveform_weight,
      **values,
      "discriminator": discriminator,
      "si_snr": si_snr(x, y).mean(),
      "log_mel": log_mel_distance(x, y, self.sample_rate).mean(),
      "log_mel_silence": log_mel_distance(x, silence, self.sample_rate).mean(),
    }
    weight = jnp.asarray(len(x), jnp.float32)
    parts = {name: (lax.stop_gradient(value) * weight, weight) for name, value in parts.items()}
    return loss, metrics | parts

  def _whole_frames(self, waveform):
    return jnp.pad(waveform, ((0, 0), (0, -waveform.shape[1] % self.hop)))

  def _losses(self, x, y, train: bool):
    """The losses of an output, a function of [batch, samples] to {name: scalar}, and the
    discriminators' own loss on x and y [batch, samples].

    The first have no gradient to the discriminators, the last none to the generator. Adversaries
    see the same `adversarial_samples` of all; from the start unless `train`.
    """
    rng = self.make_rng("dropout") if train and not self.is_initializing() else None
    judge, discriminator = adversaries.opposed(
      self.discriminators, x, y, self.adversarial_samples, rng
    )

    def losses(output):
      distance = jnp.abs(x - output).mean()
      return {
        "reconstruction": spectral_loss(x, output, self.sample_rate),
        "waveform": distance / (jnp.abs(x).mean() + spectrograms.LOG_FLOOR),
      } | judge(output)

    return losses, discriminator
