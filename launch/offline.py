"""Trains on one machine that can fetch nothing: all that it lacks travels in one folder.

    python -m launch.offline pack                 # with network: fills the folder `offline`
    python -m launch.offline train --out=results  # there, with the checkout and that folder

`pack` needs the project's environment. `train` needs Python 3.12 with jax, flax, optax and
orbax-checkpoint: it installs the wheels into a folder of its own, renders the corpus on all cores,
measures meanwhile how many steps of each training fit into its seconds, trains, and leaves the
parts in --out, as NAME.tar.gz in pieces: `cat NAME.tar.gz.* | tar xz`.

The trainings are the lines of a list, by default launch/offline.txt: NAME SECONDS WORDS, with the
words of `musiclm train`. {folder} among them is that of `pack`. A training without --data_dir reads
the corpus that is rendered there.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

from launch import command

PACKAGES = ("gin-config", "absl-py", "safetensors", "sentencepiece", "symusic", "soxr")
PACKAGES += ("pysmartdl", "platformdirs")  # which symusic imports
RESULTS = ("model.json", "weights.safetensors", "metrics.jsonl", "config.gin")
_GLIBC = ("2_28", "2_27", "2_17")  # of the wheels that pip may choose
_LIST = "launch/offline.txt"
# A trial has a schedule for more steps than it takes: it is killed when it has logged some rates.
_TRIAL_STEPS, _TRIAL_LINES, _TRIAL_SECONDS, _TRIAL_HOURS = 10**6, 4, 120.0, 0.1
_SHARE = 0.9  # of the seconds that the steps are to fill
_SAVING = 20.0  # seconds from SIGTERM to a saved checkpoint, and for the results


@dataclasses.dataclass(frozen=True)
class Training:
  """A line of the list."""

  name: str
  seconds: float
  words: tuple[str, ...]

  @property
  def reads_corpus(self) -> bool:
    """Whether it reads the rendered corpus."""
    return not any(word.startswith("--data_dir") for word in self.words)


def read_list(path: pathlib.Path, folder: pathlib.Path) -> list[Training]:
  """The trainings of a list. Raises ValueError, naming the line, for a line of another kind."""
  found = []
  for number, line in enumerate(path.read_text().splitlines(), 1):
    words = shlex.split(line.replace("{folder}", str(folder)), comments=True)
    if not words:
      continue
    if len(words) < 3 or not words[1].isdecimal() or not words[0].isidentifier():
      raise ValueError(f"{path}:{number}: wanted NAME SECONDS WORDS, got {line!r}")
    found.append(Training(words[0], float(words[1]), tuple(words[2:])))
  return found


def pack(options) -> int:
  """Fills the folder; prints its size, and returns 1 where that is more than --megabytes."""
  from musiclm_jax.datasets import soundfonts

  folder = options.folder
  (folder / "wheels").mkdir(parents=True, exist_ok=True)
  for old in (folder / "wheels").iterdir():
    old.unlink()  # two versions of a package cannot be installed together
  platforms = [f"--platform=manylinux_{glibc}_x86_64" for glibc in _GLIBC]
  download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
  download += ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp", *platforms]
  download += ["--platform=manylinux2014_x86_64", "--constraint=requirements.lock"]
  subprocess.run([*download, f"--dest={folder / 'wheels'}", *PACKAGES], check=True)
  scores = folder / "scores.npz"
  if not scores.exists():
    words = ["-m", "musiclm_jax.datasets.score_arrays", str(scores)]
    subprocess.run([sys.executable, *words], check=True)
  soundfont = options.soundfont or soundfonts.default_soundfont()
  shutil.copy(soundfont, folder / "soundfont.sf2")
  if options.text_model:
    shutil.copy(options.text_model, folder / "captions.model")
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  total = sum(path.stat().st_size for path in files) / 1e6
  for path in files:
    print(f"{path.stat().st_size / 1e6:8.2f} MB  {path}")
  print(f"{total:8.2f} MB in all, of {options.megabytes} MB")
  return int(total > options.megabytes)


def rates(log: pathlib.Path) -> list[tuple[int, float]]:
  """(step, seconds of a step) of each whole line on training in a metrics.jsonl."""
  text = log.read_text() if log.exists() else ""
  lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
  return [(line["step"], line["seconds_per_step"]) for line in lines if line["split"] == "train"]


def fitting_steps(seconds: float, fixed: float, seconds_per_step: float) -> int:
  """How many steps fill a share of the seconds, of which start and end take `fixed`."""
  return max(1, int(_SHARE * (seconds - fixed) / seconds_per_step))


def end(process: subprocess.Popen) -> int:
  """The exit code of a training that SIGTERM ends, or that has ended; it saves before."""
  process.terminate()
  try:
    return process.wait(_SAVING)
  except subprocess.TimeoutExpired:
    process.kill()
    return process.wait()


def write_pieces(part: pathlib.Path, path: pathlib.Path, size: int) -> None:
  """Writes the files of a part as a tar.gz archive, in files PATH.00 and so on of `size` bytes."""
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode="w:gz") as tar:
    for name in RESULTS:
      tar.add(part / name, f"{path.name.partition('.')[0]}/{name}")
  content.seek(0)
  for old in path.parent.glob(f"{path.name}.*"):
    old.unlink()
  for number, piece in enumerate(iter(lambda: content.read(size), b"")):
    file = path.with_name(f"{path.name}.{number:02}")
    file.write_bytes(piece)
    print(f"{file}: {len(piece) / 1e6:.2f} MB", flush=True)


class Machine:
  """Runs `musiclm` with the packages of the folder, until a deadline."""

  def __init__(self, options):
    self.options, self.work = options, options.work.resolve()
    self.deadline = time.monotonic() + 60 * options.minutes - _SAVING
    shutil.rmtree(self.work, ignore_errors=True)
    site = self.work / "site"
    wheels = map(str, sorted((options.folder / "wheels").glob("*.whl")))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*install, "--no-compile", f"--target={site}", *wheels], check=True)
    paths = (str(pathlib.Path.cwd()), str(site), os.environ.get("PYTHONPATH", ""))
    self._environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

  def start(self, *words: str) -> subprocess.Popen:
    """A command of musiclm."""
    line = [sys.executable, "-m", "musiclm_jax", *words]
    print(f"[{self.left():.0f} s left]", shlex.join(words), flush=True)
    return subprocess.Popen(line, env=self._environment)

  def left(self) -> float:
    """Seconds until the deadline."""
    return self.deadline - time.monotonic()

  def render(self, name: str, hours: float) -> subprocess.Popen:
    """Starts to render at most this many hours of a split into the folder `name`."""
    folder, size = self.options.folder, self.options.size
    carried = [f"--scores={folder / 'scores.npz'}", f"--soundfont={folder / 'soundfont.sf2'}"]
    where = f"--output_dir={self.work / name}"
    return self.start("render", f"--size={size}", f"--hours={hours}", *carried, where)

  def start_training(self, training: Training, corpus: str, steps: int, name: str):
    """Starts a training on a rendered corpus, or what its words name, in the folder `name`."""
    words = [*training.words, f"--total_steps={steps}", f"--model_dir={self.work / name}"]
    words += [f"--compile_cache={self.work / 'compiled'}"]
    if training.reads_corpus:
      words.append(f"--data_dir={self.work / corpus}")
    return self.start("train", *words)

  def train(self, training: Training, steps: int, seconds: float) -> int:
    """The exit code of a training, which is ended, and saves, after some seconds."""
    process = self.start_training(training, "corpus", steps, training.name)
    with contextlib.suppress(subprocess.TimeoutExpired):
      return process.wait(seconds)
    return end(process)

  def measure(self, training: Training) -> int:
    """The steps that fill the seconds of a training; 0 where it logs no rate in time."""
    name, began = f"{training.name}_trial", time.monotonic()
    log, until = self.work / name / "metrics.jsonl", began + min(self.left(), _TRIAL_SECONDS)
    process = self.start_training(training, "trial", _TRIAL_STEPS, name)
    while process.poll() is None and time.monotonic() < until and len(rates(log)) < _TRIAL_LINES:
      time.sleep(0.5)
    process.kill()
    process.wait()
    if not rates(log):
      return 0
    step, seconds_per_step = rates(log)[-1]
    fixed = time.monotonic() - began - step * seconds_per_step
    return fitting_steps(training.seconds, fixed, seconds_per_step)

  def collect(self, name: str) -> int:
    """Leaves the part of a training, of its newest checkpoint where it was ended, in pieces."""
    part, out = self.work / name, self.options.out
    if not (part / "weights.safetensors").exists():
      made = self.work / f"{name}_part"
      if code := self.start("checkpoint", "part", str(part), f"--out={made}").wait():
        return code
      shutil.copy(part / "metrics.jsonl", made)
      shutil.copy(part / "config.gin", made)
      part = made
    write_pieces(part, out / f"{name}.tar.gz", int(self.options.piece_megabytes * 2**20))
    return 0


def train(options) -> int:
  """Renders, measures and trains; returns 1 where one of these failed."""
  trainings = read_list(options.list, options.folder)
  options.out.mkdir(parents=True, exist_ok=True)
  machine, reads_corpus = Machine(options), any(each.reads_corpus for each in trainings)
  measured = not options.steps
  if reads_corpus and measured and machine.render("trial", _TRIAL_HOURS).wait():
    return 1
  # The cores render while the accelerator measures.
  rendering = machine.render("corpus", options.hours) if reads_corpus else None
  steps = {each: machine.measure(each) if measured else options.steps for each in trainings}
  if rendering is not None and rendering.wait():
    return 1
  trained = []
  for training, count in steps.items():
    seconds = min(machine.left(), training.seconds)
    if not count or seconds < 1:
      continue
    if not machine.train(training, count, seconds):
      trained += [training.name] if not machine.collect(training.name) else []
  failed = [each.name for each in trainings if each.name not in trained]
  print(f"trained: {', '.join(trained) or 'none'}; failed: {', '.join(failed) or 'none'}")
  return int(bool(failed))


def parser() -> command.Parser:
  """The parser of the command line."""
  made = command.Parser(prog="launch.offline", description=__doc__)
  made.add_argument("action", choices=("pack", "train"))
  path, number = pathlib.Path, command.count
  settings = {
    "--folder": (path, path("offline"), "what travels"),
    "--megabytes": (number, 56, "pack: the most that the folder may have"),
    "--soundfont": (path, None, "pack: another than that of pretty_midi"),
    "--text_model": (path, None, "pack: captions.model of a corpus that prepare built"),
    "--list": (path, path(_LIST), "train: the list of trainings"),
    "--out": (path, path("results"), "train: where the parts go"),
    "--work": (
      path,
      path(tempfile.gettempdir(), "musiclm_offline"),
      "train: a folder that it empties first",
    ),
    "--size": (str, "small", "train: of the corpus"),
    "--hours": (float, 80.0, "train: the most that a split of the corpus has"),
    "--minutes": (float, 9.5, "train: for everything"),
    "--steps": (number, 0, "train: of each training, instead of measuring"),
    "--piece_megabytes": (float, 15.5, "train: the most that a file in --out has"),
  }
  for flag, (kind, default, text) in settings.items():
    made.add_argument(flag, type=kind, default=default, help=f"{text} (default: {default})")
  return made


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  options = parser().parse_args(argv)
  try:
    return {"pack": pack, "train": train}[options.action](options)
  except (OSError, ValueError, subprocess.CalledProcessError) as error:
    print(f"launch.offline: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
  sys.exit(main())
