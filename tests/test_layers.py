"""The layers of the package: imports only go down, and heavy libraries stay in their files."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "musiclm_jax"

# Bottom to top. A module imports only modules of lower layers, or of its own layer where the
# imports form no circle; a name that ends in .* stands for all modules of that folder.
LAYERS = (
  (
    "audio",
    "spectrograms",
    "text",
    "tokens",
    "sequences",
    "windows",
    "partitioning",
    "layers",
    "lock",
    "loudness",
    "quiet",
    "ranges",
    "seeds",
    "storage",
    "licence_terms",
    "old_names",
    "descriptions",
  ),
  (
    "attention",
    "transformer",
    "encoder",
    "part_files",
    "tokenizers.kmeans",
    "tokenizers.quantizer",
    "tokenizers.front_ends",
    "tokenizers.targets",
    "tokenizers.views",
    "tokenizers.discriminators",
    "tokenizers.conformer",
    "tokenizers.towers",
    "tokenizers.convolutions",
    "tokenizers.short_time",
    "tokenizers.balancer",
    "tokenizers.inputs",
    "tokenizers.model_card",
    "tokenizers.protocols",
    "tokenizers.pretrained",
    "embedders.batches",
    "embedders.embedder",
    "embedders.musicnn",
    "embedders.packages",
    "embedders.saved_model",
    "embedders.torch_classifier",
    "embedders.torch_file",
    "embedders.vggish",
    "evaluation.metrics",
    "evaluation.page",
    "evaluation.pictures",
    "datasets.*",
    "sources",
    "clocks",
    "lm.patterns",
    "lm.sampling",
    "lm.decoding",
    "lm.conditions",
    "training.orders",
    "training.examples",
  ),
  (
    "tokenizers.soundstream",
    "tokenizers.spectral_codec",
    "tokenizers.w2v_bert",
    "tokenizers.mulan",
    "tokenizers.melody",
    "lm.token_lm",
  ),
  (
    "tokenizers.frozen",
    "tokenizers.importing",
    "tokenizers.conversion",
    "tokenizers.streaming",
    "embedders.part",
    "export.*",
    "training.audio_examples",
    "training.token_examples",
    "training.array_loader",
    "training.seqio_loader",
    "training.optimizers",
    "training.checkpoints",
    "training.checkpoint_jobs",
    "training.collectives",
    "training.disk",
    "training.hardware",
    "training.health",
    "training.preemption",
    "training.preflight",
    "training.profiling",
    "training.progress",
    "training.protocols",
    "training.step",
    "training.topologies",
    "training.writers",
  ),
  (
    "training.input_pipeline",
    "lm.conditions",
    "lm.composer",
    "lm.continuation",
    "lm.generate",
    "lm.joint",
    "lm.labels",
    "lm.prompt_words",
    "lm.prompts",
    "lm.takes",
    "lm.wanted",
    "music",
    "lm.sample_generation",
    "datasets.features",
    "datasets.extract",
  ),
  (
    "training.flops",
    "training.trainer",
    "training.compile",
    "training.compile_jobs",
    "evaluation.*",
    "scoring.*",
    "listening.*",
    "command_list",
    "demo",
  ),
  ("configuration", "checks", "doctor", "processes", "main", "sweep.*", "__main__"),
  ("supervisor",),
)
# Only these import TensorFlow.
SEQIO_FILES = {"training.seqio_loader"}
_EMBEDDERS = {"embedders.musicnn", "embedders.saved_model", "embedders.vggish"}
TENSORFLOW_FILES = {*SEQIO_FILES, *_EMBEDDERS}  # embedders: only inside functions
# Only inside functions: importing them loads no torch.
TORCH_FILES = {"tokenizers.pretrained", "embedders.torch_classifier"}
GIN_FILES = {"main", "configuration"}


def modules() -> dict[str, Path]:
  """{dotted name within the package: file} of all modules that are not empty packages."""
  files = (path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
  return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in files}


MODULES = modules()


def layer(module: str) -> int | None:
  """The index of a module's layer; its own name counts before that of its folder."""
  for name in (module, f"{module.rpartition('.')[0]}.*"):
    for index, names in enumerate(LAYERS):
      if name in names:
        return index
  return None


