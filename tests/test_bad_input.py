"""Mistaken input to a part: one line with what was wanted and what came."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax.tokenizers import frozen, inputs, pretrained, streaming
from musiclm_jax.tokenizers.quantizer import EmbeddingQuantizer
from tests import small_world


def quantizer():
  return EmbeddingQuantizer(small_world.residual(2, 6), standardise=False)


WAVE = np.zeros((2, 7200), np.float32)
PARTS = {
  "soundstream": (small_world.codec, {"waveform": WAVE}),
  "w2v_bert": (small_world.self_supervised, {"waveform": WAVE}),
  "mulan": (small_world.joint, {"waveform": WAVE, "text": np.ones((2, 16), np.int32)}),
  "melody": (small_world.melodies, {"waveform": WAVE, "melody": np.zeros(2, np.int32)}),
  "rvq": (quantizer, {"embeddings": np.zeros((2, 3, 6), np.float32)}),
}


@functools.cache
def part(name):
  """A part whose weights are all 0."""
  module, batch = PARTS[name][0](), PARTS[name][1]
  init = functools.partial(module.init, train=False)
  shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0), batch))
  return frozen.Frozen(module, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(shapes)))


def holding(array, value):
  """A copy with one value as its last entry."""
  array = array.copy()
  array[(-1,) * array.ndim] = value
  return array


HEARING = {
  "soundstream": ("encode", {}),
  "w2v_bert": ("embed", {"layer": 1}),
  "mulan": ("embed_audio", {}),
  "melody": ("embed", {}),
}
MONO = r"wants a mono waveform \[batch, samples\] float32, found "
SOUNDS = {
  "no batch": (WAVE[0], MONO + r"float32 \[7200\]"),
  "stereo": (np.zeros((2, 7200, 2), "f"), MONO + r"float32 \[2, 7200, 2\]"),
  "int16": (WAVE.astype(np.int16), MONO + "int16"),
  "float64": (WAVE.astype(np.float64), MONO + "float64"),
  "int16 on the device": (jnp.zeros((2, 7200), jnp.int16), MONO + "int16"),
  "NaN": (holding(WAVE, np.nan), r"wants finite samples, found nan at \[1, 7199\]"),
  "infinity": (holding(WAVE, -np.inf), r"wants finite samples, found -inf at \[1, 7199\]"),
  "nothing": (WAVE[:, :0], r"wants a waveform of 1 sample or more, found float32 \[2, 0\]"),
}


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("name", HEARING)
def test_what_is_no_waveform_is_refused(name, sound):
  (method, static), (waveform, message) = HEARING[name], SOUNDS[sound]
  with pytest.raises(ValueError, match=rf"^\w+\.{method} {message}[^\n]*$"):
    part(name)(method, waveform, **static)


SHORTEST = {"w2v_bert": 960, "mulan": 1200, "melody": 2048}


@pytest.mark.parametrize("name", SHORTEST)
def test_a_waveform_shorter_than_a_frame_is_refused(name):
  method, static = HEARING[name]
  with pytest.raises(ValueError, match=rf"wanted .*{SHORTEST[name]} samples or more, found 100"):
    part(name)(method, WAVE[:, :100], **static)


EMBEDDINGS, CODES = np.zeros((2, 3, 6), np.float32), np.zeros((2, 3, 2), np.int32)
TOKENS, WORDS = np.ones((2, 16), np.int32), small_world.joint().text_tower.vocab_size
LAST, WIDTH = small_world.CODES - 1, r"wants embeddings \[\.\.\., 6\] float32, found "
LEVELS, TEXT = r"wants codes \[batch, frames, levels\] of ", r"wants tokens \[batch, length\] of "
REST = {
  "narrow embeddings": ("rvq", "encode", EMBEDDINGS[..., :5], WIDTH + r"float32 \[2, 3, 5\]"),
  "embeddings of float64": ("rvq", "encode", EMBEDDINGS.astype(float), WIDTH + "float64"),
  "embeddings of integers": ("rvq", "encode", EMBEDDINGS.astype(int), WIDTH + "int64"),
  "NaN in embeddings": (
    "rvq",
    "encode",
    holding(EMBEDDINGS, np.nan),
    r"wants finite embeddings, found nan at \[1, 2, 5\]",
  ),
  "one clip's codes": ("soundstream", "decode", CODES[0], LEVELS + r"integers, found int32 \[3, 2"),
  "codes of floats": ("rvq", "decode", CODES.astype("f"), LEVELS + "integers, found float32"),
  "a code too many": ("rvq", "decode", CODES + LAST + 1, rf"{LEVELS}0\.\.{LAST}, found {LAST + 1}"),
  "a level too many": (
    "soundstream",
    "decode",
    np.zeros((2, 3, 9), np.int32),
    rf"{LEVELS}1\.\.\d levels, found int32 \[2, 3, 9\]",
  ),
  "a code below 0": ("soundstream", "decode", CODES - 1, rf"{LEVELS}0\.\.{LAST}, found -1\.\.-1"),
  "text of floats": ("mulan", "embed_text", TOKENS.astype("f"), TEXT + "integers, found float32"),
  "one text": ("mulan", "embed_text", TOKENS[0], TEXT + r"integers, found int32 \[16\]"),
  "a word not in the table": (
    "mulan",
    "embed_text",
    holding(TOKENS, WORDS),
    rf"{TEXT}0\.\.{WORDS - 1}, found 1\.\.{WORDS}",
  ),
}


@pytest.mark.parametrize("case", REST)
def test_what_is_no_embedding_code_or_text_is_refused(case):
  name, method, array, message = REST[case]
  with pytest.raises(ValueError, match=rf"^\w+\.{method} {message}[^\n]*$"):
    part(name)(method, array)


def test_a_stream_refuses_what_the_codec_does():
  codec = part("soundstream")
  with pytest.raises(ValueError, match="found int16"):
    streaming.encode(codec, streaming.initial_state(2), np.zeros((2, 100), np.int16))
  with pytest.raises(ValueError, match="finite samples"):
    streaming.encode(codec, streaming.initial_state(2), holding(WAVE, np.nan))
  with pytest.raises(ValueError, match="codes .* of integers"):
    streaming.decode(codec, {}, CODES.astype("f"))


def test_a_published_codec_refuses_what_ours_does():
  module = pretrained.TorchCodec("{}", 24000, 320, 2, 8)
  for method, array, message in (
    ("encode", WAVE.astype(np.int16), MONO + "int16"),
    ("decode", CODES + 8, LEVELS + r"0\.\.7, found 8\.\.8"),
  ):
    with pytest.raises(ValueError, match=rf"TorchCodec\.{method} {message}"):
      inputs.check(module, method, (array,))


def test_good_input_passes_wherever_it_lies():
  for array in (EMBEDDINGS, jnp.zeros((2, 6), jnp.bfloat16), np.zeros((0, 6), np.float32)):
    inputs.check(quantizer(), "encode", (array,))
  for codes in (CODES, CODES.astype(np.uint16), jnp.full((2, 0, 2), LAST)):
    inputs.check(small_world.codec(), "decode", (codes,))
  jax.eval_shape(lambda x: part("rvq")("encode", x), EMBEDDINGS)  # traced, within a larger program


def test_a_method_that_a_part_does_not_have_is_named():
  message = "^SoundStream has no method embed; it has encode, decode$"
  with pytest.raises(ValueError, match=message):
    part("soundstream")("embed", WAVE)
