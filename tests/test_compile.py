"""Compiling for TPUs and GPUs that this machine lacks."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from musiclm_jax import main, partitioning
from musiclm_jax.layers import with_field
from musiclm_jax.training import flops, topologies
from musiclm_jax.training.compile import TooLarge, describe, largest_batches, load
from tests import trainings
from tests.programs import program

pytestmark = pytest.mark.slow


def compiled(capsys, *words):
  code = main.main(["compile", *words, "--json"])
  captured = capsys.readouterr()
  return json.loads(captured.out) if code == 0 else captured.err


def test_a_report_is_of_the_program_that_trains(capsys):
  report = compiled(capsys, "tiny/semantic", "--topology=v5e:2x2", "--mesh_fsdp=2")
  state = nn.unbox(trainings.load("tiny/semantic").abstract_state)
  assert report["parameters"] == sum(x.size for x in jax.tree.leaves(state.params))
  assert report["devices"] == 4 and report["mesh"] == dict(slices=1, data=2, fsdp=2, tensor=1)
  assert report["global_batch"] == 4 and report["flops_per_step"] > 0
  whole = 4 * report["parameters"]
  assert whole / 2 <= report["memory"]["parameters"] < 0.6 * whole  # norms stay whole
  assert report["bytes_per_device"] == sum(report["memory"].values())
  assert sum(each["bytes"] for each in report["collectives"].values()) > whole / 2
  assert 0 < report["mfu_ceiling"] <= 1 and report["compile_seconds"] > 0


@pytest.mark.parametrize("model", ["fine", "mulan_rvq"])
def test_other_trainings_compile(capsys, model):
  report = compiled(capsys, f"tiny/{model}", "--topology=v5e:2x2", "--batch_size=16")
  assert report["devices"] == 4 and report["bytes_per_device"] > 0


def test_one_chip_is_a_topology(capsys):
  report = compiled(capsys, "tiny/semantic", "--topology=v5e:1x1")
  assert report["devices"] == 1 and report["chip"] == "TPU v5 lite" and not report["collectives"]


def test_a_step_that_does_not_fit_names_the_flags(capsys):
  line = compiled(capsys, "tiny/semantic", "--topology=v5e:2x2", f"--batch_size={2**20}")
  assert "the step does not fit: it needs" in line and "of 15.75G on each device" in line
  assert "--num_microbatches=2" in line and "--remat=full" in line and line.count("\n") == 1


def test_two_slices_are_the_outer_axis(capsys):
  words = ("tiny/semantic", "--topology=v5e:2x2", "--batch_size=16")
  report = compiled(capsys, *words, "--mesh_slices=2", "--mesh_fsdp=2")
  assert report["devices"] == 8 and report["mesh"] == dict(slices=2, data=2, fsdp=2, tensor=1)


def test_the_decoding_step_compiles(capsys):
  words = ("tiny/semantic", "--topology=v5e:2x2", "--batch_size=16")
  report = compiled(capsys, "decode", *words)
  model = trainings.load("tiny/semantic").model
  cache = jax.eval_shape(lambda: model.decoder.init_cache(16, model.stage.length))
  whole = sum(x.size * x.dtype.itemsize for x in (cache.keys, cache.values))
  assert whole / 4 <= report["memory"]["cache"] < 1.01 * whole / 4
  training = flops.step_flops(program("tiny/semantic", 16))
  assert 0 < report["flops_per_step"] < training / model.stage.length
  line = compiled(capsys, "decode", "tiny/kmeans", *words[1:])
  assert "decode: a EmbeddingQuantizer does not decode; wanted a stage model" in line


def test_a_saved_step_is_the_step(tmp_path):
  made = program("tiny/fine", 4, mesh=(2, 2, 1))
  batch = made.put(trainings.load("tiny/fine").batch(4))
  path = str(tmp_path / "step")
  describe(made, path)
  with partitioning.use(made.mesh):
    wanted, _ = made.step(made.init(), batch)
    found, _ = load(path, made)(made.init(), batch)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(wanted))


def test_gpus_compile_too(capsys):
  pytest.importorskip("jax_plugins.xla_cuda13")  # of the extra [gpu]
  words = ("tiny/semantic", "--topology=h200:2x4", "--mesh_fsdp=2")
  report = compiled(capsys, *words, "--batch_size=16")
  assert report["devices"] == 8 and report["mesh"] == dict(slices=1, data=4, fsdp=2, tensor=1)
  assert report["chip"] == "NVIDIA H200" and report["memory"]["activations"] > 0
  assert sum(each["bytes"] for each in report["collectives"].values()) > 0
  line = compiled(capsys, *words, f"--batch_size={2**22}")
  assert "the step does not fit: it needs" in line and "of 141.0G on each device" in line
  line = compiled(capsys, "decode", *words, f"--batch_size={2**25}")
  assert "the step does not fit: it needs" in line and "of 141.0G on each device; a smaller" in line
  report = compiled(capsys, *words, "--batch_size=16", "--mesh_slices=2")
  assert report["mesh"] == dict(slices=2, data=2, fsdp=2, tensor=1)


def test_gpus_without_their_compiler_are_one_line(capsys, monkeypatch):
  from jax.experimental import topologies as compilers

  def none(*args, **options):
    raise NotImplementedError("topology_name cuda not found")

  monkeypatch.setattr(compilers, "get_topology_desc", none)
  line = compiled(capsys, "tiny/semantic", "--topology=h200:4x8")
  assert "no 'h200:4x8' here" in line and "the extra [gpu]" in line and line.count("\n") == 1


def test_a_flag_of_another_action_is_refused(capsys):
  line = compiled(capsys, "search", "tiny/fine", "--topology=v5e:2x2", "--out=step")
  assert "does not use OUT" in line and line.count("\n") == 1


@pytest.mark.parametrize("topology", ["v5e:3x5", "v9:2x2", "nonsense", "h200:8", "h200:0x8"])
def test_an_unknown_topology_is_one_line(capsys, topology):
  line = compiled(capsys, "tiny/semantic", f"--topology={topology}")
  assert f"topology: no '{topology}' here" in line and line.count("\n") == 1


def test_the_search_finds_the_largest_batch(monkeypatch):
  asked = []

  def describe(candidate):
    rows, remat = candidate.shapes["decoder_input_tokens"].shape[0], candidate.model.decoder.remat
    asked.append((remat, rows))
    if rows > {"none": 2, "minimal": 16, "full": 1}[remat]:
      raise TooLarge("2G", "less")
    return {"global_batch": rows}

  monkeypatch.setattr("musiclm_jax.training.compile.describe", describe)
  found = largest_batches(program("tiny/semantic", 8))
  assert [(each["remat"], each["global_batch"]) for each in found] == [
    ("none", 2),
    ("minimal", 16),
    ("full", 1),
  ]
  assert asked[:3] == [("none", 8), ("none", 4), ("none", 2)]


def test_a_search_that_finds_nothing_is_an_error(monkeypatch):
  def describe(candidate):
    raise TooLarge("2G", "less")

  monkeypatch.setattr("musiclm_jax.training.compile.describe", describe)
  with pytest.raises(ValueError, match="does not fit: .* with any batch"):
    largest_batches(program("tiny/semantic", 8))


def test_a_model_without_remat_is_searched_once(monkeypatch):
  asked = []

  def describe(candidate):
    asked.append(candidate.rows)
    if candidate.rows > 4:
      raise TooLarge("2G", "less")
    return {"global_batch": candidate.rows}

  monkeypatch.setattr("musiclm_jax.training.compile.describe", describe)
  found = largest_batches(program("tiny/soundstream", 8))
  assert [each["remat"] for each in found] == ["none"] and asked == [8, 4]


def test_remat_is_changed_in_every_part():
  model = with_field(trainings.load("tiny/w2v_bert").model, "remat", "full")
  assert model.contrastive.remat == model.masked.remat == "full"
  assert len(topologies.devices("v5e:2x2")) == 4
