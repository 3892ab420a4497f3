"""Bytes on the wire, counted by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from musiclm_jax.partitioning import MeshShape, make_mesh
from musiclm_jax.training.collectives import collectives

HLO = """
HloModule jit_step

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%body (x: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %gather = bf16[8,128]{1,0:T(8,128)(2,1)} all-gather(%x), replica_groups=[64,4]<=[256], dimensions={0}
  ROOT %t = (s32[], bf16[8,128]) tuple(%i, %gather)
}

%condition (x: (s32[], bf16[8,128])) -> pred[] {
  %end = s32[]{:T(128)} constant(24)
  ROOT %lt = pred[] compare(%i, %end), direction=LT
}

ENTRY %main (p: f32[100]) -> f32[100] {
  %loop = (s32[], bf16[8,128]) while(%init), condition=%condition, body=%body
  %both = (f32[100]{0}, bf16[10,10]{1,0}) all-reduce(%p, %q), channel_id=1, replica_groups=mesh['x'=256,'y'=2] {'x','y'}, to_apply=%sum
  %start = (f32[25]{0}, f32[100]{0}) all-gather-start(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %done = f32[100] all-gather-done(%start)
  ROOT %part = f32[25]{0} reduce-scatter(%p), replica_groups=[2,4]<=[8], to_apply=%sum
}
"""  # noqa: E501


def test_every_way_to_write_a_collective():
  assert collectives(HLO) == {
    "all-gather": {"count": 25, "bytes": 24 * 8 * 128 * 2 * 3 // 4 + 400 * 3 // 4},
    "all-reduce": {"count": 1, "bytes": round(2 * 600 * 511 / 512)},
    "reduce-scatter": {"count": 1, "bytes": 400 * 3 // 4},
  }


def test_an_unknown_way_is_refused():
  with pytest.raises(ValueError, match="a collective without replica_groups"):
    collectives(HLO.replace("replica_groups=[2,4]<=[8]", "groups=all"))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_program_of_xla(steps):
  mesh = make_mesh(MeshShape(1, 2, 1, 4))
  rows = NamedSharding(mesh, PartitionSpec("tensor"))

  @functools.partial(jax.jit, in_shardings=rows, out_shardings=rows)
  def step(x):
    def body(_, x):
      return x - x.sum()

    return jax.lax.fori_loop(0, steps, body, x) if steps > 1 else body(0, x)

  found = collectives(step.lower(jnp.zeros(64)).compile().as_text())
  assert found == {"all-reduce": {"count": steps, "bytes": steps * 2 * 4 * 3 // 4}}


def test_what_one_branch_sends_does_not_count_where_another_does_not():
  mesh = make_mesh(MeshShape(1, 2, 1, 4))
  rows = NamedSharding(mesh, PartitionSpec("tensor"))
  once = NamedSharding(mesh, PartitionSpec())

  @functools.partial(jax.jit, in_shardings=(once, rows), out_shardings=rows)
  def step(first, x):
    x = x - x.sum()
    return jax.lax.cond(
      first, lambda x: jax.lax.fori_loop(0, 9, lambda _, x: x - x.sum(), x), jnp.sin, x
    )

  hlo = step.lower(True, jnp.zeros(64)).compile().as_text()
  assert hlo.count("all-reduce(") == 2
  assert collectives(hlo) == {"all-reduce": {"count": 1, "bytes": 2 * 4 * 3 // 4}}
