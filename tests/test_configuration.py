"""Gin files and flags read without importing anything: what is legal must pass, and be the same."""

import inspect
import pkgutil
import re

import gin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musiclm_jax import checks, configuration, ranges
from musiclm_jax.configuration import Configuration, ConfigurationError

HEAD = """from __gin__ import dynamic_registration
from musiclm_jax import main
from studio import jobs
from studio import models

main.run.job = @jobs.anything
"""

LEGAL = {
  "scopes": """
jobs.anything.a = @left/models.Shape()
jobs.anything.b = @right/models.Shape()
left/models.Shape.data = 1
right/models.Shape.data = 2
""",
  "a scope inside a scope": "jobs.anything.a = @x/y/models.Shape()\nx/models.Shape.data = 3\n",
  "a scope that nothing enters": """
jobs.anything.a = @left/models.Shape()
left/models.Shape.data = 1
right/models.Shape.data = %NOWHERE
jobs.crash.kind = @right/models.Shape()
""",
  "a macro in a scope": "jobs.anything.a = %sub/SIZE\nsub/SIZE = 3\n",
  "a macro of macros": "jobs.anything.a = {'x': [%B, (%C, 1)]}\nB = %C\nC = -1.5e-3\n",
  "a reference as a dict key": "jobs.anything.a = {@models.Shape: 1}\n",
  "a block": "jobs.anything:\n  # why\n  a = 1\n\n  b = (1,\n       2)\n",
  "strings over lines": "jobs.anything.a = ('one '\n  'two # no comment')  # a comment\n",
  "a function unevaluated": "jobs.anything.a = @jobs.train\n",
  "a class unevaluated": "jobs.anything.a = @models.Small\n",
  "inherited fields": "jobs.anything.a = @models.Small()\nmodels.Small.width = 1\n",
  "fields of Linen": """
jobs.anything.a = @models.Small()
models.Small.width = 1
models.Small.name = "x"
""",
  "a constructor": "jobs.anything.a = @models.Plain()\nmodels.Plain.path = 'x'\n",
  "None where allowed": """
jobs.anything.a = @models.Plain()
models.Plain.path = None
models.Plain.size = None
""",
  "an int for a float": "models.Small.rate = 1\njobs.anything.a = @models.Small\n",
  "a list for a tuple": "models.Small.strides = [1, 2]\njobs.anything.a = @models.Small\n",
  "a method": "models.Shape.scaled.factor = 2\n",
  "a name that another module imported": """
jobs.anything.a = @jobs.Shape()
models.Shape.data = 2
""",
  "an import with as": """import studio.models as parts
jobs.anything.a = @parts.Shape()
parts.Shape.data = 2
""",
  "an import of a whole path": """import studio.models
jobs.anything.a = @studio.models.Shape()
studio.models.Shape.data = 2
""",
  "another package": """import fractions
jobs.anything.a = @fractions.Fraction()
fractions.Fraction.numerator = 3
""",
  "a singleton": """
jobs.anything.a = @one/gin.singleton()
jobs.anything.b = @one/gin.singleton()
one/gin.singleton.constructor = @models.Shape
models.Shape.data = 2
""",
  "later files win": "jobs.anything.a = %gin.REQUIRED\njobs.anything.a = 2\n",
  "a macro whose use is replaced": "jobs.anything.a = %NOWHERE\njobs.anything.a = 2\n",
  "what the run does not call": "jobs.train.steps = %NOWHERE\n",
  "includes between statements": """
A = 1
include "shared.gin"
A = 2
jobs.anything.a = %A
jobs.anything.b = @models.Shape()
""",
  "the same include twice": 'include "shared.gin"\ninclude "shared.gin"\n',
}


def checked(path):
  config = Configuration([path])
  checks.check(config)
  checks.import_modules(config)
  checks.check_values(config)
  return config


def applied(config):
  config.apply()
  return gin.config_str()


@pytest.mark.parametrize("name", LEGAL)
def test_legal_gin_passes_and_means_what_gin_says(studio, tmp_path, name):
  path = tmp_path / "legal.gin"
  path.write_text(HEAD + LEGAL[name])
  text = applied(checked(path))
  gin.clear_config()
  gin.add_config_file_search_path(str(studio / "gin"))
  gin.parse_config_file(str(path))
  assert text == gin.config_str()
  if "NOWHERE" not in LEGAL[name]:
    gin.finalize()
  gin.clear_config()


def test_what_is_bound_in_an_outer_scope_needs_a_value(studio, tmp_path):
  path = tmp_path / "outer.gin"
  path.write_text(HEAD + "jobs.anything.a = @x/y/models.Shape()\nx/models.Shape.data = %NOWHERE\n")
  with pytest.raises(ConfigurationError, match="outer.gin:8: needs --NOWHERE=..."):
    checked(path)


