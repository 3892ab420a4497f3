"""What parts can do: each kind of part is told from the others by what it offers."""

import json

import pytest

from musiclm_jax.tokenizers import frozen, protocols
from musiclm_jax.tokenizers.pretrained import TorchCodec, TorchEncoder, TorchJoint
from musiclm_jax.tokenizers.quantizer import EmbeddingQuantizer
from tests import small_world
from tests.test_part_files import make_part

KINDS = (
  protocols.Codec,
  protocols.FrameEncoder,
  protocols.ClipEncoder,
  protocols.JointEncoder,
  protocols.Quantizer,
)
CONFIG = json.dumps(
  {"num_hidden_layers": 3, "projection_dim": 12, "text_config": {"max_position_embeddings": 514}}
)
PARTS = {
  "ours/soundstream": (small_world.codec, protocols.Codec),
  "ours/w2v_bert": (small_world.self_supervised, protocols.FrameEncoder),
  "ours/melody": (small_world.melodies, protocols.ClipEncoder),
  "ours/mulan": (small_world.joint, protocols.JointEncoder),
  "ours/mulan_rvq": (
    lambda: EmbeddingQuantizer(small_world.residual(2, 6), standardise=False),
    protocols.Quantizer,
  ),
  "torch/soundstream": (lambda: TorchCodec("{}", 24000, 480, 8, 1024), protocols.Codec),
  "torch/w2v_bert": (lambda: TorchEncoder(CONFIG, "{}", 24000), protocols.FrameEncoder),
  "torch/mulan": (lambda: TorchJoint(CONFIG, "{}", 24000, 300, 1), protocols.JointEncoder),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_of_its_kind_alone_and_that_of_its_role(name):
  module, wanted = PARTS[name][0](), PARTS[name][1]
  assert [kind for kind in KINDS if isinstance(module, kind)] == [wanted]
  assert protocols.ROLES[name.partition("/")[2]] is wanted
  assert all(callable(getattr(module, method)) for method in module.methods)


def test_a_part_states_its_rates_and_sizes_whoever_made_it():
  ours, torch = PARTS["ours/soundstream"][0](), PARTS["torch/soundstream"][0]()
  rate, hop = small_world.RATE, 480
  assert (ours.sample_rate, ours.hop, ours.frame_rate) == (rate, hop, rate / hop)
  assert (ours.num_quantizers, ours.codebook_size) == (3, small_world.CODES)
  assert (torch.hop, torch.frame_rate, torch.num_quantizers) == (480, 50, 8)
  assert PARTS["torch/w2v_bert"][0]().layers == (0, 1, 2, 3)
  assert PARTS["ours/w2v_bert"][0]().layers == (None, 0, 1)
  assert (PARTS["torch/mulan"][0]().embed_dim, PARTS["ours/mulan"][0]().embed_dim) == (12, 6)
  assert (PARTS["torch/mulan"][0]().max_tokens, PARTS["ours/mulan"][0]().max_tokens) == (512, 64)
  assert PARTS["ours/mulan"][0]().sample_rate == PARTS["ours/melody"][0]().sample_rate == rate


def test_a_part_of_another_kind_is_refused_where_it_is_loaded(tmp_path):
  make_part(str(tmp_path))
  assert frozen.load(str(tmp_path), protocols.Quantizer).module.embed_dim == 3
  message = f"^{tmp_path}: wanted the kind Codec, found EmbeddingQuantizer$"
  with pytest.raises(ValueError, match=message):
    frozen.load(str(tmp_path), protocols.Codec)
