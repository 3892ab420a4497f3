"""Music while a model trains: the trained model makes it, and the rest of the bundle."""

import jax
import numpy as np
import pytest

from musiclm_jax import checkpointing, partitioning
from musiclm_jax.lm.audition import SampleGeneration
from musiclm_jax.lm.generation import Composer
from musiclm_jax.lm.sampling import Sampling
from musiclm_jax.tokenizers.soundstream import SoundStream
from tests import bundles

SAMPLINGS = tuple(Sampling(stage.name, 1.0, 0.0, 0.5) for stage in bundles.STAGES)
PROMPTS = ["a calm flute", "drums"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(bundle, model directories, file of prompts)."""
  root = tmp_path_factory.mktemp("audition")
  runs, text = bundles.make_runs(root / "runs")
  bundles.export(runs, text, root / "bundle")
  (root / "prompts.txt").write_text("\n".join(PROMPTS))
  return str(root / "bundle"), runs, str(root / "prompts.txt")


def audition(made, **changes):
  bundle, _, prompts = made
  fields = dict(period=10, bundle=bundle, prompts=prompts, seconds=0.5, seed=3)
  return SampleGeneration(**fields | changes, samplings=SAMPLINGS)


@pytest.mark.parametrize("role", ["semantic", "soundstream"])
def test_a_model_with_the_values_of_the_bundle_makes_its_music(made, role):
  bundle, runs, _ = made
  module, variables, _ = checkpointing.read_part(runs[role])
  mesh = partitioning.make_mesh(partitioning.MeshShape(1, 2, 2, 2), jax.devices())
  with partitioning.use(mesh):
    music, rate = audition(made)(module, variables)
  wanted = Composer(bundle, SAMPLINGS).waveforms(PROMPTS, 0.5, 3)
  assert rate == bundles.SAMPLE_RATE
  np.testing.assert_array_equal(music, wanted)


def test_the_values_that_train_take_the_place_of_those_in_the_bundle(made):
  _, runs, _ = made
  module, variables, _ = checkpointing.read_part(runs["soundstream"])
  hearing = audition(made)
  loud, _ = hearing(module, variables)
  silent, _ = hearing(module, jax.tree.map(np.zeros_like, variables))
  assert np.abs(loud).max() > 0 and np.abs(silent).max() == 0
  again, _ = hearing(module, variables)
  np.testing.assert_array_equal(again, loud)


def test_it_is_due_every_period_or_never(made):
  assert [step for step in range(1, 31) if audition(made).due(step)] == [10, 20, 30]
  assert not any(audition(made, period=0).due(step) for step in range(1, 31))


def test_what_makes_no_music_is_refused_before_the_first_step(made, tmp_path):
  _, runs, _ = made
  module, _, _ = checkpointing.read_part(runs["semantic"])
  audition(made).check(module)
  with pytest.raises(ValueError, match="TokenLM wants the place of one part, fits no part"):
    audition(made).check(module.clone(stage=module.stage.__class__("other", (), bundles.FINE, 1.0)))
  with pytest.raises(ValueError, match="nowhere.txt: no such file"):
    audition(made, prompts=str(tmp_path / "nowhere.txt")).check(module)
  with pytest.raises(ValueError, match="no bundle here"):
    audition(made, bundle=str(tmp_path)).check(module)
  with pytest.raises(ValueError, match="wants --audition_bundle and --audition_prompts too"):
    audition(made, bundle="").check(module)
  audition(made, period=0, bundle="", prompts="").check(SoundStream)