def test_an_extraction_needs_the_parts_of_its_sources_alone():
  config = Configuration([configuration.find(name) for name in ("run/extract", "tiny/tokens")])
  config.add_flag("--sources", "SOURCES", "(%ACOUSTIC_SOURCE,)")
  for name in ("DATA_DIR", "OUTPUT_DIR", "SOUNDSTREAM"):
    config.add_flag(f"--{name}", name, "x")
  checks.check(config)
  config.add_flag("--melody", "MELODY", "x")
  with pytest.raises(ConfigurationError, match="this run does not use MELODY"):
    checks.check(config)


def test_bindings_know_their_lines(studio, tmp_path):
  path = tmp_path / "legal.gin"
  path.write_text(HEAD + LEGAL["includes between statements"])
  config = checked(path)
  places = [binding.place.partition(":")[0] for binding in config.bindings.values()]
  assert places == ["legal.gin"] * 2 + ["gin/shared.gin"] * 2 + ["legal.gin"] * 2
  macro = config.macro("A")
  assert (macro.value, macro.place) == (2, "legal.gin:10")


def test_a_file_beside_the_including_one(studio, tmp_path):
  (tmp_path / "deep").mkdir()
  (tmp_path / "deep/part.gin").write_text("A = 3\n")
  (tmp_path / "deep/whole.gin").write_text(HEAD + 'include "part.gin"\njobs.anything.a = %A\n')
  assert checked(tmp_path / "deep/whole.gin").macro("A").place == "deep/part.gin:1"


def test_the_gin_folder_comes_before_the_working_directory(studio, tmp_path):
  own = tmp_path / "shared.gin"
  own.write_text("nonsense\n")
  assert configuration.find("shared") == (studio / "gin/shared.gin").resolve()
  for name in ("./shared.gin", "./shared", f"../{tmp_path.name}/shared.gin", str(own)):
    assert configuration.find(name) == own.resolve()
  assert configuration.find("size/tiny").name == "tiny.gin"
  assert configuration.find("size") is None


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("3", 3),
    ("-1e-4", -1e-4),
    ("True", True),
    ("None", None),
    ("(1, 2)", (1, 2)),
    ("['a', %B]", ["a", configuration.Reference("%B")]),
    ("'quoted'", "quoted"),
    ("'#1 (hit)'", "#1 (hit)"),
    ("%SIZE", configuration.Reference("%SIZE")),
    ("demo", "demo"),
    ("runs/x", "runs/x"),
    ("1,2", "1,2"),
    ("1,", "1,"),
    ("3 4", "3 4"),
    ("3\nB = 4", "3\nB = 4"),
    ("1], [2", "1], [2"),
    ("100%", "100%"),
    ("3 # comment", "3 # comment"),
    ("(calm", "(calm"),
    ("", ""),
    ("true", "true"),
    ("it's", "it's"),
    ("~/runs", "HOME/runs"),
    ("~", "HOME"),
    ("'~/runs'", "HOME/runs"),
    ("~runs", "~runs"),
    ("a/~/b", "a/~/b"),
  ],
)
def test_literal(monkeypatch, text, value):
  monkeypatch.setenv("HOME", "HOME")
  assert configuration.literal(text) == value


@given(st.text())
def test_a_literal_is_the_text_or_a_value_that_gin_writes_so(text):
  value = text if text.startswith(("@", "~")) else configuration.literal(text)
  assert value == text or isinstance(value, configuration.Reference) or repr(value) != repr(text)


@given(st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)))
def test_literals_stay_what_they_are(value):
  if value not in (float("inf"), float("-inf")):
    assert configuration.literal(repr(value)) == value


@pytest.mark.parametrize(
  ("kind", "good", "bad"),
  [
    (ranges.PositiveInt, (1, 2**70), (0, -1, 1.0, True, "1", None)),
    (ranges.NonNegativeInt, (0, 1), (-1, 0.0, False)),
    (ranges.Seed, (0, 2**63 - 1), (-1, 2**63)),
    (ranges.PositiveFloat, (1, 1e-9), (0, 0.0, -1.0, float("inf"), float("nan"))),
    (ranges.NonNegativeFloat, (0, 0.0), (-1e-9, float("nan"))),
    (ranges.Fraction, (0, 1, 0.5), (1.1, -0.1)),
    (ranges.PositiveInt | None, (None, 1), (0,)),
    (tuple[ranges.PositiveInt, ...], ((), (1, 2), [3]), ((0,), 1, (1, "x"))),
    (tuple[float, str], ((1, "x"),), ((1,), ("x", 1), (1, "x", 2))),
    (dict[str, float], ({"a": 1},), ({"a": "b"}, ())),
    (object, (1, "x", None), ()),
  ],
)
def test_what_fits_a_type(kind, good, bad):
  assert all(ranges.fits(value, kind) for value in good)
  assert not any(ranges.fits(value, kind) for value in bad)
  assert ranges.fits(configuration.Reference("%X"), kind) and "typing" not in ranges.describe(kind)