def imports(path: Path) -> set[str]:
  """Full names of all that a file imports, anywhere in it."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def package_imports(path: Path) -> set[str]:
  """The modules of the package that a file imports."""
  inside = [name.removeprefix("musiclm_jax.") for name in imports(path)]
  return {n for name in inside for n in (name, name.rpartition(".")[0]) if n in MODULES}


def reaches(module: str) -> set[str]:
  """All modules of the package that importing this one imports, itself included."""
  seen, queue = set(), [module]
  while queue:
    name = queue.pop()
    if name not in seen:
      seen.add(name)
      queue += package_imports(MODULES[name])
  return seen


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_only_go_down(module):
  assert layer(module) is not None, f"{module} is in no layer: add it to LAYERS"
  for imported in package_imports(MODULES[module]):
    assert layer(imported) <= layer(module), f"{module} imports {imported} from a higher layer"
    assert module not in reaches(imported), f"{module} and {imported} import each other"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("training.")))
def test_training_imports_no_stage_model(module):
  assert not [name for name in reaches(module) if name.startswith("lm.")]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_libraries_stay_in_their_files(module):
  tops = {name.split(".")[0] for name in imports(MODULES[module])}
  if module not in TENSORFLOW_FILES:
    assert not tops & {"tensorflow", "seqio", "clu"}
  assert not tops & {"torch", "transformers"} or module in TORCH_FILES
  assert "gin" not in tops or module in GIN_FILES
  assert "absl" not in tops or module == "main"


def _loads_tensorflow(name: str) -> bool:
  """Whether importing `name` of the package, or a library, loads TensorFlow's libraries."""
  inside = [n for n in (name, name.rpartition(".")[0]) if n in MODULES]
  paths = [MODULES[module] for n in inside for module in reaches(n)]
  tops = {n.split(".")[0] for n in (name, *(n for path in paths for n in imports(path)))}
  return bool(tops & {"tensorflow", "tensorflow_datasets", "seqio"})


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_is_imported_in_a_function_logs_nothing(module):
  tree = ast.parse(MODULES[module].read_text())
  functions = [x for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)]
  silent = [
    child
    for block in ast.walk(tree)
    if isinstance(block, ast.With) and ast.unparse(block.items[0]) == "quiet()"
    for child in ast.walk(block)
  ]
  for node in (x for function in functions for x in ast.walk(function)):
    if isinstance(node, ast.Import | ast.ImportFrom) and node not in silent:
      prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
      names = [f"{prefix}{alias.name}".removeprefix("musiclm_jax.") for alias in node.names]
      loud = [name for name in names if _loads_tensorflow(name)]
      assert not loud, f"line {node.lineno}: import {loud[0]} in `with quiet()`"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_house_rules(module):
  text = MODULES[module].read_text()
  tree = ast.parse(text)
  assert module == "partitioning" or "PartitionSpec" not in text
  for node in ast.walk(tree):
    if isinstance(node, ast.ExceptHandler):
      caught = ast.unparse(node.type) if node.type else "everything"
      assert not re.search(r"everything|\b(Base)?Exception\b", caught), f"line {node.lineno}"
  assert len(text.splitlines()) <= 300
  assert ast.get_docstring(tree), "a module starts with a docstring"


@pytest.mark.slow
def test_importing_the_package_loads_no_tensorflow_and_no_torch():
  light = [m for m in sorted(MODULES) if not reaches(m) & SEQIO_FILES and m != "__main__"]
  code = "\n".join(
    [f"import musiclm_jax.{module}" for module in light]
    + ["import sys", "print({'tensorflow', 'torch', 'seqio'} & set(sys.modules) or 'light')"]
  )
  command = [sys.executable, "-c", code]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  assert (result.stdout.strip(), result.returncode) == ("light", 0), result.stderr


def test_the_command_line_starts_light():
  code = "import sys, musiclm_jax.main; print({'jax', 'flax', 'numpy'} & set(sys.modules))"
  command = [sys.executable, "-c", code]
  assert subprocess.check_output(command, text=True).strip() == "set()"
