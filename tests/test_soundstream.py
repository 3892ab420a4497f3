"""The codec: lengths, causality, losses, the separation of its adversaries, the paper sizes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import optax
import pytest
from jax import lax

from musiclm_jax.tokenizers import soundstream as s
from musiclm_jax.tokenizers.convolutions import Convolution, Decoder, Encoder, fold, unfold
from musiclm_jax.tokenizers.discriminators import (
  Discriminators,
  StftDiscriminator,
  WaveDiscriminator,
)
from musiclm_jax.tokenizers.quantizer import ResidualQuantizer

TINY_ADVERSARIES = Discriminators(
  StftDiscriminator(128, 32, 2, (1,), "float32"), WaveDiscriminator(2, 4, 2, (4,), "float32"), (1,)
)


def codec(**changes):
  fields = {
    "sample_rate": 24000,
    "encoder": Encoder(16, (3, 2), 8, 3, (1, 3), 80, "float32"),
    "quantizer": ResidualQuantizer(3, 16, 8, 0.9, 0.05, None, 3, True),
    "decoder": Decoder(16, (3, 2), 3, (1, 3), 80, "float32"),
    "discriminators": TINY_ADVERSARIES,
    "reconstruction_weight": 1.0,
    "waveform_weight": 10.0,
    "adversarial_weight": 1.0,
    "feature_weight": 100.0,
    "commitment_weight": 1.0,
    "adversarial_samples": 960,
    "unquantized": 0.0,
  }
  return s.SoundStream(**fields | changes)


def music(examples=2, samples=4800):
  time = np.arange(samples) / 24000
  pitches = 220 * 2 ** (np.arange(examples) / 3)
  return np.sin(2 * np.pi * pitches[:, None] * time[None, :]).astype("f") * 0.3


@functools.cache
def variables():
  """A codec's variables, with codebooks that tell embeddings apart."""
  init = jax.jit(lambda k, b: codec().init({"params": k, "dropout": k}, b, train=False))
  state = nn.unbox(init(jax.random.key(0), {"waveform": music()}))
  books = state["codebooks"]["quantizer"]
  vectors = jax.random.normal(jax.random.key(1), books["vectors"].shape) * 0.2
  return state | {"codebooks": {"quantizer": books | {"vectors": vectors}}}


