"""Results of other packages on seeded inputs, for tests/test_golden_distances.py.

In an environment with torch, faiss-cpu, scikit-learn, scipy below 1.16, and, all installed without
their dependencies, frechet-audio-distance 0.3.4, fadtk 1.1.0, kadtk 1.1.0 with hypy_utils,
mauve-text 0.4.0, mir_eval 0.8.2 and audiocraft 1.3.0, with Google's fad_utils.py (google-research,
frechet_audio_distance, commit 0c1bbe5) in a file:

    python -m tests.golden_distances FILE

writes tests/golden/distances.json. What these packages import for audio and models is replaced by
nothing: only their formulas run.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

import numpy as np

FILE = Path(__file__).parent / "golden" / "distances.json"

# rows of x, rows of the reference, dimensions; as many pairs of rows of each reference are odd, so
# that the median of their distances is one of them
SETS = {"wide": (300, 258, 16), "deep": (400, 399, 128), "few": (40, 50, 64)}
CLIPS = {"short": (6, 10, 32), "long": (6, 40, 32)}  # clips, patches, dimensions
FRECHET_LIMIT = (1200, 300, 16)
MAUVE = (400, 360, 24)
NOT_FORMULAS = (
  "torchaudio",
  "librosa",
  "soundfile",
  "resampy",
  "laion_clap",
  "encodec",
  "transformers",
)


def sets(name: str) -> tuple[np.ndarray, np.ndarray]:
  """Embeddings x [n, dim] and reference [m, dim] of one of SETS."""
  return _clouds(len(name), *SETS[name])


def _clouds(seed: int, n: int, m: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(seed)
  mix = rng.normal(size=(2, dim, dim)) / np.sqrt(dim)
  return rng.normal(size=(n, dim)) @ mix[0] + 0.2, rng.normal(size=(m, dim)) @ mix[1]


def clips(name: str) -> tuple[np.ndarray, np.ndarray]:
  """Clips [clips, patches, dim] of one of CLIPS and a reference [200, dim]."""
  count, patches, dim = CLIPS[name]
  x, reference = _clouds(10 + len(name), count * patches, 200, dim)
  return x.reshape(count, patches, dim), reference


def limit_sets() -> tuple[np.ndarray, np.ndarray]:
  """Embeddings [n, dim] and a reference [m, dim] for the limit of the Fréchet distance."""
  return _clouds(20, *FRECHET_LIMIT)


def mauve_sets() -> tuple[np.ndarray, np.ndarray]:
  """Two overlapping mixtures of ten clouds each, [n, dim] and [m, dim]."""
  n, m, dim = MAUVE
  rng = np.random.default_rng(30)
  places = 2 * rng.normal(size=(14, dim))
  chosen = rng.integers(0, 10, n), 4 + rng.integers(0, 10, m)
  return tuple(places[each] + rng.normal(size=(len(each), dim)) for each in chosen)


def histograms() -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """{name: shares p and q [bins]}."""
  rng = np.random.default_rng(40)
  p, q = rng.dirichlet(np.ones(30), size=2)
  gaps = (rng.random((2, 30)) > 0.4) * np.stack([p, q])
  gaps /= gaps.sum(axis=1, keepdims=True)
  apart = np.repeat(np.eye(2), 3, axis=1) / 3
  return {"all": (p, q), "gaps": tuple(gaps), "equal": (p, p), "apart": tuple(apart)}


def shares() -> tuple[np.ndarray, np.ndarray]:
  """Shares of classes [8, 40] of real and of generated clips, the last with classes of share 0."""
  real, generated = np.random.default_rng(50).dirichlet(np.full(40, 0.3), size=(2, 8))
  generated[-1, ::2] = 0
  generated[-1] /= generated[-1].sum()
  return real, generated


def lines() -> tuple[np.ndarray, np.ndarray]:
  """Pitch lines [4, 200] of a real and of another clip, -1 where unvoiced."""
  rng = np.random.default_rng(60)
  real = rng.integers(40, 200, (4, 200))
  other = real + rng.integers(-3, 4, real.shape) + 36 * rng.integers(-1, 2, real.shape)
  for line in (real, other):
    line[rng.random(line.shape) < 0.2] = -1
  return real, other


def chromas() -> tuple[np.ndarray, np.ndarray]:
  """Chroma [3, 50, 12] of real and of other clips."""
  return tuple(np.random.default_rng(70).random((2, 3, 50, 12)))


def _record(google: Path) -> list[dict]:
  """One row {package, version, function, of, value and what else is to be known} of each result."""
  rows = []

  def add(package: str, function: str, of: str, value, version: str = "", **more) -> None:
    version = version or importlib.metadata.version(package)
    value = np.asarray(value, np.float64).tolist()
    more = {"package": package, "version": version, "function": function, "of": of} | more
    rows.append(more | {"value": value})

  _frechet(add, google)
  _limit(add)
  _kernel(add)
  _mauve(add)
  _pairs(add)
  return rows


def _frechet(add, google: Path) -> None:
  from fadtk import fad as fadtk
  from frechet_audio_distance.fad import FrechetAudioDistance
  from kadtk import fad as kadtk

  formula = _module("fad_utils", google)
  for name in SETS:
    x, reference = sets(name)
    moments = [*fadtk.calc_embd_statistics(x), *fadtk.calc_embd_statistics(reference)]
    value = FrechetAudioDistance.calculate_frechet_distance(None, *moments)
    function = "FrechetAudioDistance.calculate_frechet_distance"
    add("frechet-audio-distance", function, name, value)
    add("fadtk", "fad.calc_frechet_distance", name, fadtk.calc_frechet_distance(*moments))
    value, version = formula.frechet_distance(*moments), "0c1bbe5"
    add("google-research", "fad_utils.frechet_distance", name, value, version=version)
    function, arguments = "fad.calc_frechet_distance", (x, reference, (None, None), "cpu")
    value = kadtk.calc_frechet_distance(*arguments)
    add("kadtk", function, name, value, differs="computes in float32")
    value = kadtk.calc_frechet_distance(*arguments, precision=_torch().float64)
    add("kadtk", function, name, value, precision="float64")
  for name in CLIPS:
    each, reference = clips(name)
    there = fadtk.calc_embd_statistics(reference)
    found = [fadtk.calc_frechet_distance(*there, *fadtk.calc_embd_statistics(x)) for x in each]
    add("fadtk", "FrechetAudioDistance.score_individual", name, found)


def _limit(add) -> None:
  from fadtk import fad as fadtk

  x, reference = limit_sets()
  scorer = fadtk.FrechetAudioDistance.__new__(fadtk.FrechetAudioDistance)
  scorer.ml = types.SimpleNamespace(name="golden")
  with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
    moments, rows = Path(folder) / "reference.npz", Path(folder) / "x.npy"
    mean, covariance = fadtk.calc_embd_statistics(reference)
    np.savez(moments, **{"golden.mu": mean, "golden.cov": covariance})
    np.save(rows, x)
    np.random.seed(0)
    found = scorer.score_inf(moments, [rows])
  points = np.array(found.points).tolist()
  differs = "25 subsets from 500 rows to all are drawn with replacement, so that the limit is the \
distance of the set that was given and not of its source; seed 0 of numpy.random"
  function = "FrechetAudioDistance.score_inf"
  add("fadtk", function, "limit", found.score, points=points, differs=differs)


def _kernel(add) -> None:
  from kadtk import kad

  torch = _torch()
  for name in SETS:
    x, reference = map(torch.tensor, sets(name))
    function, arguments = "kad.calc_kernel_audio_distance", (x, reference, (None, None), "cpu")
    more = {"scale": kad.SCALE_FACTOR}
    value = kad.calc_kernel_audio_distance(*arguments)
    add("kadtk", function, name, value, **more, differs="computes in float32")
    width = torch.median(torch.pdist(reference)).item()
    value = kad.calc_kernel_audio_distance(*arguments, bandwidth=width, precision=torch.float64)
    more |= {"precision": "float64", "bandwidth": width}
    add("kadtk", function, name, value, **more)


def _mauve(add) -> None:
  import mauve

  inner = sys.modules["mauve.compute_mauve"]
  for name, (p, q) in histograms().items():
    with mock.patch.object(inner, "cluster_feats", lambda *_, p=p, q=q, **__: (p, q, p, q)):
      value = mauve.compute_mauve(p_features=np.ones((9, 1)), q_features=np.ones((9, 1))).mauve
    add("mauve-text", "compute_mauve, of given histograms", name, value)
  x, y = mauve_sets()
  value = [mauve.compute_mauve(x, y, num_buckets=20, seed=seed).mauve for seed in range(8)]
  differs = "k-means by faiss in float32, seeds 0 to 7"
  add("mauve-text", "compute_mauve", "sets", value, clusters=20, differs=differs)


def _pairs(add) -> None:
  import mir_eval.melody as melody

  folder = Path(importlib.metadata.distribution("audiocraft").locate_file("audiocraft/metrics"))
  torch = _torch()
  real, generated = map(torch.tensor, shares())
  divergence = _module("audiocraft.metrics.kld", folder / "kld.py").kl_divergence
  add("audiocraft", "metrics.kld.kl_divergence", "pq", divergence(generated, real))
  add("audiocraft", "metrics.kld.kl_divergence", "qp", divergence(real, generated))

  metric = _module("audiocraft.metrics.chroma_cosinesim", folder / "chroma_cosinesim.py")
  update = metric.ChromaCosineSimilarityMetric.update
  for name in ("whole", "centred"):
    given = [torch.tensor(x) for x in chromas()]
    if name == "centred":
      given = [x - x.mean(dim=-1, keepdim=True) for x in given]
    extractor = mock.MagicMock(side_effect=lambda x: x, winhop=1)
    state = types.SimpleNamespace(
      weight=torch.zeros((), dtype=torch.float64),
      cosine_sum=torch.zeros((), dtype=torch.float64),
      eps=1e-8,
      chroma_sample_rate=1,
      chroma_extractor=extractor,
    )
    update(state, given[1], given[0], torch.full((3,), 50), torch.ones(3))
    value = state.cosine_sum / state.weight
    more = {"differs": "the cosine of whole chroma, not a correlation"} if name == "whole" else {}
    function = "metrics.chroma_cosinesim.ChromaCosineSimilarityMetric"
    add("audiocraft", function, name, value, **more)

  for function in ("raw_pitch_accuracy", "raw_chroma_accuracy"):
    found = []
    for pair in zip(*lines()):
      hertz = [np.where(line >= 0, 27.5 * 2 ** ((line - 1) / 36), 0.0) for line in pair]
      voiced = [melody.freq_to_voicing(each) for each in hertz]
      given = [x for f, v in voiced for x in (v, melody.hz2cents(f))]
      found.append(getattr(melody, function)(*given))
    add("mir_eval", f"melody.{function}", "lines", found)


def _torch():
  import torch

  return torch


def _module(name: str, path: Path):
  """The module of a file, without the package that it is in."""
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _main(google: str) -> None:
  inside = [
    f"audiocraft{name}" for name in ("", ".metrics", ".data", ".modules", ".modules.chroma")
  ]
  models = ("kadtk.model_loader", "fadtk.model_loader", "frechet_audio_distance.models.pann")
  names = (*NOT_FORMULAS, *inside, *models, "tensorflow", "tensorflow.compat.v1")
  empty = {name: mock.MagicMock() for name in names}
  empty["torchmetrics"] = types.SimpleNamespace(Metric=object)
  same = types.SimpleNamespace(convert_audio=lambda x, **_: x)
  empty["audiocraft.data.audio_utils"] = same
  with mock.patch.dict(sys.modules, empty):
    rows = _record(Path(google))
  FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
  _main(sys.argv[1])
