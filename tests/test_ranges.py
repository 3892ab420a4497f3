"""Which literals fit the annotated type of a setting."""

import dataclasses

import pytest

from musiclm_jax import ranges
from musiclm_jax.tokenizers.discriminators import Discriminators


@dataclasses.dataclass
class Shape:
  """Made by a configuration, never written as a literal."""

  size: int


@pytest.mark.parametrize(
  "value, kind, fits",
  [
    (7, Discriminators | None, False),
    (None, Discriminators | None, True),
    ("shape", Shape, False),
    ((1,), tuple[Shape, ...], False),
    (Shape(1), Shape, True),
    ((Shape(1),), tuple[Shape, ...], True),
    (7, ranges.PositiveInt | None, True),
    (7, object, True),
  ],
)
def test_no_literal_fits_a_class_of_settings(value, kind, fits):
  assert ranges.fits(value, kind) is fits
