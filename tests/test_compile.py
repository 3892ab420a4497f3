"""Compiling for TPUs that are not there."""

import json

import flax.linen as nn
import jax
import pytest

from musiclm_jax import main
from musiclm_jax.training.compile import largest_batches, topology_devices, with_remat
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
  assert report["devices"] == 4 and report["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
  assert report["global_batch"] == 4 and report["flops_per_step"] > 0
  whole = 4 * report["parameters"]
  assert whole / 2 <= report["memory"]["parameters"] < 0.6 * whole  # norms stay whole
  assert report["bytes_per_device"] == sum(report["memory"].values())
  assert sum(each["bytes"] for each in report["collectives"].values()) > whole / 2
  assert 0 < report["mfu_ceiling"] <= 1 and report["compile_seconds"] > 0


@pytest.mark.parametrize("model", ["coarse", "fine", "kmeans", "mulan_rvq"])
def test_other_trainings_compile(capsys, model):
  report = compiled(capsys, f"tiny/{model}", "--topology=v5e:2x2", "--batch_size=16")
  assert report["devices"] == 4 and report["bytes_per_device"] > 0


def test_a_step_that_does_not_fit_names_the_flags(capsys):
  line = compiled(capsys, "tiny/semantic", "--topology=v5e:2x2", f"--batch_size={2**20}")
  assert "the step does not fit: it wants" in line and "of 15.75G on each device" in line
  assert "--num_microbatches=2" in line and line.count("\n") == 1


@pytest.mark.parametrize("topology", ["v5e:3x5", "v9:2x2", "nonsense"])
def test_an_unknown_topology_is_one_line(capsys, topology):
  line = compiled(capsys, "tiny/semantic", f"--topology={topology}")
  assert f"topology: no '{topology}' here" in line and line.count("\n") == 1


def test_the_search_finds_the_largest_batch(monkeypatch):
  asked = []

  def describe(candidate):
    rows, remat = candidate.shapes["decoder_input_tokens"].shape[0], candidate.model.decoder.remat
    asked.append((remat, rows))
    if rows > {"none": 2, "minimal": 16, "full": 1}[remat]:
      from musiclm_jax.training.compile import TooLarge

      raise TooLarge
    return {"global_batch": rows}

  monkeypatch.setattr("musiclm_jax.training.compile.describe", describe)
  found = largest_batches(program("tiny/semantic", 8))
  assert [(each["remat"], each["global_batch"]) for each in found] == [
    ("none", 2),
    ("minimal", 16),
    ("full", 1),
  ]
  assert asked[:3] == [("none", 8), ("none", 4), ("none", 2)]


def test_remat_is_changed_wherever_it_stands():
  model = with_remat(trainings.load("tiny/w2v_bert").model, "full")
  assert model.contrastive.remat == model.masked.remat == "full"
  assert len(topology_devices("v5e:2x2")) == 4
