"""The token decoder that the benchmarks train: its program, batches, and speed.

Needs only jax, flax, optax and numpy; it reads no data and no configuration.
"""

import math
import time

import jax
import numpy as np

from musiclm_jax import partitioning
from musiclm_jax.attention import RelativeBias
from musiclm_jax.lm.token_lm import TokenLM
from musiclm_jax.sources import MeanQuantized
from musiclm_jax.tokens import PAD, Stage, Stream, Vocabulary, flatten
from musiclm_jax.training import optimizers
from musiclm_jax.training.step import Program
from musiclm_jax.transformer import Transformer

_NAMES = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
_OPTIMIZERS = {
  "adafactor": lambda: optimizers.adafactor(learning_rate=0.01, decay_rate=0.8, clip=1.0),
  "adamw": lambda: optimizers.adamw(
    learning_rate=1e-4, b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0
  ),
}


def plain(length: int, codes: int, levels: int = 1) -> tuple[Stage, Vocabulary]:
  """A stage of `length` tokens of one source, `levels` per frame, without conditions."""
  stream = Stream("tokens", "tokens", 50.0, 0, levels, codes)
  return Stage("tokens", (), stream, length / levels / 50.0), Vocabulary((stream,))


def coarse(seconds: float, codes: int) -> tuple[Stage, Vocabulary]:
  """The coarse stage of gin/model/coarse.gin: 10 s are 12 + 250 + 2000 tokens."""
  mulan = Stream("mulan", "mulan", 0.0, 0, 12, codes, MeanQuantized("mulan_rvq"))
  semantic = Stream("semantic", "semantic", 25.0, 0, 1, codes)
  target = Stream("coarse", "acoustic", 50.0, 0, 4, codes)
  fine = Stream("fine", "acoustic", 50.0, 4, 8, codes)
  stage = Stage("coarse", (mulan, semantic), target, seconds)
  return stage, Vocabulary((mulan, semantic, target, fine))


def program(
  tokens: tuple[Stage, Vocabulary],
  *,
  batch: int,
  layers: int,
  heads: int,
  embed: int,
  mlp: int,
  dtype: str = "float32",
  dropout: float = 0.1,
  attention: str = "blocks",
  query_block: int = 128,
  remat: str = "none",
  unroll: bool = True,
  optimizer: str = "adafactor",
  mesh: tuple[int, int, int, int] = (1, 1, 1, 1),
  devices=None,
) -> Program:
  """The program of a decoder with T5's relative bias, by default on the first devices."""
  stage, vocabulary = tokens
  decoder = Transformer(
    num_layers=layers,
    num_heads=heads,
    head_dim=embed // heads,
    embed_dim=embed,
    mlp_dim=mlp,
    dropout_rate=dropout,
    positions=RelativeBias(32, 128, causal=True),
    attention=attention,
    query_block=query_block,
    remat=remat,
    unroll=unroll,
    dtype=dtype,
  )
  model = TokenLM(stage, vocabulary, decoder, 0.0, 0.0)
  shape = jax.ShapeDtypeStruct((batch, stage.length), np.int32)
  devices = jax.devices()[: math.prod(mesh)] if devices is None else devices
  mesh = partitioning.make_mesh(partitioning.MeshShape(*mesh), devices)
  return Program(model, _OPTIMIZERS[optimizer](), mesh, dict.fromkeys(_NAMES, shape), 1, seed=0)


def batch(program: Program, seed: int = 0) -> dict[str, np.ndarray]:
  """A batch of random codes for the program, int32 [rows, length] each."""
  rng, model = np.random.default_rng(seed), program.model
  streams, seconds = (*model.stage.conditions, model.stage.target), model.stage.crop_seconds
  parts = []
  for stream in streams:
    shape = program.rows, stream.frames(seconds), stream.num_quantizers
    codes = rng.integers(0, stream.codebook_size, shape)
    parts.append(flatten(codes, model.vocabulary.offsets(stream)))
  return as_batch(model.stage, np.concatenate(parts, axis=1))


def as_batch(stage: Stage, tokens: np.ndarray) -> dict[str, np.ndarray]:
  """Tokens [rows, stage.length] as a batch: inputs shifted right, loss weights on the target."""
  tokens = tokens.astype(np.int32)
  before = np.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
  weights = np.zeros_like(tokens)
  weights[:, stage.condition_length :] = 1
  return dict(zip(_NAMES, (before, tokens, weights)))


class Running:
  """A compiled program after its first step, which is not measured."""

  def __init__(self, program: Program):
    self.program = program
    with partitioning.use(program.mesh):
      began = time.perf_counter()
      self._step = program.step.lower(program.state, program.batch).compile()
      self.compile_seconds = time.perf_counter() - began
      self._state, self._batch = program.init(), program.put(batch(program))
    self.loss = 0.0
    self.seconds(1)

  def seconds(self, steps: int) -> float:
    """How long `steps` steps take when dispatched one after another."""
    began = time.perf_counter()
    with partitioning.use(self.program.mesh):
      for _ in range(steps):
        self._state, metrics = self._step(self._state, self._batch)
      jax.block_until_ready((self._state, metrics))
    total, weight = metrics["loss"]
    self.loss = float(total) / float(weight)
    return time.perf_counter() - began


def measure(running: Running, steps: int, rounds: int) -> dict[str, float]:
  """{compile_seconds, seconds_per_step, tokens_per_second, loss}: of the best of `rounds`."""
  seconds = min(running.seconds(steps) for _ in range(rounds)) / steps
  program = running.program
  return {
    "compile_seconds": round(running.compile_seconds, 1),
    "seconds_per_step": round(seconds, 4),
    "tokens_per_second": round(program.rows * program.model.stage.length / seconds, 1),
    "loss": round(running.loss, 3),
  }
