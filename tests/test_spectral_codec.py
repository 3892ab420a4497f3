"""The codec of magnitudes: lengths, causality, streams, codes without phase, adversaries."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from musiclm_jax.tokenizers import streaming
from musiclm_jax.tokenizers.convolutions import FrameStack
from musiclm_jax.tokenizers.frozen import Frozen
from musiclm_jax.tokenizers.quantizer import ResidualQuantizer
from musiclm_jax.tokenizers.soundstream import log_mel_distance
from musiclm_jax.tokenizers.spectral_codec import SpectralCodec
from tests.test_soundstream import TINY_ADVERSARIES, assert_adversaries_are_separate, music

HOP = 480  # two spectra of 240 samples


def codec(causal=False, **changes):
  stacks = [FrameStack(32, 3, (1, 2), 1, causal, "float32") for _ in range(2)]
  fields = {
    "sample_rate": 24000,
    "window": 1024,
    "spectrum_hop": 240,
    "spectra": 2,
    "encoder": stacks[0],
    "quantizer": ResidualQuantizer(3, 16, 8, 0.9, 0.05, None, 3, False),
    "decoder": stacks[1],
    "inversion_iterations": 3,
    "refinements": 2,
    "discriminators": None,
    "magnitude_weight": 1.0,
    "loudness_weight": 2.0,
    "balance_weight": 0.5,
    "adversarial_weight": 1.0,
    "feature_weight": 100.0,
    "commitment_weight": 0.25,
    "adversarial_samples": 960,
    "unquantized": 0.0,
  }
  return SpectralCodec(**fields | changes)


@functools.cache
def variables(module):
  """A codec's variables, with codebooks that tell embeddings apart."""
  init = jax.jit(lambda k, b: module.init({"params": k, "dropout": k}, b, train=False))
  state = nn.unbox(init(jax.random.key(0), {"waveform": music()}))
  books = state["codebooks"]["quantizer"]
  vectors = jax.random.normal(jax.random.key(1), books["vectors"].shape) * 0.2
  return state | {"codebooks": {"quantizer": books | {"vectors": vectors}}}


def run(x, method, module=None):
  module = module or codec()
  return Frozen(module, variables(module))(method, x)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("samples, frames", [(1, 1), (480, 1), (481, 2), (2399, 5)])
def test_frames_cover_every_sample(samples, frames, causal):
  module = codec(causal)
  codes = run(music(2, samples), "encode", module)
  assert codes.shape == (2, frames, 3) and codes.dtype == jnp.int32
  assert run(codes, "decode", module).shape == (2, frames * HOP)


def test_codes_hold_no_phase(rng):
  time = np.arange(24000) / 24000
  pitches, phases = rng.uniform(200, 2000, 6), rng.uniform(0, 2 * np.pi, (2, 6))
  x = np.sin(2 * np.pi * pitches * time[:, None] + phases[:, None]).sum(axis=-1).astype("f") / 10
  codes = np.asarray(run(x[:1], "encode"))
  np.testing.assert_array_equal(codes, run(-x[:1], "encode"))
  # Partials that are apart: another phase of each changes nothing, and neither does time.
  x = np.sin(2 * np.pi * 500.0 * time[None] + np.array([[0.0], [1.0]])).astype("f") / 3
  codes = np.asarray(run(x, "encode"))[:, 4:-4]
  assert (codes == codes[:1, :1]).mean() > 0.99


@pytest.mark.slow
def test_a_causal_codec_is_changed_by_no_future_and_streams_as_the_whole(rng):
  module = codec(causal=True)
  x = music(2, 10 * HOP)
  changed = x.copy()
  changed[:, 5 * HOP :] = rng.normal(size=(2, 5 * HOP))
  codes, other = run(x, "encode", module), run(changed, "encode", module)
  np.testing.assert_array_equal(codes[:, :5], other[:, :5])
  assert (codes[:, 5:] != other[:, 5:]).any()
  frozen = Frozen(module, variables(module))
  stream, state, pieces, sounds = streaming.initial_state(2), {}, [], []
  for piece in (slice(0, 700), slice(700, 701), slice(701, 10 * HOP)):
    new, stream = streaming.encode(frozen, stream, x[:, piece])
    pieces.append(new)
    if new.shape[1]:
      sound, state = streaming.decode(frozen, state, new)
      sounds.append(sound)
  np.testing.assert_array_equal(np.concatenate(pieces, axis=1), codes)
  whole = np.asarray(run(codes, "decode", module))
  # The rounding of matrix products depends on their length, and phases follow it.
  scale = np.abs(whole).max()
  np.testing.assert_allclose(np.concatenate(sounds, axis=1) / scale, whole / scale, atol=1e-4)


