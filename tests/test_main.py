"""The command line: legal forms, and every mistake as one line that says where and what is near."""

import importlib
import os
import subprocess
import sys

import pytest

from musiclm_jax import main, processes

TRAIN = ["train", "model/small", "size/tiny", "--model_dir", "runs/x"]
SPEAK = ["speak", "calm piano"]
HEAD = "from __gin__ import dynamic_registration\n"
PARTS = HEAD + "from studio import models\n"

# argv, what its one line on stderr starts with, what else is in it
MISTAKES = [
  (["trian"], "trian: no such verb", "nearest train"),
  (["train", "model/smal"], "model/smal: no such gin file", "nearest model/small"),
  (["train", "model/smal.gin"], "model/smal.gin: no such gin file", "model/small"),
  (["train", "--gin_file=size/tinny"], "size/tinny: no such gin file", "size/tiny"),
  (["speak", "size/dmo"], "size/dmo: no such gin file", "nearest size/demo"),
  (["train", "model/small", "model/small"], "model/small: given twice", ""),
  (["train", "model/small", "./gin.gin"], "./gin.gin: no such gin file", ""),
  (["train", "size/tiny", "calm piano"], "calm piano: no such gin file", ""),
  ([*SPEAK, "loud drums"], "loud drums: no such gin file", "quote a prompt of several words"),
  ([*SPEAK, "--prompt=x"], "--PROMPT: given twice", "as --prompt"),
  ([*TRAIN, "--steps"], "--steps: a value is missing", "--steps="),
  ([*TRAIN, "--steps", "--seed=1"], "--steps: a value is missing", ""),
  ([*TRAIN, "--steps=1", "--STEPS=2"], "--STEPS: given twice", "as --steps"),
  ([*TRAIN, "--stps=1"], "--stps: this run does not use STPS", "nearest STEPS"),
  ([*TRAIN, "--seconds=1"], "--seconds: this run does not use SECONDS", "there is"),
  ([*TRAIN, "--json"], "--json: this run does not use JSON", ""),
  ([*TRAIN, "--ending"], "--ending: this run does not use ENDING", ""),
  ([*SPEAK, "--jsn"], "--jsn: a value is missing", "--json"),
  ([*TRAIN, "--jobs.train.steps=3"], "--jobs.train.steps: a flag is", "--gin."),
  ([*TRAIN, "--gin.jobs.train.step=3"], "--gin.jobs.train.step: ", "nearest steps"),
  ([*TRAIN, "--gin.jbs.train.steps=3"], "--gin.jbs.train.steps: jbs is not imported", "jobs"),
  ([*TRAIN, "--gin.jobs.trian.steps=3"], "--gin.jobs.trian.steps: this run does not", "train"),
  ([*TRAIN, "--gin.a/jobs.train.steps=3"], "--gin.a/jobs.train.steps: nothing enters", "scope a"),
  ([*TRAIN, "--gin.jobs.crash.kind=x"], "--gin.jobs.crash.kind: this run does not use", "crash"),
  ([*TRAIN, "--gin.jobs.train.model_dir=y"], "--model_dir: this run does not use", "MODEL_DIR"),
  ([*TRAIN, "--gin.steps=3"], "--gin.steps: this run does not use steps", "STEPS"),
  ([*TRAIN, "--gin.a..b=3"], "--gin.a..b: a flag is", ""),
  ([*TRAIN, "--steps=ten"], "--steps: studio.jobs.train.steps wants int, got 'ten'", ""),
  ([*TRAIN, "--steps=1.5"], "--steps: studio.jobs.train.steps wants int, got 1.5", ""),
  ([*TRAIN, "--width=True"], "--width: studio.models.Small.width wants int, got True", ""),
  (["speak", "--prompt=7"], "--prompt: studio.jobs.speak.prompt wants str, got 7", "\"'7'\""),
  ([*TRAIN, "--steps=@jobs.trian"], "--steps: there is no studio.jobs.trian", "nearest train"),
  (["train"], "gin/run/train.gin:11: needs --MODEL=... --MODEL_DIR=...", ""),
  (["train", "model/small"], "gin/run/train.gin:13: needs --MODEL_DIR=... --WIDTH=...", ""),
  (["speak"], "gin/run/speak.gin:13: needs --PROMPT=...", ""),
  (
    ["train", "model/small", "--width=1", "--model_dir=gs://a/b"],
    "--model_dir: wants a path",
    "gs",
  ),
  ([*SPEAK, "--process_id=0"], "--process_id: needs", "--coordinator=... --num_processes=..."),
]

