"""The encoders against transformers', on random weights: what is published can be taken over."""

import flax.linen as nn
import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from musiclm_jax.tokenizers import conversion  # noqa: E402
from musiclm_jax.tokenizers.conformer import Conformer  # noqa: E402
from musiclm_jax.tokenizers.towers import SpectrogramTransformer  # noqa: E402

SMALL = dict(
  hidden_size=32,
  num_hidden_layers=3,
  num_attention_heads=4,
  intermediate_size=48,
  hidden_dropout_prob=0.1,
)
TOLERANCE = 1e-4


def build(kind, config):
  """A torch model in which no weight is special, none 0 or 1, and its tensors as NumPy."""
  torch.manual_seed(0)
  model = kind(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model, {name: x.numpy() for name, x in model.state_dict().items()}


def run(model, *args, **kwargs):
  with torch.no_grad():
    return model(*args, **kwargs)


def assert_same_tree(module, params, x):
  shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x))["params"]
  assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)


def test_the_text_tower_is_bert(rng):
  config = transformers.BertConfig(**SMALL, vocab_size=50, max_position_embeddings=20)
  model, tensors = build(lambda c: transformers.BertModel(c, add_pooling_layer=False), config)
  tower, params = conversion.bert(config.to_dict(), tensors)
  tokens = rng.integers(1, 50, (3, 12)).astype(np.int32)
  tokens[1, 5:] = 0
  ids = torch.from_numpy(tokens).long()
  wanted = run(model, ids, attention_mask=(ids > 0).long()).last_hidden_state[:, 0]
  assert_same_tree(tower, params, tokens)
  found = tower.apply({"params": params}, tokens)
  np.testing.assert_allclose(found, wanted.numpy(), atol=TOLERANCE)


@pytest.mark.parametrize(("stride", "frames"), [((10, 10), 64), ((16, 8), 48)])
def test_the_spectrogram_tower_is_ast(rng, stride, frames):
  config = transformers.ASTConfig(
    **SMALL,
    max_length=frames,
    num_mel_bins=40,
    patch_size=16,
    time_stride=stride[0],
    frequency_stride=stride[1],
  )
  model, tensors = build(transformers.ASTModel, config)
  tower, params = conversion.ast(config.to_dict(), tensors)
  x = rng.normal(size=(2, frames, 40)).astype(np.float32)
  wanted = run(model, torch.from_numpy(x)).pooler_output.numpy()
  assert_same_tree(tower, params, x)
  np.testing.assert_allclose(tower.apply({"params": params}, x), wanted, atol=TOLERANCE)


def test_the_spectrogram_tower_in_one_channel_is_vit(rng):
  config = transformers.ViTConfig(**SMALL, image_size=(40, 24), patch_size=8, num_channels=1)
  model, tensors = build(lambda c: transformers.ViTModel(c, add_pooling_layer=False), config)
  encoder = conversion._encoder(config.to_dict(), norm_first=True)
  tower = SpectrogramTransformer(40, (8, 8), (8, 8), 1, encoder)
  kernel = tensors.pop("embeddings.patch_embeddings.projection.weight")
  bias = tensors.pop("embeddings.patch_embeddings.projection.bias")
  params = {
    "class_tokens": tensors.pop("embeddings.cls_token")[0],
    "position_embedding": tensors.pop("embeddings.position_embeddings")[0],
    "project": {"kernel": kernel.reshape(32, 64).T, "bias": bias},
    "encoder": {
      "norm": conversion._norm(tensors, "layernorm"),
      "layers": conversion._layers(tensors, config.to_dict(), "layers.{}.", conversion._VIT_LAYER),
    },
  }
  assert not tensors
  x = rng.normal(size=(2, 40, 24)).astype(np.float32)
  wanted = run(model, torch.from_numpy(x)[:, None]).last_hidden_state[:, 0].numpy()
  assert_same_tree(tower, params, x)
  np.testing.assert_allclose(tower.apply({"params": params}, x), wanted, atol=TOLERANCE)


def conformer_layer(tensors, heads, dim):
  """The parameters of our layer of those of a Wav2Vec2BertEncoderLayer."""

  def affine(name):
    return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}

  def norm(name):
    return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}

  qkv = [affine(f"self_attn.linear_{x}") for x in "qkv"]
  out = affine("self_attn.linear_out")
  width = tensors["conv_module.depthwise_conv.weight"].shape[-1]
  # theirs sees the past alone: one of ours, nearly twice as wide, whose other half is 0
  kernel = np.pad(tensors["conv_module.depthwise_conv.weight"][:, 0].T, ((0, width - 1), (0, 0)))
  return {
    "first_norm": norm("ffn1_layer_norm"),
    "first_wi": affine("ffn1.intermediate_dense"),
    "first_wo": affine("ffn1.output_dense"),
    "attention_norm": norm("self_attn_layer_norm"),
    "attention": {
      "qkv": {
        "kernel": np.stack([x["kernel"].reshape(dim, heads, -1) for x in qkv], axis=1),
        "bias": np.stack([x["bias"].reshape(heads, -1) for x in qkv]),
      },
      "out": {"kernel": out["kernel"].reshape(heads, -1, dim), "bias": out["bias"]},
    },
    "convolution_norm": norm("conv_module.layer_norm"),
    "gated": tensors["conv_module.pointwise_conv1.weight"][..., 0].T.reshape(dim, 2, dim),
    "depthwise": kernel,
    "depthwise_norm": norm("conv_module.depthwise_layer_norm"),
    "pointwise": tensors["conv_module.pointwise_conv2.weight"][..., 0].T,
    "second_norm": norm("ffn2_layer_norm"),
    "second_wi": affine("ffn2.intermediate_dense"),
    "second_wo": affine("ffn2.output_dense"),
    "final_norm": norm("final_layer_norm"),
  }


def test_the_conformer_is_that_of_wav2vec2_bert(rng):
  dim, heads, layers, width = 24, 4, 3, 5
  config = transformers.Wav2Vec2BertConfig(
    hidden_size=dim,
    num_hidden_layers=layers,
    num_attention_heads=heads,
    intermediate_size=36,
    conv_depthwise_kernel_size=width,
    position_embeddings_type=None,  # T5's bias, which is ours, is 0 below
  )
  model, _ = build(transformers.Wav2Vec2BertModel, config)
  tensors = [{k: v.numpy() for k, v in x.state_dict().items()} for x in model.encoder.layers]
  parts = [conformer_layer(x, heads, dim) for x in tensors]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
  conformer = Conformer(
    num_layers=layers,
    num_heads=heads,
    head_dim=dim // heads,
    mlp_dim=36,
    kernel_size=2 * width - 1,
    dropout_rate=0.1,
    num_buckets=8,
    max_distance=16,
    remat="none",
    unroll=False,
    dtype="float32",
  )
  x = rng.normal(size=(2, 19, dim)).astype(np.float32)
  hidden = torch.from_numpy(x)
  params = {"layers": stacked, "relative_bias": {"table": np.zeros((8, heads), np.float32)}}
  shapes = nn.unbox(jax.eval_shape(lambda k: conformer.init(k, x, depth=layers), jax.random.key(0)))
  assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes["params"])
  for depth, layer in enumerate(model.encoder.layers, start=1):
    hidden = run(layer, hidden)
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    found = conformer.apply({"params": params}, x, depth=depth)
    np.testing.assert_allclose(found, hidden.numpy(), atol=TOLERANCE)
