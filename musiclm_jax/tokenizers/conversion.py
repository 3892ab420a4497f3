"""Published weights under this project's names: BERT and AST as the towers of MuLan.

Each function takes a configuration of transformers, as a dictionary, and all tensors of the model
without heads, and returns a module of this package and its parameters. Every tensor is used.
"""

import numpy as np

from musiclm_jax.encoder import Encoder
from musiclm_jax.tokenizers.towers import SpectrogramTransformer, TextTower

_BERT_LAYER = {
  "query": "attention.self.query",
  "key": "attention.self.key",
  "value": "attention.self.value",
  "out": "attention.output.dense",
  "attention_norm": "attention.output.LayerNorm",
  "wi": "intermediate.dense",
  "wo": "output.dense",
  "mlp_norm": "output.LayerNorm",
}
_VIT_LAYER = {
  "query": "attention.q_proj",
  "key": "attention.k_proj",
  "value": "attention.v_proj",
  "out": "attention.o_proj",
  "attention_norm": "layernorm_before",
  "wi": "mlp.fc1",
  "wo": "mlp.fc2",
  "mlp_norm": "layernorm_after",
}


def bert(config: dict, tensors: dict[str, np.ndarray]) -> tuple[TextTower, dict]:
  """(text tower, parameters) of a BertModel without its pooler.

  The embedding of the first segment, the only one of a text, is added to every position's.
  """
  rest = dict(tensors)
  segment = rest.pop("embeddings.token_type_embeddings.weight")[:1]
  params = {
    "table": rest.pop("embeddings.word_embeddings.weight"),
    "position_embedding": rest.pop("embeddings.position_embeddings.weight") + segment,
    "encoder": {
      "norm": _norm(rest, "embeddings.LayerNorm"),
      "layers": _layers(rest, config, "encoder.layer.{}.", _BERT_LAYER),
    },
  }
  _assert_empty(rest)
  encoder = _encoder(config, norm_first=False)
  return TextTower(config["vocab_size"], config["max_position_embeddings"], encoder), params


def ast(config: dict, tensors: dict[str, np.ndarray]) -> tuple[SpectrogramTransformer, dict]:
  """(spectrogram tower, parameters) of an ASTModel."""
  rest = dict(tensors)
  size = config["patch_size"]
  stride = (config["time_stride"], config["frequency_stride"])
  names = ("cls_token", "distillation_token")
  first = [rest.pop(f"embeddings.{name}")[0] for name in names]
  # AST's patches are [mel, frame], counted along the frames first; ours are [frame, mel]
  kernel = rest.pop("embeddings.patch_embeddings.projection.weight")[:, 0]
  positions = rest.pop("embeddings.position_embeddings")[0]
  rows = (config["num_mel_bins"] - size) // stride[1] + 1
  grid = positions[2:].reshape(rows, -1, positions.shape[-1]).swapaxes(0, 1)
  params = {
    "class_tokens": np.concatenate(first),
    "position_embedding": np.concatenate([positions[:2], grid.reshape(positions[2:].shape)]),
    "project": {
      "kernel": kernel.transpose(2, 1, 0).reshape(size * size, -1),
      "bias": rest.pop("embeddings.patch_embeddings.projection.bias"),
    },
    "encoder": {
      "norm": _norm(rest, "layernorm"),
      "layers": _layers(rest, config, "layers.{}.", _VIT_LAYER),
    },
  }
  _assert_empty(rest)
  encoder = _encoder(config, norm_first=True)
  tower = SpectrogramTransformer(config["max_length"], (size, size), stride, len(names), encoder)
  return tower, params


def _encoder(config: dict, *, norm_first: bool) -> Encoder:
  dim, heads = config["hidden_size"], config["num_attention_heads"]
  return Encoder(
    num_layers=config["num_hidden_layers"],
    num_heads=heads,
    head_dim=dim // heads,
    embed_dim=dim,
    mlp_dim=config["intermediate_size"],
    dropout_rate=config["hidden_dropout_prob"],
    norm_first=norm_first,
    remat="none",
    unroll=False,
    dtype="float32",
  )


def _layers(rest: dict, config: dict, prefix: str, names: dict[str, str]) -> dict:
  """The parameters of all encoder layers, stacked; removes them from `rest`."""
  heads = config["num_attention_heads"]

  def stacked(name, kind):
    layers = range(config["num_hidden_layers"])
    return np.stack([rest.pop(f"{prefix.format(i)}{names[name]}.{kind}") for i in layers])

  def affine(name):  # torch keeps [outputs, inputs]
    return {"kernel": stacked(name, "weight").swapaxes(1, 2), "bias": stacked(name, "bias")}

  def norm(name):
    return {"scale": stacked(name, "weight"), "bias": stacked(name, "bias")}

  def by_heads(x):
    return x.reshape(*x.shape[:-1], heads, -1)

  qkv = [affine(name) for name in ("query", "key", "value")]
  out = affine("out")
  num_layers, _, dim = out["kernel"].shape
  return {
    "attention": {
      "qkv": {
        "kernel": np.stack([by_heads(part["kernel"]) for part in qkv], axis=2),
        "bias": np.stack([by_heads(part["bias"]) for part in qkv], axis=1),
      },
      "out": {"kernel": out["kernel"].reshape(num_layers, heads, -1, dim), "bias": out["bias"]},
    },
    "attention_norm": norm("attention_norm"),
    "wi": affine("wi"),
    "wo": affine("wo"),
    "mlp_norm": norm("mlp_norm"),
  }


def _norm(rest: dict, name: str) -> dict:
  return {"scale": rest.pop(f"{name}.weight"), "bias": rest.pop(f"{name}.bias")}


def _assert_empty(rest: dict) -> None:
  assert not rest, f"not used: {sorted(rest)}"