# the text of mine.gin, the line of the mistake, what the message holds
FILE_MISTAKES = [
  ("WITH = 3\n", 1, "does not use WITH; nearest WIDTH"),
  (PARTS + "\nmodels.Smal.depth = 3\n", 4, "there is no studio.models.Smal; nearest Small"),
  (PARTS + "models.Small.dept = 3\n", 3, "models.Small has no parameter dept; nearest depth"),
  (PARTS + "models.Small.widht = 3\n", 3, "nearest width"),
  (PARTS + "models.Small:\n  depth = 3\n  ratee = 1\n", 5, "no parameter ratee; nearest rate"),
  (PARTS + "models.Shape.unit = 'x'\n", 3, "no parameter unit"),
  (PARTS + "models.Plain.sise = 1\n", 3, "nearest size"),
  (
    PARTS + "models.Shape.scald.factor = 1\n",
    3,
    "there is no studio.models.Shape.scald; nearest scaled",
  ),
  (PARTS + "models.depth = 3\n", 3, "studio.models is no function or class"),
  (PARTS + "model.Small.depth = 3\n", 3, "model is not imported in this file; nearest models"),
  (PARTS + "MODEL = @models.Smal()\n", 3, "no studio.models.Smal; nearest Small"),
  (PARTS + "models.Small.strides = (1, @models.Smal)\n", 3, "nearest Small"),
  (PARTS + "models.Small.depth = '3'\n", 3, "Small.depth wants int, got '3'"),
  (PARTS + "models.Small.strides = 3\n", 3, "strides wants tuple[int, ...], got 3"),
  (PARTS + "models.Small.depth = %gin.REQUIRED\n", 3, "needs --gin.models.Small.depth=..."),
  (PARTS + "MODEL = @models.Shape()\n", 3, "@models.Shape() needs values for data"),
  (PARTS + "models.Small.depth = %DETPH\n", 3, "needs --DETPH=..."),
  (
    HEAD + "from studio import modles\n",
    2,
    "No module named 'studio.modles'; nearest studio.models",
  ),
  (HEAD + "import stduio\n", 2, "No module named 'stduio'; nearest studio"),
  ("from __gin__ import dynamic_registratoin\n", 1, "nearest __gin__.dynamic_registration"),
  ("import studio.models\nstudio.models.Small.depth = 3\n", 2, "must be above"),
  ('include "shred.gin"\n', 1, "no gin file shred.gin; nearest shared"),
  ('include "mine.gin"\n', 1, "mine.gin includes itself"),
  ("WIDTH = big\n", 1, "syntax: Failed to parse token 'big'"),
  ("\nWIDTH 3\n", 2, "syntax: Couldn't parse statement"),
  ("WIDTH = (1,\n", 2, "syntax: "),
  (PARTS + "models.Plain.size = 0\n", 3, "size wants int of 1 or more | None, got 0"),
  (PARTS + "models.Plain.gain = -0.5\n", 3, "gain wants float of 0 or more, got -0.5"),
  (PARTS + "models.Plain.gain = 1e999\n", 3, "gain wants float of 0 or more, got inf"),
  (PARTS + "models.Small.rate = 1e999\n", 3, "rate wants float, got inf"),
  (PARTS + "models.Small.strides = (1, 'x')\n", 3, "strides wants tuple[int, ...], got (1, 'x')"),
  ("WIDTH =\n", 1, "syntax: Unable to parse value"),
  ("WIDTH = 3 4\n", 1, "syntax: Expected newline"),
  ("WIDTH = 'a\n", 1, "syntax: "),
]