def test_nearest():
  assert (
    configuration.nearest("semantic", ["model/semantic", "size/demo"]) == "; nearest model/semantic"
  )
  assert configuration.nearest("bundle", ["BUNDLE"]) == "; nearest BUNDLE"
  assert configuration.nearest("xyz", ["b", "a"]) == "; there is a, b"
  assert configuration.nearest("xyz", []) == "; there is none"


# The files of this project: gin/{tiny,demo,paper}/NAME is for the verb of VERBS, or for train. What
# another verb needs beyond its own file stands in COMPANIONS. Macros still without a value get one
# of their parameter's type.
SIZES = ("tiny", "demo", "paper")
VERBS = {
  "commands": "demo",
  "embeddings": "extract",
  "tokens": "extract",
  "evaluation": "evaluate",
}
COMPANIONS = {
  "run/evaluate": ["tiny/evaluation"],
  "run/extract": ["tiny/tokens"],
  "run/train": ["tiny/semantic"],
}
EXAMPLES = (None, 1, "x", (), False, {"a": "b"})
NAMES = configuration.names()
TEXTS = {name: (configuration.FOLDER / f"{name}.gin").read_text() for name in NAMES}
SHARED = re.findall(r'include "(.*)\.gin"', "".join(TEXTS.values()))
SIZED = [name.split("/") for name in NAMES if name.startswith(SIZES)]
COMMANDS = [
  [f"run/{VERBS.get(model, 'train')}", f"{size}/{model}"]
  for size, model in SIZED
  if f"{size}/{model}" not in SHARED or model in VERBS
]
COMMANDS += [[name, *COMPANIONS.get(name, [])] for name in NAMES if name.startswith("run/")]


def fill(config):
  """Gives every macro that the run needs and that has no value one of the right type."""
  checks.import_modules(config)
  for name in checks.missing(config):
    users = [b for b in config.bindings.values() if b.name and b.value == f"%{name}"]
    known = [inspect.signature(pkgutil.resolve_name(b.target)).parameters[b.name] for b in users]
    found = [x for x in EXAMPLES if all(ranges.fits(x, each.annotation) for each in known)]
    config.add_flag(f"--{name}", name, repr(found[0]))


@pytest.mark.parametrize("files", COMMANDS, ids=" ".join)
def test_every_run_of_the_project_is_sound(files):
  paths = [configuration.find(file) for file in files]
  job = Configuration(paths).job().value
  for action in job if isinstance(job, dict) else [None]:
    config = Configuration(paths)
    if action:
      config.add_flag("--action", "ACTION", action)
    fill(config)
    checks.check(config)
    checks.check_values(config)
  assert paths[0].read_text().startswith("# "), "a run file starts with a comment that says what"


@pytest.mark.parametrize("files", COMMANDS, ids=" ".join)
def test_the_types_of_all_numbers_and_texts_are_known(files):
  config = Configuration([configuration.find(file) for file in files])
  checks.import_modules(config)
  for binding in config.bindings.values():
    source = config.source(binding)
    own = binding.name and binding.target.startswith("musiclm_jax.")
    if own and source and type(source.value) in (bool, int, float, str, type(None)):
      parameters = inspect.signature(pkgutil.resolve_name(binding.target)).parameters
      known = parameters[binding.name]
      assert known.annotation not in (known.empty, object), f"{binding.target}.{binding.name}"
      assert not any(each.kind is each.VAR_KEYWORD for each in parameters.values()), binding.target


def test_the_configuration_that_a_training_keeps_can_be_run_again(tmp_path):
  config = Configuration([configuration.find("run/train"), configuration.find("tiny/soundstream")])
  fill(config)
  checks.check(config)
  config.apply()
  (tmp_path / "config.gin").write_text(gin.config_str())
  again = Configuration([configuration.find("run/train"), tmp_path / "config.gin"])
  checks.check(again)
  assert again.macro("TOTAL_STEPS").value == config.macro("TOTAL_STEPS").value


def test_every_macro_of_the_project_is_used_by_some_file():
  used = set(re.findall(r"%(\w+)", "".join(TEXTS.values())))
  for name, text in TEXTS.items():
    unused = set(re.findall(r"^([A-Z]\w*) *=", text, re.M)) - used
    assert not unused, f"{name} defines {unused}, which no file uses"


@pytest.mark.parametrize("name", NAMES)
def test_every_gin_file_of_the_project_reads(name):
  Configuration([configuration.find(name)])


def test_configuration_errors_are_one_line():
  error = ConfigurationError("a.gin:3", "two\n  lines")
  assert str(error) == "a.gin:3: two lines"
