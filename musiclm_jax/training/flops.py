"""The number of floating-point operations of a program, counted in its jaxpr, before any compiler.

Only matrix products and convolutions count; a multiplication and an addition are two operations.
The body of a scan counts as often as it runs, which XLA's own count leaves out.
"""

import functools
import math

import jax
from jax.extend import core

from musiclm_jax import partitioning
from musiclm_jax.layers import with_field
from musiclm_jax.training.step import Program, loss_and_updates, train_step


def count(function, *arguments) -> int:
  """Operations of function(*arguments), which may be abstract, on all devices together."""
  with partitioning.use(None):  # in a mesh, the work of each device would count for only one
    return _jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def model_flops(program: Program) -> int:
  """Operations of one step of a `step.Program` as MFU counts them: three times the forward pass.

  The backward pass multiplies twice where the forward pass does once; recomputation that saves
  memory is not counted (PaLM, arXiv 2204.02311, Appendix B). Blocks of queries see no later keys,
  so causal attention is counted once.
  """
  model = _countable(program)

  def forward(state, batch):
    key = jax.random.key(0)
    return loss_and_updates(model, state.params, state.collections, batch, key)

  return 3 * count(forward, program.state, program.shapes)


def step_flops(program: Program) -> int:
  """Operations of one step as it runs, with those that are repeated to save memory."""
  step = functools.partial(
    train_step, _countable(program), program.optimizer, program.num_microbatches, program.seed
  )
  return count(step, program.state, program.shapes)


def _countable(program: Program):
  """The model with blocks of attention instead of a fused kernel, whose operations cannot be
  counted.
  """
  return with_field(program.model, "attention", "blocks")


def _jaxpr(jaxpr: core.Jaxpr) -> int:
  return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation) -> int:
  if equation.primitive.name == "dot_general":
    return _dot(equation)
  if equation.primitive.name == "conv_general_dilated":
    return _convolution(equation)
  inner = [_jaxpr(jaxpr) for jaxpr in _inner(equation.params)]
  if equation.primitive.name == "cond":
    # Of branches by platform, only the products that all platforms compute are the model's.
    return min(inner) if equation.params.get("branches_platforms") else max(inner)
  return sum(inner) * equation.params.get("length", 1) if inner else 0


def _inner(params: dict):
  for value in params.values():
    for each in value if isinstance(value, tuple | list) else [value]:
      if isinstance(each, core.ClosedJaxpr):
        yield each.jaxpr
      elif isinstance(each, core.Jaxpr):
        yield each


def _dot(equation) -> int:
  ((contracted, _), _) = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation) -> int:
  kernel = equation.invars[1].aval.shape
  out_channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
  return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // out_channels