def fails(capsys, argv, code):
  """The one line on stderr, without `musiclm: `, of a command that must fail with this code."""
  assert main.main(argv) == code
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.count("\n") == 1
  assert captured.err.startswith("musiclm: ")
  return captured.err.removeprefix("musiclm: ").rstrip("\n")


def calls():
  return importlib.import_module("studio.jobs").CALLS


@pytest.mark.parametrize(
  ("argv", "start", "within"), MISTAKES, ids=[" ".join(argv) for argv, _, _ in MISTAKES]
)
def test_a_mistake_on_the_command_line_is_one_line(studio, capsys, argv, start, within):
  line = fails(capsys, argv, 2)
  assert line.startswith(start)
  assert within in line


@pytest.mark.parametrize(
  ("text", "number", "within"), FILE_MISTAKES, ids=[within for _, _, within in FILE_MISTAKES]
)
def test_a_mistake_in_a_file_is_one_line(studio, tmp_path, capsys, text, number, within):
  (tmp_path / "mine.gin").write_text(text)
  line = fails(capsys, [*TRAIN, "mine.gin"], 2)
  assert line.startswith(f"mine.gin:{number}: ")
  assert within in line


def test_a_run_file_without_a_job(studio, tmp_path, capsys):
  (studio / "gin/run/idle.gin").write_text("# Does nothing.\n")
  line = fails(capsys, ["idle"], 2)
  (studio / "gin/run/idle.gin").unlink()
  assert line == "gin/run/idle.gin: binds no job: main.run.job = @..."


def test_a_binary_gin_file(studio, tmp_path, capsys):
  (tmp_path / "mine.gin").write_bytes(b"\xff\xfe\x00")
  assert fails(capsys, [*TRAIN, "mine.gin"], 2) == "mine.gin: is not a text file"


def test_values_that_only_show_when_called(studio, tmp_path, capsys):
  line = fails(capsys, [*SPEAK, "--data=0"], 1)
  assert line == "Shape.data must be positive, got 0"
  (tmp_path / "mine.gin").write_text(PARTS + "DATA = @models.Shape\n")
  line = fails(capsys, [*SPEAK, "mine.gin"], 1)  # a TypeError of the constructor
  assert line.startswith("Shape: '<' not supported")


@pytest.mark.parametrize(
  ("kind", "code", "line"),
  [
    ("nested", 1, "two lines"),
    ("file", 1, "'/nowhere/at/all.wav': No such file or directory"),
    ("disk", 70, "'runs/fine': No space left on device"),
    ("library", 70, "write failed: Disk quota exceeded"),
    ("forbidden", 1, "'runs/fine': Permission denied"),
    ("late", 70, "no answer"),
    ("interrupt", 130, "interrupted"),
  ],
)
def test_what_a_job_raises_is_one_line(studio, capsys, kind, code, line):
  assert fails(capsys, ["crash", f"--kind={kind}"], code) == line


def test_a_reader_that_ends_early_is_no_error(tmp_path):
  reading, writing = os.pipe()
  os.close(reading)
  command = [sys.executable, "-m", "musiclm_jax", "--help"]
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
  result = subprocess.run(
    command, stdout=writing, stderr=subprocess.PIPE, env=environment, check=False
  )
  os.close(writing)
  assert (result.returncode, result.stderr) == (1, b"")


def test_a_bug_keeps_its_traceback(studio):
  with pytest.raises(TypeError, match="NoneType"):
    main.main(["crash", "--kind=bug"])


def test_a_bug_of_a_job_that_ran_commands_keeps_its_traceback(studio):
  with pytest.raises(TypeError, match="NoneType"):
    main.main(["several", "--prompts=('one', None)"])


def test_debug_shows_the_traceback(studio):
  with pytest.raises(ValueError, match="nearest train"):
    main.main(["trian", "--debug"])


