"""Gaussian similarities of rows of embeddings, summed block by block: memory does not grow with the
number of pairs. And how many threads matrix products have.
"""

import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import threadpoolctl

_BLOCK = 1 << 20  # pairs at a time: 8 MB, which stays in the cache
_SAMPLE = 1 << 10  # rows that say about where the median is
_BRACKET = 0.06  # share of the pairs on either side of it; the sample errs by about 0.01
_LARGEST = np.finfo(np.float64).max  # less than infinity, which is no pair's


def one_thread(function: Callable) -> Callable:
  """The function with one thread of BLAS: those of others wait for each other longer than small
  products take, a hundred times longer where the processors have other work.
  """

  @functools.wraps(function)
  def run(*arguments, **settings):
    with threadpoolctl.threadpool_limits(1, "blas"):
      return function(*arguments, **settings)

  return run


class Kernel(NamedTuple):
  """The kernel exp(-d^2 / width) of the distance d, by the rows of a reference."""

  rows: np.ndarray  # [m, dim] float64, less their mean
  place: np.ndarray  # [dim], their mean
  width: float  # twice the squared median distance of two rows
  within: float  # the mean of the kernel over the pairs of rows


def kernel(reference: np.ndarray) -> Kernel:
  """The kernel of a reference [m, dim] of two rows or more."""
  rows = np.asarray(reference, np.float64)
  place = rows.mean(axis=0)
  rows = rows - place  # differences of large squares would lose digits
  # the median of squares is the square of the median
  width = 2 * max(_median_of_squares(rows), 1e-12)
  sums = _over_blocks(lambda squares, _: np.exp(squares / -width).sum(), _pairs, rows)
  return Kernel(rows, place, width, float(sum(sums) / (len(rows) * (len(rows) - 1) / 2)))


def among(kernel: Kernel, x: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
  """Sums [groups, groups] of the kernel over pairs of rows of x [n, dim] in two groups, in both
  orders; within a group without a row's similarity to itself. group [n] int is that of each row.
  """
  order = np.argsort(group, kind="stable")
  rows, group = _centred(kernel, x)[order], group[order]
  starts = np.flatnonzero(np.diff(group, prepend=-1))

  def summed(squares, start):
    near = np.exp(np.divide(squares, -kernel.width, out=squares), out=squares)
    columns = starts[np.searchsorted(starts, start, "right") - 1 :]  # the first may begin before
    near = np.add.reduceat(near, np.maximum(columns - start, 0), axis=1)
    inside = group[start : start + len(squares)]
    firsts = np.flatnonzero(np.diff(inside, prepend=-1))
    return inside[firsts], group[columns], np.add.reduceat(near, firsts, axis=0)

  sums = np.zeros((groups, groups))
  for some, others, part in _over_blocks(summed, _pairs, rows):
    sums[np.ix_(some, others)] += part
  return sums + sums.T


def across(kernel: Kernel, x: np.ndarray) -> np.ndarray:
  """The mean [n] over the reference of the kernel of each row of x [n, dim]."""
  rows = _centred(kernel, x)
  means = _over_blocks(
    lambda squares, _: np.exp(squares / -kernel.width).mean(axis=1), _squares, rows, kernel.rows
  )
  return np.concatenate(list(means))


def _centred(kernel: Kernel, x: np.ndarray) -> np.ndarray:
  return np.asarray(x, np.float64) - kernel.place


def _median_of_squares(rows: np.ndarray) -> float:
  """The exact median of the squared distances of all pairs of rows [n, dim].

  Of many rows, only the pairs near the median of a sample are sorted, those below are counted.
  """
  below, some = 0, None
  if len(rows) > 2 * _SAMPLE:
    chosen = np.random.default_rng(0).choice(len(rows), _SAMPLE, replace=False)
    _, sample = _between(rows[chosen], 0.0, _LARGEST)
    below, some = _between(rows, *np.quantile(sample, (0.5 - _BRACKET, 0.5 + _BRACKET)))
  count = len(rows) * (len(rows) - 1) // 2
  ranks = np.array([(count - 1) // 2, count // 2])
  if some is None or ranks[0] < below or ranks[1] >= below + len(some):
    below, some = _between(rows, 0.0, _LARGEST)
  return float(np.partition(some, ranks - below)[ranks - below].mean())


def _between(rows: np.ndarray, low: float, high: float) -> tuple[int, np.ndarray]:
  """How many squared distances of pairs of rows are below `low`, and those from it to `high`."""

  def chosen(squares, _):
    return np.count_nonzero(squares < low), squares[(squares >= low) & (squares <= high)]

  below, found = zip(*_over_blocks(chosen, _pairs, rows))
  return sum(below), np.concatenate(found)


def _over_blocks(function: Callable, blocks: Callable, *rows: np.ndarray) -> Iterator:
  """function(squared distances, index of their first row) of all blocks, on all processors."""
  starts, make = blocks(*rows)
  if len(starts) == 1:
    yield function(make(0), 0)
    return
  # threads of BLAS inside these threads wait for each other: three times slower
  single = threadpoolctl.threadpool_limits(1, "blas")
  with single, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    yield from pool.map(lambda start: function(make(start), start), starts)


def _squares(x: np.ndarray, y: np.ndarray) -> tuple[range, Callable]:
  """Blocks of rows of x [n, dim] against all of y [m, dim]: where they begin, and what makes the
  squared distances [rows, m] of one.
  """
  lengths, others = (np.einsum("nd,nd->n", each, each) for each in (x, y))
  size = max(1, _BLOCK // len(y))

  def make(start, first=0):
    some = slice(start, start + size)
    squares = (-2 * x[some]) @ y[first:].T
    squares += lengths[some, None]
    squares += others[first:]
    return np.maximum(squares, 0, out=squares)

  return range(0, len(x), size), make


def _pairs(x: np.ndarray) -> tuple[range, Callable]:
  """As `_squares`, of rows of x with those from the first of the block on: each pair once, what is
  left of the diagonal, and the diagonal, infinite.
  """
  starts, make = _squares(x, x)

  def of_pairs(start):
    squares = make(start, start)
    squares[np.tri(len(squares), squares.shape[1], dtype=bool)] = np.inf
    return squares

  return starts, of_pairs
