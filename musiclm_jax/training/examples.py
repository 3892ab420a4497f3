"""From records to the examples that a model trains on: what loaders and kinds of examples share.

A kind of examples tells the shapes that a model gets before there is any data, and makes examples
of records in numpy, so that every loader gives the same. Whatever is random is a function of (seed,
position), where `position` numbers a run's examples.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from jax import ShapeDtypeStruct as Shape

from musiclm_jax.tokens import Stream
from musiclm_jax.training.orders import Order

Shapes = dict[str, Shape]


class ExampleMaker(NamedTuple):
  """`make(record, position)` gives an example, of a record {name: array} with these features."""

  features: tuple[str, ...]
  make: Callable[[dict, int], dict[str, np.ndarray]]


class Examples(Protocol):
  """A kind of examples."""

  @property
  def shapes(self) -> Shapes:
    """The shape and dtype of each array of an example."""

  @property
  def sources(self) -> tuple[str | Stream, ...]:
    """What it reads of token shards, for the manifest's check: names, or streams of codes."""

  def open(self, records, parts: dict[str, str], seed: int) -> ExampleMaker:
    """The maker for records; `parts` are directories of parts by role."""


def generator(seed: int, position: int) -> np.random.Generator:
  """Random numbers that depend on the seed and the position alone."""
  return np.random.default_rng((seed, position))


@dataclasses.dataclass(frozen=True)
class Reading:
  """Records of one split in an order, and what makes examples of these shapes of them."""

  records: object
  order: Order
  maker: ExampleMaker
  shapes: Shapes