def test_a_missing_module_behind_an_import(studio, tmp_path, capsys):
  (studio / "studio/broken.py").write_text("import torch_of_nobody\n")
  (tmp_path / "mine.gin").write_text(HEAD + "from studio import broken\n")
  line = fails(capsys, [*TRAIN, "mine.gin"], 2)
  assert line == "mine.gin:2: studio.broken cannot be imported: No module named 'torch_of_nobody'"


@pytest.mark.parametrize(("name", "argv"), [("noisy", []), ("noisier", ["--debug"])])
def test_what_libraries_write_while_loading_shows_with_debug_alone(
  studio, tmp_path, capfd, name, argv
):
  (studio / f"studio/{name}.py").write_text("import os\nos.write(2, b'greetings')\n")
  (tmp_path / "mine.gin").write_text(HEAD + f"from studio import {name}\n")
  assert main.main([*TRAIN, "mine.gin", *argv]) == 0
  assert ("greetings" in capfd.readouterr().err) == bool(argv)


def test_a_wrong_name_of_another_package_has_its_place(studio, tmp_path, capsys):
  (tmp_path / "mine.gin").write_text(HEAD + "import textwrap\n\ntextwrap.dedent.txt = 3\n")
  line = fails(capsys, [*TRAIN, "mine.gin"], 2)
  assert line == "mine.gin:4: textwrap.dedent has no parameter txt; nearest text"


# argv after `train model/small size/tiny --model_dir runs/x`, what the job then gets
LEGAL = [
  ([], {"steps": 10, "model_dir": "runs/x", "seed": 0}),
  (["--steps", "3"], {"steps": 3}),
  (["--STEPS=-3"], {"steps": -3}),
  (["--steps", "-3"], {"steps": -3}),
  (["--gin.STEPS=4"], {"steps": 4}),
  (["--gin.jobs.train.seed=5"], {"seed": 5}),
  (["--gin.jobs.train.steps=6"], {"steps": 6}),
  (["--gin.studio.models.Small.depth", "7", "--debug"], {"steps": 10}),
  (["--gin_file=size/more.gin"], {"seed": 9}),
  (["--gin_file", "size/more"], {"seed": 9}),
  (["./mine.gin"], {"seed": 8}),
  (["mine"], {"seed": 8}),
  (["--width=%STEPS"], {"steps": 10}),
]


@pytest.mark.parametrize(("argv", "expected"), LEGAL, ids=[" ".join(argv) for argv, _ in LEGAL])
def test_legal_forms(studio, tmp_path, argv, expected):
  text = HEAD + "import studio.jobs as work\n\nwork.train.seed = "
  (tmp_path / "mine.gin").write_text(text + "8")
  (studio / "gin/size/more.gin").write_text(text + "9")
  assert main.main([*TRAIN, *argv]) == 0
  assert calls()[-1] | expected == calls()[-1]


@pytest.mark.parametrize(
  ("argv", "prompt"),
  [
    (["speak", "calm piano"], "calm piano"),
    (["speak", "120"], "120"),
    (["speak", "@home (100%) 'x'"], "@home (100%) 'x'"),
    (["speak", "rock/pop drums, size/tiny"], "rock/pop drums, size/tiny"),
    (["speak", "two\nlines\t\\n"], "two\nlines\t\\n"),
    (["speak", ""], ""),
    (["speak", "x" * 5000], "x" * 5000),
    (["speak", "--", "--loud--"], "--loud--"),
    (["speak", "--prompt", "calm piano"], "calm piano"),
    (["speak", "--prompt=a=b, c"], "a=b, c"),
    (["speak", "--prompt=(open"], "(open"),
    (["speak", "--prompt=~/x"], os.path.expanduser("~/x")),
    (["speak", "--prompt=~3 minutes"], "~3 minutes"),
  ],
)
def test_prompts_arrive_as_they_were_typed(studio, argv, prompt):
  assert main.main(argv) == 0
  assert calls()[-1]["prompt"] == prompt


