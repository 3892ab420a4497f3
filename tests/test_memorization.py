"""The cost of turning codes into others, which approximate memorization is told by."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from musiclm_jax.evaluation.memorization import transport_cost


def test_cost_is_near_that_of_the_best_matching_and_near_0_for_the_same_codes_in_any_order(rng):
  vectors = rng.normal(size=(2, 16, 3)).astype(np.float32)
  a, b = rng.integers(0, 16, (2, 5, 40, 2))
  shuffled = rng.permuted(np.arange(40))
  found = transport_cost(a, b, vectors)
  assert (transport_cost(a, a[:, shuffled], vectors) < 0.05 * found).all()
  x, y = (vectors[0][codes[..., 0]] + vectors[1][codes[..., 1]] for codes in (a, b))
  for one, other, cost in zip(x, y, found):
    distances = np.linalg.norm(one[:, None] - other[None], axis=-1)
    best = distances[linear_sum_assignment(distances)].mean()
    assert best - 1e-3 <= cost <= 1.15 * best
