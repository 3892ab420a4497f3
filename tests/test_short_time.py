"""Spectra of waveforms and back: phase that is found, streams, overlap-add."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musiclm_jax import spectrograms
from musiclm_jax.tokenizers.short_time import Analysis, Inversion

WINDOW, HOP = 512, 120


def chord(samples=9600):
  time = np.arange(samples) / 24000
  decay = np.exp(-3 * (time % 0.2))[:, None]
  tones = np.sin(2 * np.pi * np.array([220.0, 277.2, 329.6, 880.0]) * time[:, None]) * decay
  return tones.sum(axis=1, dtype=np.float32)[None] * 0.2


def magnitudes(x, causal=False):
  return jnp.abs(Analysis(WINDOW, HOP, causal).apply({}, x))


invert = jax.jit(lambda m: Inversion(WINDOW, HOP, 8).apply({}, m))


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 12), st.integers(8, 40), st.integers(3, 16))
def test_overlap_add_is_the_sum_of_shifted_frames(count, window, hop):
  frames = np.random.default_rng(0).normal(size=(2, count, window)).astype("f")
  hop = min(hop, window)
  expected = np.zeros((2, (count - 1) * hop + window), "f")
  for i in range(count):
    expected[:, i * hop : i * hop + window] += frames[:, i]
  np.testing.assert_allclose(spectrograms.overlap_add(frames, hop), expected, atol=1e-5)


def test_istft_undoes_stft():
  x = chord()
  spectrum = spectrograms.stft(x, window=WINDOW, hop=HOP)
  y = spectrograms.istft(spectrum, window=WINDOW, hop=HOP)
  inside = slice(WINDOW, -WINDOW)
  np.testing.assert_allclose(y[:, inside], x[:, : y.shape[1]][:, inside], atol=1e-5)


def test_refinements_of_the_whole_bring_magnitudes_nearer():
  wanted = magnitudes(chord())

  def error(refinements):
    y = Inversion(WINDOW, HOP, 8, refinements).apply({}, wanted)
    found = jnp.abs(spectrograms.stft(y, window=WINDOW, hop=HOP))
    return jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted)

  assert error(16) < 0.9 * error(0)
  with pytest.raises(ValueError, match="^a stream wants no refinements: they see the future"):
    Inversion(WINDOW, HOP, 8, 16).apply({}, wanted, mutable=["stream"])


@pytest.mark.parametrize("causal", [False, True])
def test_inverted_magnitudes_are_nearly_the_wanted_ones(causal):
  x = chord()
  wanted = magnitudes(x, causal)
  y = np.asarray(invert(wanted))
  late = WINDOW - HOP if causal else (WINDOW - HOP) // 2
  found = magnitudes(y[:, late : late + x.shape[1]], causal)
  assert y.shape[1] == x.shape[1] + WINDOW - HOP
  error = jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted)
  assert error < 0.15
  phases = np.exp(2j * np.pi * np.random.default_rng(0).uniform(size=wanted.shape))
  other = spectrograms.istft(wanted * phases, window=WINDOW, hop=HOP)
  chance = magnitudes(other[:, late : late + x.shape[1]], causal) - wanted
  assert jnp.linalg.norm(chance) / jnp.linalg.norm(wanted) > 3 * error


@pytest.mark.parametrize("ends", [(1, 5, 80), (40, 80), (79, 80)])
def test_pieces_are_inverted_as_the_whole(ends):
  wanted = magnitudes(chord(), causal=True)
  whole, state, pieces = np.asarray(invert(wanted)), {}, []
  for start, end in zip((0, *ends), ends):
    piece, state = Inversion(WINDOW, HOP, 8).apply(state, wanted[:, start:end], mutable=["stream"])
    pieces.append(piece)
  pieces = np.concatenate(pieces, axis=1)
  assert pieces.shape[1] == 80 * HOP
  np.testing.assert_allclose(pieces, whole[:, : 80 * HOP], atol=1e-5)


def test_silence_stays_silence():
  assert not np.asarray(invert(jnp.zeros((1, 8, WINDOW // 2 + 1)))).any()