def run(x, method):
  return apply(codec(), method, variables(), x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def apply(module, method, variables, x):
  return module.apply(variables, x, method=method)


@pytest.mark.slow
@pytest.mark.parametrize("samples, frames", [(1, 1), (479, 1), (480, 1), (481, 2), (2399, 5)])
def test_frames_cover_every_sample(samples, frames):
  codes = run(music(2, samples), "encode")
  assert codes.shape == (2, frames, 3) and codes.dtype == jnp.int32
  assert run(codes, "decode").shape == (2, frames * 480)


@pytest.mark.slow
def test_silence_after_the_end_is_what_a_part_of_a_frame_holds():
  x = music(2, 1000)
  padded = np.pad(x, ((0, 0), (0, 440)))
  np.testing.assert_array_equal(run(x, "encode"), run(padded, "encode"))


@pytest.mark.slow
def test_the_future_changes_no_past_code_and_no_past_sample():
  x, rng = music(2, 4800), np.random.default_rng(0)
  changed = x.copy()
  changed[:, 5 * 480 :] = rng.normal(size=changed[:, 5 * 480 :].shape)
  codes, other = run(x, "encode"), run(changed, "encode")
  np.testing.assert_array_equal(codes[:, :5], other[:, :5])
  assert (codes[:, 5:] != other[:, 5:]).any()
  y, changed = run(codes, "decode"), run(codes.at[:, 5:].set((codes[:, 5:] + 1) % 16), "decode")
  np.testing.assert_allclose(y[:, : 5 * 480], changed[:, : 5 * 480], atol=1e-6)
  assert np.abs(y[:, 5 * 480 :] - changed[:, 5 * 480 :]).max() > 1e-3


@pytest.mark.slow
def test_fewer_levels_decode_to_the_sum_of_the_first(rng):
  codes = rng.integers(0, 16, (2, 5, 3)).astype("i")
  assert run(codes[..., :1], "decode").shape == run(codes, "decode").shape
  with pytest.raises(ValueError, match="at most 3 levels of codes, found 4"):
    run(np.zeros((1, 2, 4), "i"), "decode")


def test_folded_convolution_is_the_strided_one(rng):
  x, stride = rng.normal(size=(2, 12, 3)).astype("f"), 4
  module = Convolution(5, 2, 1, "float32")
  params = nn.unbox(module.init(jax.random.key(0), fold(x, stride)))
  y = module.apply(params, fold(x, stride))
  kernel = params["params"]["kernel"].reshape(2 * stride, 3, 5)
  layout = ("NWC", "WIO", "NWC")
  strided = lax.conv_general_dilated(x, kernel, (stride,), [(stride, 0)], dimension_numbers=layout)
  np.testing.assert_allclose(y, strided, atol=1e-5)


def test_unfolded_convolution_is_the_transposed_one(rng):
  x, stride = rng.normal(size=(2, 6, 3)).astype("f"), 4
  module = Convolution(5 * stride, 2, 1, "float32")
  params = nn.unbox(module.init(jax.random.key(0), x))
  y = unfold(module.apply(params, x), stride)
  # tap 1 is the present, tap 0 the frame before; a transposed kernel runs through both in time
  kernel = params["params"]["kernel"][::-1].reshape(2, 3, stride, 5)
  expected = np.zeros((2, 7 * stride, 5), "f")
  for frame in range(6):
    spread = np.einsum("bc,kcsf->bksf", x[:, frame], kernel).reshape(2, 2 * stride, 5)
    expected[:, frame * stride : (frame + 2) * stride] += spread
  np.testing.assert_allclose(y, expected[:, : 6 * stride], atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Empty filters")
def test_log_mel_distance_is_that_of_librosa(rng):
  x, y = music(1), rng.normal(size=(1, 4800)).astype("f") * 0.1
  distances = []
  for window in (64, 128, 256, 512, 1024, 2048):
    filters = librosa.filters.mel(sr=24000, n_fft=window, n_mels=64)
    options = {"n_fft": window, "hop_length": window // 4, "center": False}
    logs = [
      np.log(np.maximum(filters @ np.abs(librosa.stft(w[0], **options)), 1e-5)) for w in (x, y)
    ]
    distances.append(np.abs(logs[0] - logs[1]).mean())
  found = jax.jit(s.log_mel_distance, static_argnums=2)(x, y, 24000)
  np.testing.assert_allclose(found, [np.mean(distances)], rtol=1e-3)


def test_losses_vanish_on_equal_waveforms_and_keep_finite_gradients():
  x = music()
  loss = jax.jit(jax.value_and_grad(lambda y: s.spectral_loss(x, y, 24000)))
  value, gradient = loss(x)
  assert value < 0.01 and np.isfinite(gradient).all()
  value, gradient = loss(np.zeros_like(x))
  assert value > 10 and np.isfinite(gradient).all()


def test_si_snr_ignores_scale_and_measures_noise(rng):
  x = rng.normal(size=(2, 24000)).astype("f")
  noise = rng.normal(size=x.shape).astype("f")
  noise *= np.linalg.norm(x) / np.linalg.norm(noise) * 10**-0.5
  np.testing.assert_allclose(s.si_snr(x, 3 * (x + noise)), [10, 10], atol=0.3)
  assert (s.si_snr(x, 0.1 * x) > 60).all()


@functools.partial(jax.jit, static_argnums=0)
def gradients(module, state, waveform):
  def loss(params):
    return module.apply(state | {"params": params}, {"waveform": waveform}, train=False)[0]

  return jax.grad(loss)(state["params"])


def assert_adversaries_are_separate(judged, alone, state):
  """That discriminators and the rest move their own parameters alone.

  Both codecs have the losses of adversaries alone; in `alone` those of the generator weigh nothing.
  """
  judged, alone = (gradients(module, state, music()) for module in (judged, alone))
  for name in ("encoder", "decoder"):
    assert all((g == 0).all() for g in jax.tree.leaves(alone[name]))
    assert any((g != 0).any() for g in jax.tree.leaves(judged[name]))
  assert any((g != 0).any() for g in jax.tree.leaves(judged["discriminators"]))
  same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
  jax.tree.map(same, judged["discriminators"], alone["discriminators"])


@pytest.mark.slow
def test_each_adversary_moves_only_its_own_parameters():
  silent = {"reconstruction_weight": 0.0, "waveform_weight": 0.0, "commitment_weight": 0.0}
  alone = codec(**silent, adversarial_weight=0.0, feature_weight=0.0)
  assert_adversaries_are_separate(codec(**silent), alone, variables())


@pytest.mark.slow
def test_metrics_meet_the_contract():
  state = variables()
  evaluate = jax.jit(lambda x: codec().apply(state, {"waveform": x}, train=False))
  loss, metrics = evaluate(music(2, 4700))
  names = {
    "loss",
    "chance",
    "reconstruction",
    "adversarial",
    "features",
    "discriminator",
    "waveform",
  }
  names |= {"commitment", "si_snr", "log_mel", "log_mel_silence", "dead", "restarted"}
  assert set(metrics) == names | {f"perplexity_{level}" for level in range(3)}
  assert all(np.isfinite(value) for pair in metrics.values() for value in pair)
  means = {name: float(total / weight) for name, (total, weight) in metrics.items()}
  assert means["loss"] == pytest.approx(float(loss), rel=1e-5)
  parts = means["reconstruction"] + means["adversarial"] + 100 * means["features"]
  parts += 10 * means["waveform"]
  assert means["loss"] == pytest.approx(
    parts + means["commitment"] + means["discriminator"], rel=1e-4
  )


def test_unequal_hops_are_refused():
  module = codec(decoder=Decoder(16, (3, 3), 3, (1, 3), 80, "float32"))
  with pytest.raises(ValueError, match="one hop, found 480 and 720"):
    jax.eval_shape(lambda: module.init(jax.random.key(0), {"waveform": music()}, train=False))


@pytest.mark.slow
def test_overfits_one_batch(rng):
  # over noise: the spectrum of a pure tone is nearly all floor, and any output is far from that
  waveform = music() + rng.normal(size=(2, 4800)).astype("f") * 0.03
  waveform[1] *= 0.03
  module, batch, state = codec(unquantized=0.5), {"waveform": waveform}, variables()
  params, books = state["params"], jax.tree.map(jnp.zeros_like, state["codebooks"])
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))

  @jax.jit
  def step(params, books, moments, key):
    def loss(params):
      rngs = {"dropout": key}
      all_variables = {"params": params, "codebooks": books}
      out, new = module.apply(all_variables, batch, train=True, rngs=rngs, mutable=["codebooks"])
      return out[0], (out[1], new["codebooks"])

    gradient, (metrics, books) = jax.grad(loss, has_aux=True)(params)
    updates, moments = optimizer.update(gradient, moments, params)
    return optax.apply_updates(params, updates), books, moments, metrics

  moments = optimizer.init(params)
  for i in range(150):
    params, books, moments, _ = step(params, books, moments, jax.random.key(i))
  state = {"params": params, "codebooks": books}
  decoded = apply(module, "decode", state, apply(module, "encode", state, waveform))
  error, swapped, silence = (
    s.log_mel_distance(waveform, y, 24000) for y in (decoded, decoded[::-1], 0 * decoded)
  )
  assert (error < 0.2 * silence).all()
  # what comes out follows the codes
  assert (error < 0.4 * swapped).all()


# channels of encoder and decoder to parameters, millions (Table I); 480x by strides 3, 4, 5, 8
TABLE_I = {(32, 32): 8.4, (16, 16): 2.4, (16, 32): 5.5, (8, 32): 4.8, (32, 16): 5.3, (32, 8): 4.4}


@pytest.mark.parametrize("channels", TABLE_I)
def test_paper_size_has_the_parameters_of_table_i(channels):
  tail = (3, (1, 3, 9), 1, "float32")
  module = codec(
    encoder=Encoder(channels[0], (3, 4, 5, 8), 256, *tail),
    decoder=Decoder(channels[1], (3, 4, 5, 8), *tail),
    quantizer=ResidualQuantizer(12, 1024, 256, 0.99, 2.0, None, 10, True),
  )
  batch = {"waveform": jax.ShapeDtypeStruct((2, 24000), jnp.float32)}
  init = functools.partial(module.init, train=False)
  params = jax.eval_shape(init, jax.random.key(0), batch)["params"]
  count = sum(x.size for name in ("encoder", "decoder") for x in jax.tree.leaves(params[name]))
  assert count / 1e6 == pytest.approx(TABLE_I[channels], abs=0.06)
