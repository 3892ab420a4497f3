"""The learned codes of w2v-BERT against the quantizer of wav2vec 2.0 in transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax.layers import unit
from musiclm_jax.tokenizers.targets import Learned, diversity_loss

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DIM, SIZE, CODE_DIM = 24, 40, 12


@pytest.fixture
def published():
  """Theirs, of one group and random weights."""
  from transformers.models.wav2vec2 import modeling_wav2vec2

  config = transformers.Wav2Vec2Config(
    conv_dim=(DIM,),
    conv_stride=(1,),
    conv_kernel=(1,),
    num_codevector_groups=1,
    num_codevectors_per_group=SIZE,
    codevector_dim=CODE_DIM,
  )
  module = modeling_wav2vec2.Wav2Vec2GumbelVectorQuantizer(config).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in module.parameters():
      parameter.normal_(generator=generator)
  return module


@pytest.fixture
def variables(published):
  """Theirs as ours; the features come standardised already."""
  weights = {name: value.detach().numpy() for name, value in published.named_parameters()}
  logits = {"kernel": weights["weight_proj.weight"].T, "bias": weights["weight_proj.bias"]}
  statistics = {"mean": np.zeros(DIM, np.float32), "var": np.full(DIM, 1 - 1e-5, np.float32)}
  return {
    "params": {"logits": logits, "codebook": weights["codevectors"][0]},
    "batch_stats": {"standardise": statistics},
    "counters": {"updates": np.int32(0)},
  }


@pytest.fixture
def features(rng):
  return rng.normal(size=(3, 200, DIM)).astype(np.float32)


def test_codes_vectors_and_perplexity_are_those_of_transformers(published, variables, features):
  model = Learned(SIZE, CODE_DIM, 2.0, 0.5, 0.999995, 0.9)
  with torch.no_grad():
    wanted, perplexity = published(torch.from_numpy(features))
    wanted_codes = published.weight_proj(torch.from_numpy(features)).argmax(dim=-1)
  codes, vectors, _, _ = model.apply(variables, None, features, False)
  np.testing.assert_array_equal(codes, wanted_codes)
  np.testing.assert_allclose(vectors, unit(jnp.asarray(wanted.numpy())), 1e-5, 1e-5)
  found = diversity_loss(jax.nn.one_hot(codes, SIZE))
  np.testing.assert_allclose(found, (SIZE - float(perplexity)) / SIZE, rtol=1e-5)


def test_the_diversity_of_training_is_that_of_transformers(published, variables, features):
  """Theirs is over the masked frames alone; here all are. The noise of the draw is not in it."""
  model = Learned(SIZE, CODE_DIM, 2.0, 0.5, 0.999995, 0.9)
  with torch.no_grad():
    perplexity = published.train()(torch.from_numpy(features))[1]
  _, _, diversity, _ = model.apply(variables, None, features, False)
  np.testing.assert_allclose(diversity, (SIZE - float(perplexity)) / SIZE, rtol=1e-5)
