"""Spectrograms against librosa and NumPy."""

import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from musiclm_jax import spectrograms


@pytest.mark.parametrize("window, hop", [(1024, 256), (600, 240)])
def test_stft_and_log_mel_match_librosa(window, hop):
  noise = np.random.default_rng(0).standard_normal(12000).astype(np.float32) * 0.1
  wanted = librosa.stft(noise, n_fft=window, hop_length=hop, center=False)
  np.testing.assert_allclose(
    spectrograms.stft(jnp.array(noise), window=window, hop=hop), wanted.T, atol=2e-5
  )
  wanted = librosa.feature.melspectrogram(
    y=noise, sr=24000, n_fft=window, hop_length=hop, center=False, power=1.0, n_mels=64
  )
  found = spectrograms.log_mel(
    jnp.array(noise), sample_rate=24000, window=window, hop=hop, num_mels=64
  )
  np.testing.assert_allclose(found, np.log(np.maximum(wanted.T, 1e-5)), atol=1e-3)


@pytest.mark.parametrize(
  "settings",
  [(24000, 1024, 64, 0.0, None), (16000, 400, 80, 30.0, 7600.0), (24000, 64, 40, 0.0, None)],
)
@pytest.mark.filterwarnings("ignore:Empty filters")
def test_mel_filters_are_those_of_librosa(settings):
  rate, window, count, low, high = settings
  wanted = librosa.filters.mel(sr=rate, n_fft=window, n_mels=count, fmin=low, fmax=high)
  np.testing.assert_array_equal(spectrograms.mel_filters(*settings), wanted.T)


@pytest.mark.parametrize("window, hop", [(8, 4), (7, 3), (20, 6), (5, 5), (3, 9), (4, 1)])
def test_frames_are_strided_views(window, hop):
  x = np.arange(40.0).reshape(2, 20)
  found = spectrograms.frame(jnp.array(x), window, hop)
  starts = range(0, 20 - window + 1, hop)
  np.testing.assert_array_equal(found, np.stack([x[:, i : i + window] for i in starts], axis=1))


@pytest.mark.parametrize("size", [64, 600, 601])
def test_the_fourier_transform_of_tpus_is_that_of_others(rng, size):
  frames = rng.standard_normal((2, 3, size)).astype(np.float32)
  wanted = np.fft.rfft(frames.astype(np.float64))
  found = spectrograms.fourier_product(frames)
  assert found.dtype == np.complex64
  np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
