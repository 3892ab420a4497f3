"""The decoder of the stage models in PyTorch, for train_step.py to measure: T5 1.1 without encoder.

RMS norms, one relative bias for all layers, gated GELU, dropout where ours has it, the output tied
to the table, Adafactor. Attention is torch's scaled_dot_product_attention with the bias as mask.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Layer(nn.Module):
  """Self-attention, then a gated feed-forward, both pre-norm."""

  def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int, dropout: float):
    super().__init__()
    self.num_heads, self.rate = num_heads, dropout
    self.attention_norm, self.mlp_norm = nn.RMSNorm(embed_dim), nn.RMSNorm(embed_dim)
    self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
    self.out = nn.Linear(embed_dim, embed_dim, bias=False)
    self.wi = nn.Linear(embed_dim, 2 * mlp_dim, bias=False)
    self.wo = nn.Linear(mlp_dim, embed_dim, bias=False)

  def forward(self, x, bias):
    batch, length, embed_dim = x.shape
    qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    y = self.out(y.transpose(1, 2).reshape(batch, length, embed_dim))
    x = x + F.dropout(y, self.rate, self.training)
    gate, up = self.wi(self.mlp_norm(x)).chunk(2, dim=-1)
    y = F.dropout(F.gelu(gate, approximate="tanh") * up, self.rate, self.training)
    return x + F.dropout(self.wo(y), self.rate, self.training)


class Decoder(nn.Module):
  """The mean cross-entropy of tokens [batch, length], each from those before it."""

  def __init__(
    self, *, vocab_size, num_layers, embed_dim, num_heads, mlp_dim, dropout, buckets, distance
  ):
    super().__init__()
    self.rate, self.buckets, self.distance = dropout, buckets, distance
    self.table = nn.Parameter(torch.randn(vocab_size, embed_dim) / math.sqrt(embed_dim))
    self.relative = nn.Embedding(buckets, num_heads)
    self.layers = nn.ModuleList(
      Layer(embed_dim, num_heads, mlp_dim, dropout) for _ in range(num_layers)
    )
    self.norm = nn.RMSNorm(embed_dim)

  def bias(self, length: int):
    """[1, heads, length, length]: T5's causal relative bias, -inf ahead."""
    places = torch.arange(length)
    back = (places[:, None] - places[None, :]).clamp(min=0)
    exact = self.buckets // 2
    ratio = torch.log(back.clamp(min=1) / exact) / math.log(self.distance / exact)
    far = (exact + (ratio * (self.buckets - exact)).long()).clamp(max=self.buckets - 1)
    bias = self.relative(torch.where(back < exact, back, far)).permute(2, 0, 1)
    ahead = places[None, :] > places[:, None]
    return bias.masked_fill(ahead, float("-inf"))[None]

  def forward(self, tokens):
    before = F.pad(tokens[:, :-1], (1, 0))
    x = F.embedding(before, self.table) * math.sqrt(self.table.shape[1])
    x = F.dropout(x, self.rate, self.training)
    bias = self.bias(tokens.shape[1])
    for layer in self.layers:
      x = layer(x, bias)
    logits = self.norm(x) @ self.table.T
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def trainer(size: dict, compiled: bool):
  """A function from tokens [batch, length] to the loss of one step of training."""
  torch.manual_seed(0)
  model = Decoder(**size).train()
  optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
  loss_of = torch.compile(model) if compiled else model

  def step(tokens) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(torch.from_numpy(tokens).long())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())

  return step
