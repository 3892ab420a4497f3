"""The doctor: versions that are true, extras that follow setup.py, and the accelerator check."""

import json
from importlib import metadata

import jax
import pytest

from musiclm_jax import doctor, main


def test_json_holds_versions_devices_and_extras(capsys):
  assert main.main(["doctor", "--json"]) == 0
  report = json.loads(capsys.readouterr().out)
  assert report["versions"]["jax"] == jax.__version__
  assert all(report["versions"].values())
  assert len(report["devices"]) == 8 and report["devices"][0].startswith("cpu:0")
  assert set(report["missing"]) == set(metadata.metadata("musiclm_jax").get_all("Provides-Extra"))
  assert {"gpu", "tpu", "hf", "dev"} <= set(report["missing"])
  assert report["system"]["soundfont"].endswith(".sf2")


def test_text_shows_the_same(capsys):
  assert main.main(["doctor"]) == 0
  text = capsys.readouterr().out
  assert f"jax                   {jax.__version__}\n" in text
  assert "extra [dev]" in text and "ffmpeg" in text


def test_missing_follows_the_requirements(monkeypatch):
  wants = {
    "project": [
      "present>=1",
      'absent; extra == "a"',
      'present>=2; extra == "a"',
      'deep[inner]; extra == "b"',
      'present>=1; extra == "c"',
    ],
    "deep": ['plugin<2; extra == "inner"', 'other; extra == "outer"'],
  }
  installed = {"present": "1.5", "deep": "1.0"}
  extras = metadata.metadata("musiclm_jax")
  monkeypatch.setattr(doctor.metadata, "requires", wants.get)
  monkeypatch.setattr(doctor, "version", installed.get)
  monkeypatch.setattr(extras.__class__, "get_all", lambda *_: ["a", "b", "c"])
  monkeypatch.setattr(doctor.metadata, "metadata", lambda name: extras)
  assert doctor.missing_by_extra("project") == {
    "a": ["absent", "present>=2"],
    "b": ["plugin<2"],
    "c": [],
  }


def test_a_package_that_is_not_there_has_no_version():
  assert doctor.version("no-such-package-at-all") is None


@pytest.mark.parametrize(
  ("platforms", "names", "has_tpu", "unused"),
  [
    ({"cpu"}, ["numpy", "jax-cuda13-plugin", "jax-cuda13-pjrt"], False, 2),
    ({"cpu"}, ["libtpu"], True, 1),
    ({"cpu"}, ["libtpu"], False, 0),
    ({"cpu"}, ["jax", "jaxlib", "numpy"], True, 0),
    ({"gpu"}, ["jax-cuda13-plugin"], False, 0),
    ({"tpu", "cpu"}, ["libtpu"], True, 0),
  ],
)
def test_unused_accelerators(platforms, names, has_tpu, unused):
  assert len(doctor.unused_accelerators(names, platforms, has_tpu=has_tpu)) == unused


def test_an_unused_accelerator_fails(monkeypatch, capsys):
  monkeypatch.setattr(doctor, "unused_accelerators", lambda *_, **__: ["libtpu"])
  assert main.main(["doctor"]) == 1
  captured = capsys.readouterr()
  assert captured.err.startswith("musiclm: libtpu installed, but JAX finds only the CPU")
  assert "jaxlib" in captured.out