def test_streams_of_a_centred_codec_are_refused():
  frozen = Frozen(codec(), variables(codec()))
  with pytest.raises(ValueError, match="wants a causal model"):
    streaming.encode(frozen, streaming.initial_state(2), music())


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda c: c.clone(decoder=codec(causal=True).decoder), "both causal or both not"),
    (lambda c: c.clone(decoder=c.encoder), "share their weights"),
  ],
)
def test_unfit_stacks_are_refused(change, message):
  module = change(codec())
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: module.init(jax.random.key(0), {"waveform": music()}, train=False))


@pytest.mark.slow
def test_each_adversary_moves_only_its_own_parameters():
  silent = dict.fromkeys(("magnitude_weight", "loudness_weight", "balance_weight"), 0.0)
  silent |= {"commitment_weight": 0.0, "discriminators": TINY_ADVERSARIES}
  alone = codec(**silent, adversarial_weight=0.0, feature_weight=0.0)
  assert_adversaries_are_separate(codec(**silent), alone, variables(codec(**silent)))


@pytest.mark.slow
def test_metrics_meet_the_contract_and_silence_is_the_chance():
  module = codec(discriminators=TINY_ADVERSARIES)
  loss, metrics = jax.jit(lambda x: module.apply(variables(module), {"waveform": x}, train=False))(
    music(2, 4700)
  )
  names = {"loss", "chance", "magnitude", "loudness", "balance", "adversarial", "features"}
  names |= {"discriminator", "commitment", "chroma", "dead", "restarted"}
  assert set(metrics) == names | {f"perplexity_{level}" for level in range(3)}
  assert all(np.isfinite(value) for pair in metrics.values() for value in pair)
  means = {name: float(total / weight) for name, (total, weight) in metrics.items()}
  parts = means["magnitude"] + 2 * means["loudness"] + 0.5 * means["balance"]
  parts += (
    means["adversarial"]
    + 100 * means["features"]
    + means["discriminator"]
    + 0.25 * means["commitment"]
  )
  assert means["loss"] == pytest.approx(parts, rel=1e-4)
  assert float(loss) == pytest.approx(means["loss"], rel=1e-5)


@pytest.mark.slow
def test_overfits_one_batch(rng):
  # over noise: the spectrum of a pure tone is nearly all floor
  waveform = music(2, 9600) + rng.normal(size=(2, 9600)).astype("f") * 0.01
  waveform[1] *= 0.1
  module = codec(quantizer=ResidualQuantizer(3, 16, 8, 0.9, 0.05, None, 3, False, 20))
  state = variables(module)
  params, books = state["params"], jax.tree.map(jnp.zeros_like, state["codebooks"])
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))

  @jax.jit
  def step(params, books, moments, key):
    def loss(params):
      out, new = module.apply(
        {"params": params, "codebooks": books},
        {"waveform": waveform},
        train=True,
        rngs={"dropout": key},
        mutable=["codebooks"],
      )
      return out[0], (out[1], new["codebooks"])

    gradient, (metrics, books) = jax.grad(loss, has_aux=True)(params)
    updates, moments = optimizer.update(gradient, moments, params)
    return optax.apply_updates(params, updates), books, moments, metrics

  moments = optimizer.init(params)
  for i in range(150):
    params, books, moments, metrics = step(params, books, moments, jax.random.key(i))
  total, weight = metrics["chroma"]
  assert total / weight > 0.95
  frozen = Frozen(module, {"params": params, "codebooks": books})
  decoded = frozen("decode", frozen("encode", waveform))
  error, swapped, silence = (
    log_mel_distance(waveform, y, 24000) for y in (decoded, decoded[::-1], 0 * decoded)
  )
  assert (error < 0.2 * silence).all()
  assert (error < 0.5 * swapped).all()
