"""The files of a part: round trips, and what is refused."""

import json

import jax
import numpy as np
import pytest

from musiclm_jax import part_files
from musiclm_jax.layers import with_field
from musiclm_jax.tokenizers.quantizer import EmbeddingQuantizer, ResidualQuantizer
from tests import trainings

QUANTIZER = EmbeddingQuantizer(
  ResidualQuantizer(2, 4, 3, 0.9, 1.0, None, 5, False), standardise=False
)


def make_part(directory, seed=0, provenance=None):
  batch = {"embeddings": np.random.default_rng(seed).standard_normal((2, 8, 3)).astype(np.float32)}
  variables = QUANTIZER.init(jax.random.key(seed), batch, train=False)
  part_files.describe_run(directory, QUANTIZER, provenance or {"sources": {}, "parts": {}})
  part_files.write_weights(directory, variables)
  return variables


def test_a_part_round_trips(tmp_path):
  variables = make_part(str(tmp_path))
  module, found, provenance = part_files.read_part(str(tmp_path))
  assert module == QUANTIZER and provenance == {"sources": {}, "parts": {}}
  jax.tree.map(np.testing.assert_array_equal, dict(variables), found)
  assert not list(tmp_path.glob("*.partial"))
  modes = {path.stat().st_mode for path in tmp_path.iterdir()}
  assert len(modes) == 1, "the weights can be read by those who can read the description"


def test_weights_in_bfloat16_are_read_as_float32(tmp_path):
  variables = make_part(str(tmp_path))
  before = (tmp_path / "weights.safetensors").stat().st_size
  part_files.write_weights(str(tmp_path), variables, dtype="bfloat16")
  assert (tmp_path / "weights.safetensors").stat().st_size < 0.9 * before
  for stored, value in zip(
    jax.tree.leaves(part_files.read_weights(str(tmp_path))), jax.tree.leaves(dict(variables))
  ):
    assert stored.dtype == value.dtype  # whole numbers and flags as they were
    np.testing.assert_allclose(stored, value, rtol=2**-8)


def test_weights_in_int8_are_read_as_float32(tmp_path, rng):
  wanted = {
    "params": {
      "kernel": rng.normal(0, 10 ** rng.uniform(-3, 1, (2, 300, 1)), (2, 300, 70)),
      "bias": rng.normal(size=70),
      "nothing": np.zeros((3, 4)),
    },
    "counts": {"seen": np.arange(6).reshape(2, 3)},
  }
  (tmp_path / "new").mkdir()
  part_files.write_weights(str(tmp_path / "new"), wanted, dtype="int8")
  assert (tmp_path / "new" / "weights.safetensors").stat().st_size < 50_000
  found = part_files.read_weights(str(tmp_path / "new"))
  kernel = found["params"].pop("kernel")
  steps = np.abs(wanted["params"]["kernel"]).max(axis=-1, keepdims=True) / 127
  assert kernel.dtype == np.float32
  assert (np.abs(kernel - wanted["params"].pop("kernel")) <= 0.501 * steps).all()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)
  assert found["counts"]["seen"].dtype == wanted["counts"]["seen"].dtype


def test_a_part_of_the_first_format_has_sums_too(tmp_path):
  variables = make_part(str(tmp_path))
  codebooks = dict(variables["codebooks"]["quantizer"])
  former = {**variables, "codebooks": {"quantizer": codebooks | {"sums": codebooks["vectors"]}}}
  part_files.write_weights(str(tmp_path), former)
  assert "sums" in part_files.read_weights(str(tmp_path))["codebooks"]["quantizer"]
  set_format(tmp_path, 1)
  found = part_files.read_part(str(tmp_path))[1]
  jax.tree.map(np.testing.assert_array_equal, dict(variables), found)
  assert part_files.copy_description(str(tmp_path), str(tmp_path / "out")) == 1
  assert json.loads((tmp_path / "out" / "model.json").read_text())["format"] == 2


def test_fingerprints_tell_parts_apart(tmp_path):
  for name in "ab":
    make_part(str(tmp_path / name), seed=1)
  make_part(str(tmp_path / "c"), seed=2, provenance={"sources": {"x": 1}, "parts": {}})
  prints = [part_files.fingerprint(str(tmp_path / name)) for name in "abc"]
  assert prints[0] == prints[1] != prints[2]


def break_weights(path):
  (path / "weights.safetensors").write_bytes(b"\x10" * 40)


def set_format(path, value):
  description = json.loads((path / "model.json").read_text())
  (path / "model.json").write_text(json.dumps(description | {"format": value}))


@pytest.mark.parametrize(
  "harm, message",
  [
    (lambda path: (path / "model.json").unlink(), "model.json is missing; no model was trained"),
    (lambda path: (path / "weights.safetensors").unlink(), "its training has not ended"),
    (lambda path: (path / "model.json").write_text("{"), "not a model description"),
    (lambda path: (path / "model.json").write_text("[]"), "not a model description"),
    (break_weights, "not a whole weights file"),
    (lambda path: set_format(path, 99), "has format 99, this version reads up to 2"),
    (lambda path: set_format(path, None), "wanted a format of 1..2, found None"),
  ],
)
def test_a_broken_part_is_refused_by_name(tmp_path, harm, message):
  make_part(str(tmp_path))
  harm(tmp_path)
  with pytest.raises(ValueError, match=message) as caught:
    part_files.read_part(str(tmp_path))
  assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_how_a_module_computes_may_change(tmp_path):
  model = trainings.load("tiny/fine").model
  part_files.describe_run(str(tmp_path), model, {})
  for name, value in (("remat", "full"), ("attention", "cudnn")):
    part_files.describe_run(str(tmp_path), with_field(model, name, value), {})
  assert not (tmp_path / "model.json").read_text().count("cudnn")  # a part stays what it was
  with pytest.raises(ValueError, match='another configuration.*"dtype": "bfloat16"'):
    part_files.describe_run(str(tmp_path), with_field(model, "dtype", "bfloat16"), {})


def test_a_directory_of_another_configuration_is_refused_with_the_difference(tmp_path):
  make_part(str(tmp_path))
  make_part(str(tmp_path))  # the same is fine
  other = QUANTIZER.clone(standardise=True)
  with pytest.raises(ValueError, match="another configuration") as caught:
    part_files.describe_run(str(tmp_path), other, {"sources": {}, "parts": {}})
  assert '- "standardise": false' in str(caught.value)
  assert '+ "standardise": true' in str(caught.value)
