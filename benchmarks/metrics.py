"""Prints as JSON how long metrics of audio files take, here and by the PyTorch tools.

python -m benchmarks.metrics --torch=PYTHON [--clips=1000] [--seconds=10] [--rate=24000]

Writes three sets of --clips WAV files of tones and noise into a temporary folder: clips that are
judged, a reference, and the real clip of each. From those files to the numbers it measures the
kernel and the Fréchet distance, the divergence of classes (KLD) and the cosine to a text (MCC), by
`musiclm_jax.scoring` and by the packages of torch_metrics.py, in one run: block by block, in turns.
Both have the same network, VGGish with seeded weights (speed does not depend on them); classes and
joint space are fixed linear maps of its embeddings. Each side embeds a file once for all measures.
`each_alone` is what the same passes add up to where nothing is shared, as the tools come: those of
PyTorch read and embed seven sets, `musiclm score`, whose distances share an embedder, five.
Compilation (XLA's, Numba's) is not counted. The tools compute no intervals: here the distances get
one draw, the means their usual interval.

PYTHON is that of an environment with torch, soundfile, resampy, tqdm and scipy below 1.16, and,
installed without their dependencies, frechet-audio-distance 0.3.4, torchvggish 0.2, kadtk 1.1.0,
hypy_utils and audiocraft 1.3.0.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from unittest import mock

import numpy as np
from scipy import special

from musiclm_jax import audio
from musiclm_jax.embedders import vggish
from musiclm_jax.evaluation import metrics
from musiclm_jax.scoring import clips, of_pairs, of_sets
from musiclm_jax.scoring.score import Judged

_SETS = ("clips", "reference", "real")
_CLASSES, _JOINT = 50, 64
_BLOCK = 50  # clips that one side embeds before it is the other's turn


@dataclasses.dataclass(frozen=True)
class Heads:
  """VGGish with maps to classes and to a joint space: an Embedder, a Classifier and a Joint."""

  folder: str

  sample_rate = vggish.SAMPLE_RATE

  @functools.cached_property
  def network(self) -> vggish.VGGish:
    """The embedder."""
    return vggish.VGGish(f"{self.folder}/vggish.safetensors")

  @functools.cached_property
  def spec(self) -> dict:
    """That of the embedder."""
    return self.network.spec

  @functools.cached_property
  def maps(self) -> dict[str, np.ndarray]:
    """{classes [128, classes], joint [128, dim], texts [clips, dim]}."""
    return dict(np.load(f"{self.folder}/heads.npz"))

  def outputs(self, waveforms: np.ndarray) -> np.ndarray:
    """Embeddings [clips, patches, 128] of waveforms [clips, samples]."""
    return self.network.embed(waveforms)

  def of_outputs(self, method: str, outputs: np.ndarray) -> np.ndarray:
    """The embeddings, shares of classes [clips, classes], or the joint embedding [clips, dim]."""
    if method == "classify":
      return special.softmax(outputs @ self.maps["classes"], axis=-1).mean(axis=1)
    if method == "embed_clips":
      return metrics.unit((outputs @ self.maps["joint"]).mean(axis=1))
    return outputs

  def embed_texts(self, texts: list[str]) -> np.ndarray:
    """The vectors [texts, dim] of texts that are their numbers."""
    return metrics.unit(self.maps["texts"][[int(text) for text in texts]])


class Ours:
  """The measures of `musiclm score`; {part: seconds} add up in `seconds`."""

  def __init__(self, folder: str, seconds: float):
    self.heads, self.seconds = Heads(folder), {}
    self._outputs: dict[clips.Clips, list[np.ndarray]] = {}
    self.sets = {name: clips.find(f"{folder}/{name}/*.wav", seconds) for name in _SETS}
    self.heads.outputs(np.zeros((1, 16 * vggish.SAMPLE_RATE), np.float32))  # compiles

  def embed(self, name: str, start: int, stop: int) -> None:
    """Reads, resamples and embeds the files from `start` to `stop` of a set; reading goes on beside
    the network.
    """
    some = dataclasses.replace(self.sets[name], paths=self.sets[name].paths[start:stop])
    inside = {"network": 0.0, "all": 0.0}

    def timed(function, part):
      def run(*arguments):
        began = time.perf_counter()
        result = function(*arguments)
        inside[part] += time.perf_counter() - began
        return result

      return run

    network, embed = timed(vggish.on_devices, "network"), timed(vggish.VGGish.embed, "all")
    began = time.perf_counter()
    with (
      mock.patch.object(vggish, "on_devices", network),
      mock.patch.object(vggish.VGGish, "embed", embed),
    ):
      outputs = clips.features(some, self.heads, "outputs")
    self._outputs.setdefault(self.sets[name], []).append(outputs)
    rest = time.perf_counter() - began - inside["all"]
    self._add("read and resample", rest)
    self._add("front end", inside["all"] - inside["network"])
    self._add("network", inside["network"])

  def measure(self) -> dict[str, float]:
    """{measure: value} of all that has been embedded."""
    names = self.sets["clips"].names
    texts = tuple(map(str, range(len(names))))
    judged = Judged(**self.sets, works=names, captions=texts)
    measures = {
      "kernel": ("kernel distance", of_sets.KernelDistance(self.heads, draws=1)),
      "frechet": ("Fréchet distance", of_sets.FrechetDistance(self.heads, draws=1, seed=0)),
      "kld": ("classes and cosine", of_pairs.ClassDivergence(self.heads)),
      "mcc": ("classes and cosine", of_pairs.CaptionCosine(self.heads)),
    }
    values = {}
    with (
      mock.patch.object(of_sets, "features", self._features),
      mock.patch.object(of_pairs, "features", self._features),
    ):
      for name, (part, measure) in measures.items():
        began = time.perf_counter()
        values[name] = measure(judged).value
        self._add(part, time.perf_counter() - began)
    return values

  def _features(self, whole: clips.Clips, maker: Heads, method: str) -> np.ndarray:
    """Those of a set, of the blocks in which it was embedded."""
    return maker.of_outputs(method, np.concatenate(self._outputs[whole]))

  @property
  def processor(self) -> float:
    """Seconds of the processors since the start."""
    return time.process_time()

  def _add(self, part: str, seconds: float) -> None:
    self.seconds[part] = self.seconds.get(part, 0.0) + seconds


class Theirs:
  """The same by torch_metrics.py, in a process of another Python."""

  def __init__(self, python: str, folder: str):
    script = pathlib.Path(__file__).with_name("torch_metrics.py")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    self._process = subprocess.Popen([python, str(script), folder], env=environment, **pipes)
    self.versions = self._answer()
    self.seconds, self.processor = {}, 0.0

  def embed(self, name: str, start: int, stop: int) -> None:
    """As that of Ours."""
    self._ask("embed", name, start, stop)

  def measure(self) -> dict[str, float]:
    """As that of Ours, and the kernel distance in float64."""
    return self._ask("measure")

  def _ask(self, *question):
    print(json.dumps(question), file=self._process.stdin, flush=True)
    answer = self._answer()
    self.seconds, self.processor = answer["seconds"], answer["processor"]
    return answer["result"]

  def _answer(self) -> dict:
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"torch_metrics.py ended with {self._process.wait()}")
    return json.loads(line)


def write(folder: pathlib.Path, count: int, seconds: float, rate: int) -> None:
  """Writes the three sets, the weights and the heads."""
  from safetensors.numpy import save_file

  from tests import vggish_golden

  weights = vggish_golden.torch_weights()
  save_file(weights, folder / "vggish.safetensors")
  np.savez(folder / "vggish.npz", **weights)
  rng = np.random.default_rng(1)
  shapes = {"classes": (128, _CLASSES), "joint": (128, _JOINT), "texts": (count, _JOINT)}
  heads = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
  heads["classes"] *= 3  # shares that are not all alike
  np.savez(folder / "heads.npz", **heads)
  times = np.arange(round(seconds * rate)) / rate
  for index, name in enumerate(_SETS):
    (folder / name).mkdir()
    for clip in range(count):
      rng = np.random.default_rng((index, clip))
      x = 0.02 * (1 + index) * rng.standard_normal(len(times), np.float32)
      for hertz in 55 * 2 ** rng.uniform(0, 6, 4):  # each begins anew two to eight times a second
        x += 0.1 * np.sin(2 * np.pi * hertz * times) * np.exp(-3 * (times * rng.integers(2, 9) % 1))
      audio.write(str(folder / name / f"{clip:05d}.wav"), x, rate)


def measure(python: str, count: int, seconds: float, rate: int) -> dict:
  """What `main` prints."""
  with tempfile.TemporaryDirectory() as name:
    write(pathlib.Path(name), count, seconds, rate)
    sides = {"ours": Ours(name, seconds), "pytorch": Theirs(python, name)}
    passes = {side: dict.fromkeys(_SETS, 0.0) for side in sides}
    processor = dict.fromkeys(sides, 0.0)

    def timed(side, function, *arguments):
      before, began = sides[side].processor, time.perf_counter()
      result = function(*arguments)
      processor[side] += sides[side].processor - before
      return result, time.perf_counter() - began

    blocks = [(each, start) for each in _SETS for start in range(0, count, _BLOCK)]
    for index, (each, start) in enumerate(blocks):
      for side in sorted(sides, reverse=bool(index % 2)):
        stop = min(start + _BLOCK, count)
        _, took = timed(side, sides[side].embed, each, start, stop)
        passes[side][each] += took
        print(f"{side}: {each} {stop}, {took:.1f} s", file=sys.stderr, flush=True)
    values = {side: timed(side, tools.measure)[0] for side, tools in sides.items()}
  parts = {side: tools.seconds for side, tools in sides.items()}
  for each in parts.values():
    each.pop("not counted", None)
  totals = {side: sum(each.values()) for side, each in parts.items()}
  alone = {side: _each_alone(side, passes[side], parts[side]) for side in sides}
  ours, theirs = values["ours"], values["pytorch"]
  return {
    "clips": count,
    "seconds_of_a_clip": seconds,
    "sample_rate": rate,
    "processors": os.cpu_count(),
    "load_average": os.getloadavg()[-1],
    "versions": sides["pytorch"].versions,
    "seconds": {side: _rounded(each) for side, each in parts.items()},
    "total_seconds": _rounded(totals),
    "ratio": round(totals["pytorch"] / totals["ours"], 2),
    "processor_seconds": _rounded(processor),
    "processor_ratio": round(processor["pytorch"] / processor["ours"], 2),
    "each_alone_seconds": _rounded(alone),
    "each_alone_ratio": round(alone["pytorch"] / alone["ours"], 2),
    "values": values,
    "differences": {name: abs(ours[name] - theirs[name]) for name in ours},
  }


def _each_alone(side: str, passes: dict, parts: dict) -> float:
  """Seconds where no measure shares a pass with another, except, here, the two distances."""
  both = passes["clips"] + passes["reference"]
  pairs = 2 * passes["clips"] + passes["real"]  # the divergence of two sets, the cosine of one
  last = sum(s for part, s in parts.items() if part.endswith("distance") or "cosine" in part)
  return (1 if side == "ours" else 2) * both + pairs + last


def _rounded(seconds: dict) -> dict:
  return {name: round(each, 2) for name, each in seconds.items()}


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--torch", required=True, help="the Python of the PyTorch tools")
  parser.add_argument("--clips", type=int, default=1000)
  parser.add_argument("--seconds", type=float, default=10.0)
  parser.add_argument("--rate", type=int, default=24000)
  given = parser.parse_args()
  print(json.dumps(measure(given.torch, given.clips, given.seconds, given.rate), indent=1))


if __name__ == "__main__":
  main()
