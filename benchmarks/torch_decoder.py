"""The decoder of the stage models in PyTorch, for train_step.py and gpu.py to measure.

T5 1.1 without its encoder: RMS norms, one relative bias for all layers, gated GELU, dropout in the
same places as here, output tied to the embedding table, Adafactor. Attention is torch's
scaled_dot_product_attention with the bias as mask.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def dropout(x, rate: float, train: bool):
  """x [batch, length, dim] with features dropped at all positions of a sequence."""
  return x * F.dropout(x.new_ones(len(x), 1, x.shape[-1]), rate, train)


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
    x = x + dropout(y, self.rate, self.training)
    gate, up = self.wi(self.mlp_norm(x)).chunk(2, dim=-1)
    y = dropout(F.gelu(gate, approximate="tanh") * up, self.rate, self.training)
    return x + dropout(self.wo(y), self.rate, self.training)


class Decoder(nn.Module):
  """The mean cross-entropy of tokens [batch, length], each predicted from those before it.

  The first `conditions` tokens are not learnt. The others are of `levels` in turn, each scored
  against its own `codes` rows of the table, which begin at `first`; codes 0: against all. `dtype`
  is what goes from layer to layer.
  """

  def __init__(
    self,
    *,
    vocab_size,
    num_layers,
    embed_dim,
    num_heads,
    mlp_dim,
    dropout,
    buckets,
    distance,
    conditions=0,
    levels=1,
    codes=0,
    first=0,
    dtype=torch.float32,
  ):
    super().__init__()
    self.rate, self.buckets, self.distance = dropout, buckets, distance
    self.conditions, self.levels, self.first = conditions, levels, first
    self.codes, self.dtype = codes or vocab_size, dtype
    self.table = nn.Parameter(torch.randn(vocab_size, embed_dim) / math.sqrt(embed_dim))
    self.relative = nn.Embedding(buckets, num_heads)
    self.layers = nn.ModuleList(
      Layer(embed_dim, num_heads, mlp_dim, dropout) for _ in range(num_layers)
    )
    self.norm = nn.RMSNorm(embed_dim)

  def bias(self, length: int):
    """[1, heads, length, length]: T5's relative bias, -inf for later keys."""
    places = torch.arange(length, device=self.table.device)
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
    x = dropout(x.to(self.dtype), self.rate, self.training)
    bias = self.bias(tokens.shape[1])
    for layer in self.layers:
      x = layer(x, bias)
    x, targets = self.norm(x)[:, self.conditions :], tokens[:, self.conditions :]
    losses = []
    for level in range(self.levels):
      first = self.first + level * self.codes
      logits = x[:, level :: self.levels] @ self.table[first : first + self.codes].T
      wanted = targets[:, level :: self.levels] - first
      losses.append(F.cross_entropy(logits.flatten(0, 1), wanted.flatten()))
    return sum(losses) / self.levels


def trainer(size: dict, compiled: bool, device: str = "cpu", bfloat16: bool = False):
  """A function from tokens [batch, length] to the loss of one step of training.

  With `bfloat16` activations are in it and products by autocast; parameters and their updates stay
  float32.
  """
  torch.manual_seed(0)
  dtype = torch.bfloat16 if bfloat16 else torch.float32
  model = Decoder(**size, dtype=dtype).train().to(device)
  optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
  loss_of = torch.compile(model) if compiled else model

  def step(tokens) -> float:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
      loss = loss_of(torch.from_numpy(tokens).long().to(device))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())

  return step
