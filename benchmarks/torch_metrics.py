"""The PyTorch tools that metrics.py measures, in an environment of their own: see there.

frechet-audio-distance's loading and formula, torchvggish, kadtk's kernel distance and audiocraft's
divergence of classes run as they are published. What those packages import for other models and
metrics is left out, and so are downloads: torchvggish gets the weights of a file. The embedding is
that before the last ReLU, which the first and kadtk choose too.
"""

import argparse
import contextlib
import importlib.util
import json
import multiprocessing.dummy
import pathlib
import sys
import time
import types
from unittest import mock

import numpy as np
import resampy
import scipy
import torch

# Imported by the packages for models other than VGGish, and for tables of them.
_OTHERS = ("laion_clap", "encodec", "torchaudio", "torchmetrics", "kadtk.model_loader")
_LOADERS = 8  # frechet-audio-distance's default


def _imported() -> types.SimpleNamespace:
  """The functions of the packages."""
  inside = [f"audiocraft{name}" for name in ("", ".metrics", ".data", ".data.audio_utils")]
  names = (*_OTHERS, *inside, "frechet_audio_distance.models.pann")
  empty = {name: mock.MagicMock() for name in names}
  empty["torchmetrics"] = types.SimpleNamespace(Metric=object)
  folder = importlib.util.find_spec("audiocraft").submodule_search_locations[0]
  sys.modules.update(empty)
  try:
    from frechet_audio_distance.fad import FrechetAudioDistance
    from frechet_audio_distance.utils import load_audio_task
    from kadtk.kad import calc_kernel_audio_distance
    from torchvggish import torchvggish, vggish_input

    path = pathlib.Path(folder, "metrics", "kld.py")
    spec = importlib.util.spec_from_file_location("audiocraft.metrics.kld", path)
    divergence = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(divergence)
  finally:
    for name in empty:
      del sys.modules[name]
  return types.SimpleNamespace(
    frechet=FrechetAudioDistance.calculate_frechet_distance,
    statistics=FrechetAudioDistance.calculate_embd_statistics,
    load=load_audio_task,
    kernel=calc_kernel_audio_distance,
    network=torchvggish,
    examples=vggish_input.waveform_to_examples,
    divergence=divergence.kl_divergence,
  )


class Tools:
  """The tools on the sets of a folder; {part: seconds} add up in `seconds`."""

  def __init__(self, folder: str):
    self.folder = pathlib.Path(folder)
    self.tools, self.seconds = _imported(), {}
    self.embeddings: dict[str, list] = {}  # {set: [clips][patches, 128]}
    heads = np.load(self.folder / "heads.npz")
    self.heads = {name: torch.tensor(heads[name]) for name in heads.files}
    model = self.tools.network.VGG(self.tools.network.make_layers(), postprocess=False)
    weights = np.load(self.folder / "vggish.npz")
    model.load_state_dict({name: torch.tensor(weights[name]) for name in weights.files})
    layers = list(model.embeddings.children())[:-1]  # as frechet-audio-distance and kadtk do
    model.embeddings = torch.nn.Sequential(*layers)
    self.model = model.eval()
    warm = self._examples(np.random.default_rng(0).normal(size=160000), 24000)  # numba compiles
    self.model(warm)

  def embed(self, name: str, start: int, stop: int) -> None:
    """Reads, resamples and embeds the files from `start` to `stop` of a set, as `score` of the
    package does a set: a pool of threads reads, then the network runs clip by clip.
    """
    paths = sorted((self.folder / name).glob("*.wav"))[start:stop]
    with self._part("read and resample"), multiprocessing.dummy.Pool(_LOADERS) as pool:
      waveforms = pool.map(lambda path: self.tools.load(str(path), 16000, 1), paths)
    for waveform in waveforms:
      with self._part("front end"):
        examples = self._examples(waveform, 16000)
      with self._part("network"):
        found = self.model(examples).detach().numpy()
      self.embeddings.setdefault(name, []).append(found)

  def measure(self) -> dict[str, float]:
    """{measure: value} of all that has been embedded."""
    clips, reference, real = (self.embeddings[name] for name in ("clips", "reference", "real"))
    values = {}
    rows = [np.concatenate(each, axis=0) for each in (clips, reference)]
    with self._part("Fréchet distance"):
      moments = [self.tools.statistics(None, each) for each in rows]
      values["frechet"] = float(self.tools.frechet(None, *moments[0], *moments[1]))
    for name, precision in (("kernel", torch.float32), ("kernel, float64", torch.float64)):
      with self._part(f"{name} distance" if name == "kernel" else "not counted"):
        given = [torch.tensor(each) for each in rows]
        found = self.tools.kernel(*given, (None, None), "cpu", precision=precision)
        values[name] = float(found) * 10  # its scale is 100
    with self._part("classes and cosine"), torch.no_grad():
      shares = [
        torch.stack([torch.softmax(torch.tensor(x) @ self.heads["classes"], -1).mean(0) for x in y])
        for y in (clips, real)
      ]
      values["kld"] = float(self.tools.divergence(*shares).mean())
      heard = torch.stack([(torch.tensor(x) @ self.heads["joint"]).mean(0) for x in clips])
      texts = self.heads["texts"][: len(heard)]
      values["mcc"] = float(torch.nn.functional.cosine_similarity(heard, texts).mean())
    return values

  def _examples(self, waveform: np.ndarray, sample_rate: int) -> torch.Tensor:
    return self.tools.examples(waveform, sample_rate)

  @contextlib.contextmanager
  def _part(self, name: str):
    began = time.perf_counter()
    yield
    self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def main() -> None:
  """Answers each line of JSON on stdin, [method, argument, ...], with one of {result, seconds,
  processor}: seconds by part, and those of the processors, since the start.
  """
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("folder")
  answers, sys.stdout = sys.stdout, sys.stderr  # the packages print
  tools = Tools(parser.parse_args().folder)
  versions = {each.__name__: each.__version__ for each in (torch, scipy, resampy)}
  print(json.dumps(versions | {"threads": torch.get_num_threads()}), file=answers, flush=True)
  for line in sys.stdin:
    method, *arguments = json.loads(line)
    result = getattr(tools, method)(*arguments)
    answer = {"result": result, "seconds": tools.seconds, "processor": time.process_time()}
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
  main()
