"""Strict numerics and eight simulated devices for every test, set before jax starts its backend."""

import importlib.util
import os
import random
import tempfile

import hypothesis
import jax
import numpy as np
import pytest

from musiclm_jax import checks, configuration

# A collective blocks a thread, and a simulated device can wait in several at once: with one thread
# for each device some programs would never end. XLA reads this when its backend starts.
os.environ["PJRT_NPROC"] = "24"
# Most of a test's time is compiling; what it computes is small enough to run unoptimised.
os.environ["XLA_FLAGS"] = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


# What compares with published implementations needs the extra [hf]: `make test-hf`.
collect_ignore_glob = [] if importlib.util.find_spec("transformers") else ["test_pretrained*.py"]


@pytest.fixture(autouse=True)
def _seeds():
  random.seed(0)
  np.random.seed(0)


@pytest.fixture
def rng():
  """A numpy Generator, the same in every test."""
  return np.random.default_rng(0)


def pytest_configure(config):
  """Compiles each program once in a session: the workers, and the commands they start, share it."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # neither the caller's nor that of a worker
    folder = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_sessionstart(session):
  """Fails at once where something started jax's backend before the settings above."""
  if jax.device_count() != 8:
    pytest.exit(f"8 simulated devices wanted, jax has {jax.device_count()}", returncode=2)
  for name in ("PJRT_NPROC", "XLA_FLAGS"):
    del os.environ[name]  # the commands that tests start run as a user's do


_LONGEST = ("pipeline", "contracts", "processes", "compile", "w2v_bert", "trainer", "transformer")


def pytest_collection_modifyitems(items):
  """The longest files first, so that both workers end together."""
  order = {f"test_{name}.py": place for place, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: order.get(item.path.name, len(order)))


_STUDIO = {
  "studio/__init__.py": "",
  "studio/models.py": """
import dataclasses
from typing import ClassVar

from musiclm_jax.ranges import NonNegativeFloat, PositiveInt

import flax.linen as nn


class Base(nn.Module):
  width: int
  rate: float = 1.0


class Small(Base):
  depth: int = 2
  strides: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Shape:
  data: int
  tensor: int = 1
  unit: ClassVar[str] = "devices"

  def __post_init__(self):
    if self.data < 1:
      raise ValueError(f"Shape.data must be positive, got {self.data}")
    self.data + 0

  def scaled(self, factor: int):
    return self.data * factor


class Plain:
  def __init__(self, path, *, size: PositiveInt | None = None, gain: NonNegativeFloat = 1.0):
    self.path, self.size = path, size
""",
  "studio/jobs.py": """
import os
import subprocess
import sys

from studio import models
from studio.models import Shape

CALLS = []
try:
  from studio.absent import missing as alias
except ImportError:
  alias = None


def train(model, *, steps: int, model_dir: str, config_text: str, seed: int = 0):
  CALLS.append(dict(model=model, steps=steps, model_dir=model_dir, text=config_text, seed=seed))


def speak(prompt: str, seconds: float, json: bool, shape):
  CALLS.append(dict(prompt=prompt, seconds=seconds, json=json, shape=shape))


def crash(kind: str):
  if kind == "nested":
    raise ValueError("two\\n  lines")
  if kind == "file":
    open("/nowhere/at/all.wav")
  if kind == "disk":
    raise OSError(28, "No space left on device", "runs/fine")
  if kind == "library":
    raise RuntimeError("write failed: Disk quota exceeded")
  if kind == "forbidden":
    raise PermissionError(13, "Permission denied", "runs/fine")
  if kind == "late":
    raise TimeoutError("no answer")
  if kind == "interrupt":
    raise KeyboardInterrupt
  return None + kind


def several(prompts: tuple, speak):
  from musiclm_jax import main

  for prompt in prompts:
    assert main.main(["speak", "" + prompt]) == 0


def again(directory: str):
  command = [sys.executable, "-c", "import sys\\nfrom musiclm_jax import lock\\n"]
  command[-1] += "with lock.exclusive(sys.argv[1]) as begin: begin()"
  path = os.pathsep.join(sys.path)
  result = subprocess.run(
    [*command, directory], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
  )
  CALLS.append(result.stderr)


def anything(a=None, b=None):
  CALLS.append(dict(a=a, b=b))


def named(name: str):
  CALLS.append(name)
""",
  "gin/shared.gin": """
from __gin__ import dynamic_registration
from studio import models

models.Shape.data = %DATA
DATA = 2
""",
  "gin/run/train.gin": """# Trains one model.
#
# More about it.
from __gin__ import dynamic_registration
from musiclm_jax import main
from studio import jobs

STEPS = 10  # how long
main.run.job = @jobs.train
jobs.train:
  model = %MODEL
  steps = %STEPS
  model_dir = %MODEL_DIR
main.run.exclusive = "model_dir"
""",
  "gin/run/speak.gin": """# Speaks a prompt.
from __gin__ import dynamic_registration
from musiclm_jax import main
from studio import jobs
from studio import models as parts

include "shared.gin"

SECONDS = 1.5
JSON = False
main.run.job = @jobs.speak
main.run.words = ("PROMPT",)
jobs.speak.prompt = %PROMPT
jobs.speak.seconds = %SECONDS
jobs.speak.json = %JSON
jobs.speak.shape = @parts.Shape()
""",
  "gin/run/several.gin": """# Speaks twice.
from __gin__ import dynamic_registration
from musiclm_jax import main
from studio import jobs

main.run.job = @inner/jobs.several
inner/jobs.several.prompts = %PROMPTS
PROMPTS = ("one", "two")
inner/jobs.several.speak = @jobs.speak
""",
  "gin/run/again.gin": """# Tries to lock the directory in which it runs.
from __gin__ import dynamic_registration
from musiclm_jax import main
from studio import jobs

main.run.job = @jobs.again
main.run.exclusive = "directory"
jobs.again.directory = %DIR
""",
  "gin/run/crash.gin": """# Fails.
from __gin__ import dynamic_registration
from musiclm_jax import main
from studio import jobs

main.run.job = @jobs.crash
jobs.crash.kind = %KIND
""",
  "gin/model/small.gin": """
from __gin__ import dynamic_registration
import studio.models

MODEL = @studio.models.Small()
studio.models.Small.width = %WIDTH
""",
  "gin/size/tiny.gin": "WIDTH = 8\n",
  "gin/size/demo.gin": "WIDTH = 64\n",
}


@pytest.fixture(scope="session")
def _studio_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("studio")
  for name, text in _STUDIO.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
  return folder


@pytest.fixture
def studio(_studio_folder, monkeypatch, tmp_path):
  """A small package `studio` with gin files in the place of this one; its folder.

  The working directory is tmp_path, so that a test can write its own gin files there.
  """
  monkeypatch.syspath_prepend(str(_studio_folder))
  monkeypatch.setattr(checks, "PACKAGE", _studio_folder / "studio")
  monkeypatch.setattr(configuration, "FOLDER", _studio_folder / "gin")
  monkeypatch.chdir(tmp_path)
  return _studio_folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """({role: directory}, text model) of a bundle with random weights."""
  from tests import bundles  # few tests need it, and it loads all models

  return bundles.make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def bundle(runs, tmp_path_factory):
  from tests import bundles

  return bundles.export(*runs, tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture(scope="module")
def composer(bundle):
  from musiclm_jax.lm.composer import Composer

  return Composer(bundle)