def test_json_and_includes_and_aliases(studio):
  assert main.main([*SPEAK, "--json", "--data", "3"]) == 0
  assert calls()[-1]["json"] is True
  assert calls()[-1]["shape"].data == 3


def test_two_commands_in_one_process_do_not_meet(studio):
  assert main.main([*TRAIN, "--steps=3", "--gin.studio.models.Small.depth=7"]) == 0
  assert main.main([*SPEAK, "--seconds=2"]) == 0
  assert main.main(TRAIN) == 0
  first, referenced_macros, second = calls()[-3:]
  assert (first["steps"], first["model"].depth) == (3, 7)
  assert referenced_macros["seconds"] == 2
  assert (second["steps"], second["model"].depth) == (10, 2)


def test_a_job_gets_the_whole_configuration(studio, tmp_path):
  assert main.main([*TRAIN, "--steps=3"]) == 0
  text = calls()[-1]["text"]
  assert "STEPS = 3" in text and "WIDTH = 8" in text and "job = @jobs.train" in text
  (tmp_path / "saved.gin").write_text(text)  # and can be run again
  assert main.main(["train", "saved.gin"]) == 0
  assert calls()[-1] | {"steps": 3, "model_dir": "runs/x"} == calls()[-1]
  assert calls()[-1]["text"] == text


def test_processes_are_joined_before_the_job(studio, monkeypatch):
  joined = []
  monkeypatch.setattr(processes, "join", lambda flags, detect: joined.append((flags, detect)))
  flags = ["--coordinator", "localhost:1234", "--num_processes", "2", "--process_id"]
  assert main.main([*TRAIN, *flags, "1"]) == 0
  assert set(joined[0][0]) == {"COORDINATOR", "NUM_PROCESSES", "PROCESS_ID"}
  assert joined[0][0]["PROCESS_ID"] == ("--process_id", "1") and not joined[0][1]
  assert len(joined) == 1


def test_a_job_may_run_commands(studio):
  assert main.main(["several"]) == 0
  assert [call["prompt"] for call in calls()[-2:]] == ["one", "two"]


def test_help(studio, capsys):
  for argv in ([], ["--help"], ["-h"]):
    assert main.main(argv) == 0
    text = capsys.readouterr().out
    assert "  train       Trains one model.\n" in text
    assert "  size/       demo " in text
  assert main.main(["train", "--help"]) == 0
  text = capsys.readouterr().out
  assert "More about it." in text
  lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if "--" in line}
  assert lines["--model_dir"] == ["required"]
  assert lines["--steps"] == ["10", "how", "long"]
  assert main.main(["train", "model/small", "--help", "--steps=5"]) == 0
  text = capsys.readouterr().out
  assert "--width" in text and "@studio.models.Small()" in text


def command(*argv, cwd):
  path = os.pathsep.join(sys.path)
  return subprocess.run(
    [sys.executable, "-m", "musiclm_jax", *argv],
    cwd=cwd,
    env=os.environ | {"PYTHONPATH": path, "PYTHONPROFILEIMPORTTIME": "1"},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize(
  ("argv", "line"),
  [
    (["docter"], "musiclm: docter: no such verb"),
    (["doctor", "--jsno=1"], "musiclm: --jsno: this run does not use JSNO; nearest JSON"),
    (
      ["doctor", "--gin.doctor.doctor.jsn=1"],
      "musiclm: --gin.doctor.doctor.jsn: musiclm_jax.doctor",
    ),
    (["licenses"], "musiclm: gin/run/licenses.gin:11: needs --BUNDLE=..."),
  ],
)
def test_mistakes_are_found_before_anything_heavy_is_imported(tmp_path, argv, line):
  result = command(*argv, cwd=tmp_path)
  errors = result.stderr.splitlines()
  imported = {row.split("|")[-1].strip() for row in errors if row.startswith("import time:")}
  said = [row for row in errors if not row.startswith("import time:")]
  assert result.returncode == 2
  assert len(said) == 1 and said[0].startswith(line)
  assert "gin.config" in imported
  assert not imported & {"jax", "flax", "tensorflow", "numpy"}
