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


@pytest.fixture
def install(tmp_path, monkeypatch):
  """Installs a package of this name, version and further lines of its metadata, for one test."""
  monkeypatch.syspath_prepend(str(tmp_path))

  def run(name, version, *lines):
    folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    head = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}")
    (folder / "METADATA").write_text("\n".join([*head, *lines]) + "\n")

  return run


def test_missing_follows_the_requirements(install):
  install(
    "studio-project",
    "1.0",
    "Provides-Extra: a",
    "Provides-Extra: b",
    "Provides-Extra: c",
    "Requires-Dist: studio-present>=1",
    'Requires-Dist: studio-absent; extra == "a"',
    'Requires-Dist: studio-present>=2; extra == "a"',
    'Requires-Dist: studio-deep[inner]; extra == "b"',
    'Requires-Dist: studio-present>=1; extra == "c"',
  )
  install("studio-present", "1.5")
  install(
    "studio-deep",
    "1.0",
    'Requires-Dist: studio-plugin<2; extra == "inner"',
    'Requires-Dist: studio-other; extra == "outer"',
  )
  assert doctor.missing_by_extra("studio-project") == {
    "a": ["studio-absent", "studio-present>=2"],
    "b": ["studio-plugin<2"],
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


def test_an_unused_accelerator_fails(install, capsys):
  install("jax-cuda13-plugin", "0.10.2")
  assert main.main(["doctor"]) == 1
  captured = capsys.readouterr()
  assert captured.err.startswith("musiclm: jax-cuda13-plugin installed, but JAX finds only the CPU")
  assert "jaxlib" in captured.out
