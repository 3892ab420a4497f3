"""The published sizes: what gin/paper trains has the shapes and parameters that the papers say.

Shapes alone: nothing of these sizes is ever allocated.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from musiclm_jax.training.step import train_step
from tests import trainings

pytestmark = pytest.mark.slow

# Parameters in millions under these names of the tree, or of all of it.
PARAMETERS = {
  "semantic": ((), 430),  # MusicLM, Section 4.1
  "coarse": ((), 430),
  "fine": ((), 430),
  "soundstream": (("encoder", "decoder"), 8.4),  # SoundStream, Table I
  "w2v_bert": ((), 600),  # w2v-BERT XL, Table 1
  # ResNet-50 (25.6M, 2.05M of them for the 1000 classes) and BERT-base (110M)
  "mulan": (("audio_tower", "text_tower"), 25.6 - 2.05 + 110),
  "mulan_ast": (("audio_tower", "text_tower"), 87 + 110),  # AST: 87M
}
# Vectors in each level: MusicLM, Section 3.1 and Appendix C; the widths are of what they quantise.
CODEBOOKS = {
  "soundstream": (12, 1024, 256),
  "kmeans": (1, 1024, 1024),
  "mulan_rvq": (12, 1024, 128),
  "melody_rvq": (24, 512, 192),
}
# Tokens of a crop: 12 + 30 s of 25, 12 + 10 s of 25 + 4 x 50, 3 s of 4 x 50 + 8 x 50 (MusicLM 4.2).
TOKENS = {"semantic": 762, "coarse": 2262, "fine": 1800}


@functools.cache
def paper(model):
  return trainings.load(f"paper/{model}")


def test_there_is_a_training_for_every_part():
  assert set(trainings.names("paper")) == {*PARAMETERS, *CODEBOOKS, "melody"}


@pytest.mark.parametrize("model", trainings.names("paper"))
def test_a_step_maps_the_state_to_its_like(model):
  training = paper(model)
  state = nn.unbox(training.abstract_state)
  step = functools.partial(train_step, training.model, training.optimizer, 1, 0)
  following, metrics = jax.eval_shape(step, state, training.abstract_batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
    lambda x: (x.shape, x.dtype), following
  )
  assert {"loss", "chance"} <= set(metrics)
  assert {(x.shape, x.dtype) for x in jax.tree.leaves(metrics)} == {((), jnp.dtype("float32"))}


@pytest.mark.parametrize("model", PARAMETERS)
def test_parameters_are_as_many_as_published(model):
  names, millions = PARAMETERS[model]
  params = nn.unbox(paper(model).abstract_state).params
  leaves = jax.tree.leaves([params[name] for name in names or params])
  assert sum(math.prod(x.shape) for x in leaves) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("model", CODEBOOKS)
def test_codebooks_are_those_of_the_papers(model):
  codebooks = paper(model).abstract_state.collections["codebooks"]["quantizer"]
  assert codebooks["vectors"].shape == CODEBOOKS[model]


def test_w2v_bert_learns_the_codebook_of_table_1():
  targets = nn.unbox(paper("w2v_bert").abstract_state).params["targets_0"]
  assert targets["codebook"].shape == (1024, 1024)


@pytest.mark.parametrize("model", TOKENS)
def test_sequences_are_as_long_as_the_crops(model):
  assert {x.shape[1] for x in paper(model).abstract_batch.values()} == {TOKENS[model]}


def test_the_melody_encoder_is_that_of_the_appendix():
  """Its count is not published, but follows from the sizes: 12 layers, 6 heads, 512, 1024."""
  tower = nn.unbox(paper("melody").abstract_state).params["tower"]
  layers = tower["encoder"]["layers"]
  assert layers["attention"]["qkv"]["kernel"].shape == (12, 512, 3, 6, 64)
  assert layers["wi"]["kernel"].shape == (12, 512, 1024)
  assert paper("melody").model.embed_dim == 192
