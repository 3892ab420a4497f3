"""STFT and log-mel spectrograms in JAX, as they run inside models.

A waveform is float32 in [-1, 1], [..., samples], mono.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

LOG_FLOOR = 1e-5  # log-mel spectrograms are ln(max(mel, LOG_FLOOR)), about -100 dB


def frame(waveform: jnp.ndarray, window: int, hop: int) -> jnp.ndarray:
  """[..., samples] to [..., frames, window], frames = 1 + (samples - window) // hop, no padding."""
  frames = 1 + (waveform.shape[-1] - window) // hop
  parts = -(-window // hop)
  whole = (frames + parts - 1) * hop
  # Slices of blocks of one hop, not a gather: fast forward and backward on every backend.
  fitted = waveform[..., :whole]
  fill = [(0, 0)] * (fitted.ndim - 1) + [(0, whole - fitted.shape[-1])]
  blocks = jnp.pad(fitted, fill).reshape(*fitted.shape[:-1], frames + parts - 1, hop)
  joined = jnp.concatenate([blocks[..., i : i + frames, :] for i in range(parts)], axis=-1)
  return joined[..., :window]


def centred(waveform: jnp.ndarray, *, window: int, hop: int) -> jnp.ndarray:
  """[..., samples] with zeros at both ends, of which `frame` makes samples // hop frames.

  The hop of a frame is the middle of its window, which is at least as long.
  """
  pad = window - hop
  ends = [(0, 0)] * (waveform.ndim - 1) + [(pad // 2, pad - pad // 2)]
  return jnp.pad(waveform[..., : waveform.shape[-1] // hop * hop], ends)


def stft(waveform: jnp.ndarray, *, window: int, hop: int) -> jnp.ndarray:
  """Short-time Fourier transform [..., frames, window // 2 + 1] complex64 of [..., samples].

  The window is a periodic Hann window; frames as in `frame`.
  """
  hann = hann_window(window)
  frames = frame(waveform, window, hop)
  frames = frames * hann.reshape((1,) * (frames.ndim - 1) + (-1,))
  return jax.lax.platform_dependent(frames, tpu=fourier_product, default=jnp.fft.rfft)


def overlap_add(frames: jnp.ndarray, hop: int) -> jnp.ndarray:
  """[..., frames, window] to the sum [..., (frames - 1) * hop + window] of frames `hop` apart."""
  count, window = frames.shape[-2:]
  parts = -(-window // hop)
  fill = [(0, 0)] * (frames.ndim - 1) + [(0, parts * hop - window)]
  blocks = jnp.pad(frames, fill).reshape(*frames.shape[:-1], parts, hop)
  ends = [(0, 0)] * (frames.ndim - 2)
  # Shifted sums of blocks of one hop, not a scatter: as in `frame`.
  total = sum(jnp.pad(blocks[..., i, :], [*ends, (i, parts - 1 - i), (0, 0)]) for i in range(parts))
  return total.reshape(*frames.shape[:-2], -1)[..., : (count - 1) * hop + window]


def istft(spectrum: jnp.ndarray, *, window: int, hop: int) -> jnp.ndarray:
  """The waveform [..., (frames - 1) * hop + window] whose `stft` is nearest to a spectrum.

  spectrum is [..., frames, window // 2 + 1] complex64 (Griffin and Lim 1984, eq. 6: overlap-add of
  the windowed inverse transforms over the sum of the squared windows).
  """
  hann = hann_window(window)
  frames = jnp.fft.irfft(spectrum, window) * hann.reshape((1,) * (spectrum.ndim - 1) + (-1,))
  weight = overlap_add(jnp.broadcast_to(hann**2, (spectrum.shape[-2], window)), hop)
  weight = jnp.maximum(weight, 1e-2).reshape((1,) * (spectrum.ndim - 2) + (-1,))
  return overlap_add(frames, hop) / weight


def hann_window(window: int) -> np.ndarray:
  """A periodic Hann window [window] float32."""
  return np.hanning(window + 1)[:-1].astype(np.float32)


def fourier_product(frames: jnp.ndarray) -> jnp.ndarray:
  """rfft over the last axis as a matrix product, [..., size // 2 + 1] complex64.

  For TPUs, which are fast at matrix products; their compiler takes half a minute for one FFT.
  """
  size = frames.shape[-1]
  cycles = np.outer(np.arange(size), np.arange(size // 2 + 1)) % size / size
  parts = (np.cos(2 * np.pi * cycles), -np.sin(2 * np.pi * cycles))
  real, imaginary = (
    jnp.matmul(frames, part.astype(np.float32), precision=jax.lax.Precision.HIGHEST)
    for part in parts
  )
  return jax.lax.complex(real, imaginary)


@functools.lru_cache(maxsize=64)
def mel_filters(
  sample_rate: int, window: int, num_mels: int, fmin: float, fmax: float | None
) -> np.ndarray:
  """Mel filters [window // 2 + 1, num_mels] float32 of Slaney's Auditory Toolbox (1998, mfcc.m).

  Triangles of area 1 over the frequencies of a transform of `window` samples, with edges that are
  evenly spaced in mel between fmin and fmax (None: half the sample rate); short windows leave low
  filters empty.
  """
  frequencies = np.fft.rfftfreq(window, 1 / sample_rate)
  ends = [fmin, sample_rate / 2 if fmax is None else fmax]
  edges = _mel_to_hz(np.linspace(*_hz_to_mel(np.array(ends, float)), num_mels + 2))
  low, centre, high = edges[:-2], edges[1:-1], edges[2:]
  rising = (frequencies[:, None] - low) / (centre - low)
  falling = (high - frequencies[:, None]) / (high - centre)
  triangles = np.maximum(np.minimum(rising, falling), 0.0).astype(np.float32)
  return (triangles * (2 / (high - low))).astype(np.float32)


# Slaney's mel scale: 200 / 3 Hz a mel up to 1 kHz, from there 27 mels for a factor of 6.4.
_LINEAR, _CORNER, _STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
  above = np.log(np.maximum(hz, _CORNER) / _CORNER) / _STEP
  return np.minimum(hz, _CORNER) / _LINEAR + above


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
  corner = _CORNER / _LINEAR
  above = np.exp(_STEP * (np.maximum(mel, corner) - corner))
  return np.minimum(mel, corner) * _LINEAR * above


@functools.lru_cache(maxsize=64)
def pitch_filters(
  sample_rate: int, window: int, num_bands: int, bands_per_octave: int, fmin: float
) -> np.ndarray:
  """Triangular filters [window // 2 + 1, num_bands] float32 on a logarithmic axis of frequency.

  The centres are `bands_per_octave` to the octave from `fmin` Hz up, the sum of each filter is 1. A
  filter narrower than the resolution of the transform is widened to it. Raises ValueError where the
  highest filter exceeds half the sample rate.
  """
  centres = fmin * 2.0 ** (np.arange(num_bands) / bands_per_octave)
  resolution = sample_rate / window
  widths = np.maximum(centres * (2 ** (1 / bands_per_octave) - 1), resolution)
  if centres[-1] + widths[-1] > sample_rate / 2:
    raise ValueError(
      f"wanted bands below {sample_rate / 2} Hz, found {num_bands} of them from"
      f" {fmin} Hz up to {centres[-1]:.0f} Hz"
    )
  frequencies = np.arange(window // 2 + 1)[:, None] * resolution
  weights = np.maximum(1 - np.abs(frequencies - centres) / widths, 0)
  return (weights / weights.sum(axis=0)).astype(np.float32)


def magnitudes(waveform: jnp.ndarray, *, window: int, hop: int) -> jnp.ndarray:
  """Magnitudes [..., frames, window // 2 + 1] float32 of the `stft` of [..., samples]."""
  spectrum = stft(waveform, window=window, hop=hop)
  # The gradient of |z| at 0 is NaN; the offset is 60 dB below LOG_FLOOR.
  return jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-16)


def mel(waveform, *, sample_rate, window, hop, num_mels, fmin=0.0, fmax=None) -> jnp.ndarray:
  """Mel magnitudes [..., frames, num_mels] float32 of [..., samples] at `sample_rate` Hz."""
  magnitude = magnitudes(waveform, window=window, hop=hop)
  return magnitude @ mel_filters(sample_rate, window, num_mels, fmin, fmax)


def log_mel(waveform, *, sample_rate, window, hop, num_mels, fmin=0.0, fmax=None) -> jnp.ndarray:
  """ln(max(mel, LOG_FLOOR)) [..., frames, num_mels] of [..., samples] at `sample_rate` Hz."""
  spectrogram = mel(
    waveform,
    sample_rate=sample_rate,
    window=window,
    hop=hop,
    num_mels=num_mels,
    fmin=fmin,
    fmax=fmax,
  )
  return jnp.log(jnp.maximum(spectrogram, LOG_FLOOR))
