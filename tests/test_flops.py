"""Operations counted by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from musiclm_jax import partitioning
from musiclm_jax.layers import with_field
from musiclm_jax.training import flops
from tests import trainings
from tests.programs import program

A, B = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))


def convolve(x, kernel, groups):
  return jax.lax.conv_general_dilated(
    x, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
  )


@pytest.mark.parametrize(
  ("function", "arguments", "wanted"),
  [
    (jnp.add, (A, A), 0),
    (jnp.matmul, (A, B), 2 * 3 * 4 * 5 * 6),
    (jax.jit(jnp.matmul), (A, B), 2 * 3 * 4 * 5 * 6),
    (functools.partial(convolve, groups=1), (jnp.ones((2, 9, 4)), jnp.ones((3, 4, 8))), 2688),
    (functools.partial(convolve, groups=2), (jnp.ones((2, 9, 4)), jnp.ones((3, 2, 8))), 1344),
    (lambda a: jax.lax.fori_loop(0, 7, lambda _, x: x @ x, a), (jnp.ones((5, 5)),), 7 * 250),
    (
      lambda a: jax.lax.cond(a.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, a),
      (jnp.ones((5, 5)),),
      500,
    ),
    (jax.value_and_grad(lambda a, b: (a @ b).sum(), argnums=(0, 1)), (A, B), 3 * 720),
  ],
)
def test_count(function, arguments, wanted):
  assert flops.count(function, *arguments) == wanted


@pytest.mark.slow
def test_a_stage_is_its_formula():
  """6 N D for the parameters that multiply, and causal attention once, by blocks of queries."""
  model = trainings.load("tiny/semantic").model
  decoder, stage = model.decoder, model.stage
  length, target = stage.length, stage.target_length
  rows = 4
  embed = decoder.embed_dim
  inner = decoder.num_heads * decoder.head_dim
  layer = length * (4 * embed * inner + 3 * embed * decoder.mlp_dim)
  blocks = range(0, length, decoder.query_block)
  ends = [min(start + decoder.query_block, length) for start in blocks]
  layer += sum(2 * inner * (end - start) * end for start, end in zip(blocks, ends))
  bias = (2 * length - 1) * decoder.positions.num_buckets * decoder.num_heads
  head = rows * target * embed * stage.target.codebook_size
  wanted = 3 * 2 * (rows * decoder.num_layers * layer + head + bias)
  assert flops.model_flops(program("tiny/semantic", rows)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soundstream", "semantic"])
def test_a_mesh_changes_no_count(name):
  made = program(f"tiny/{name}", 8, mesh=(4, 1, 2))
  with partitioning.use(made.mesh):
    inside = flops.model_flops(made), flops.step_flops(made)
  assert inside == (flops.model_flops(made), flops.step_flops(made))


@pytest.mark.slow
def test_a_fused_kernel_counts_as_the_blocks_would():
  made = program("tiny/semantic model/rotary", 4)
  fused = dataclasses.replace(made, model=with_field(made.model, "attention", "splash"))
  assert flops.step_flops(fused) == flops.step_flops(made) > 0


@pytest.mark.slow
def test_what_is_computed_again_is_counted_in_the_step_alone():
  plain = program("tiny/semantic", 4)
  again = program("tiny/semantic", 4, REMAT="full")
  assert flops.model_flops(again) == flops.model_flops(plain)
  assert flops.step_flops(plain) <= flops.model_flops(plain)
  assert flops.step_flops(again) > 1.2 * flops.step_flops(plain)
