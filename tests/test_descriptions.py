"""Descriptions of modules: round trips through JSON, and what is refused."""

import json

import pytest

from musiclm_jax import descriptions
from musiclm_jax.tokenizers.quantizer import EmbeddingQuantizer, ResidualQuantizer
from musiclm_jax.tokens import Stage, Stream

QUANTIZER = EmbeddingQuantizer(
  ResidualQuantizer(2, 4, 3, 0.9, 1.0, None, 5, False), standardise=False
)


def test_descriptions_round_trip_through_json():
  stream = Stream("coarse", "acoustic", 50.0, 0, 4, 1024)
  for value in (QUANTIZER, Stage("coarse", (stream,), stream, 10.0), (1, 2.5, "x", None, True)):
    text = json.dumps(descriptions.describe(value))
    assert descriptions.build(json.loads(text)) == value


@pytest.mark.parametrize(
  "name, message", [("os.system", "not of musiclm_jax"), ("musiclm_jax.tokens.Nope", "not have")]
)
def test_descriptions_build_nothing_but_this_package(name, message):
  with pytest.raises(ValueError, match=message):
    descriptions.build({"class": name})


def test_difference_counts_what_it_leaves_out():
  wanted = {f"layer_{i}": (1,) for i in range(8)}
  line = descriptions.difference(wanted, {}, "run", "file")
  assert line == "file lacks layer_0, layer_1, layer_2, layer_3, layer_4 and 3 more"
