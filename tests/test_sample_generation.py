"""Music while a model trains: by the model that trains and the other parts of a bundle."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax import audio, part_files, partitioning
from musiclm_jax.lm.composer import Composer
from musiclm_jax.lm.sample_generation import SampleGeneration, Samples
from musiclm_jax.training.progress import Progress, Rates
from musiclm_jax.training.protocols import Run
from musiclm_jax.training.step import TrainState
from tests import bundles

PROMPTS = ["a calm flute", "drums"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(bundle, model directories, file of prompts)."""
  root = tmp_path_factory.mktemp("samples")
  runs, text = bundles.make_runs(root / "runs")
  bundles.export(runs, text, root / "bundle")
  (root / "prompts.txt").write_text("\n".join(PROMPTS))
  return str(root / "bundle"), runs, str(root / "prompts.txt")


def settings(made, **changes):
  bundle, _, prompts = made
  fields = dict(period=10, bundle=bundle, prompts=prompts, seconds=0.5, seed=3)
  return SampleGeneration(**fields | changes)


@pytest.mark.slow
def test_a_model_with_the_values_of_the_bundle_makes_its_music(made):
  bundle, runs, _ = made
  wanted = Composer(bundle).waveforms(PROMPTS, 0.5, 3)
  mesh = partitioning.make_mesh(partitioning.MeshShape(1, 2, 2, 2), jax.devices())
  module, variables, _ = part_files.read_part(runs["semantic"])
  samples = Samples(settings(made), module)
  assert samples.sample_rate == bundles.SAMPLE_RATE
  with partitioning.use(mesh):
    np.testing.assert_array_equal(samples(variables), wanted)


@pytest.mark.slow
def test_a_hook_writes_the_music_of_the_values_that_train(made, tmp_path, capsys):
  _, runs, _ = made
  module, variables, _ = part_files.read_part(runs["soundstream"])
  with Progress(str(tmp_path), 1, 40, Rates(1, None), wandb_project="") as progress:
    run = Run(SimpleNamespace(model=module), None, str(tmp_path), 1, 40, progress)
    with settings(made).start(run) as hook:
      for step in (9, 10, 19, 20):
        values = jax.tree.map(jnp.zeros_like if step == 20 else jnp.asarray, variables)
        collections = {name: x for name, x in values.items() if name != "params"}
        state = TrainState(step, values["params"], collections, opt_state=())
        hook(step, state, {})
  names = [f"{step:06}_{index:02}.wav" for step in (10, 20) for index in (0, 1)]
  assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == names
  assert np.abs(audio.read(str(tmp_path / "samples" / names[0]), bundles.SAMPLE_RATE)).max() > 0
  with pytest.raises(ValueError, match="found silence"):
    audio.read(str(tmp_path / "samples" / names[2]), bundles.SAMPLE_RATE)
  events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
  assert events.count(b"samples/01") == 2
  assert "10/40  2 x music in" in capsys.readouterr().err


def test_settings_that_can_generate_nothing_are_refused_before_the_first_step(made, tmp_path):
  with pytest.raises(ValueError, match="nowhere.txt: no such file"):
    settings(made, prompts=str(tmp_path / "nowhere.txt"))
  with pytest.raises(ValueError, match="needs --sample_bundle and --sample_prompts too"):
    settings(made, bundle="")
  module, _, _ = part_files.read_part(made[1]["semantic"])

  def start(module, **changes):
    run = Run(SimpleNamespace(model=module), None, str(tmp_path), 1, 40, None)
    with settings(made, **changes).start(run) as hook:
      return hook

  other = module.clone(stage=module.stage.__class__("other", (), bundles.FINE, 1.0))
  with pytest.raises(ValueError, match="TokenLM wants the place of one part, fits no part"):
    start(other)
  with pytest.raises(ValueError, match="no bundle here"):
    start(module, bundle=str(tmp_path))
  assert start(other, period=0, bundle="", prompts="")(10, None, {}) is None
