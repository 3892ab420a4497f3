"""The distances against other packages' results on the same inputs, tests/golden/distances.json."""

import functools
import json

import numpy as np
import pytest

from musiclm_jax.evaluation import chroma, contours, distances, divergence
from tests import golden_distances as golden

ROWS = json.loads(golden.FILE.read_text())
LIMIT = "FrechetAudioDistance.score_inf"


def _agreement(name: str, **arguments) -> np.ndarray:
  counts = contours.line_agreement(*golden.lines(), **arguments)
  return counts[:, 0] / counts[:, 1]


def _chroma(name: str) -> float:
  real, other = golden.chromas()
  return chroma.agreement(real, other, np.ones(real.shape[:2])).mean()


def _frechet(name: str) -> float:
  return distances.frechet_distance(*golden.sets(name))


OURS = {
  "FrechetAudioDistance.calculate_frechet_distance": _frechet,
  "fad.calc_frechet_distance": _frechet,
  "fad_utils.frechet_distance": _frechet,
  "FrechetAudioDistance.score_individual": lambda name: divergence.frechet_of_each(
    *golden.clips(name)
  ),
  "kad.calc_kernel_audio_distance": lambda name: distances.kernel_distance(*golden.sets(name)),
  "compute_mauve, of given histograms": lambda name: divergence.frontier_area(
    *golden.histograms()[name]
  ),
  "metrics.kld.kl_divergence": lambda name: divergence.kl_divergence(
    *golden.shares()[:: 1 if name == "pq" else -1]
  ),
  "metrics.chroma_cosinesim.ChromaCosineSimilarityMetric": _chroma,
  "melody.raw_pitch_accuracy": _agreement,
  "melody.raw_chroma_accuracy": functools.partial(_agreement, any_octave=True),
}


def _name(row: dict) -> str:
  return f"{row['package']}-{row['function']}-{row['of']}"


def _found(row: dict) -> np.ndarray:
  """Our value of a row, on the scale of the package."""
  return np.asarray(OURS[row["function"]](row["of"])) * row.get("scale", 1000) / 1000


@pytest.mark.parametrize("row", [row for row in ROWS if "differs" not in row], ids=_name)
def test_a_formula_gives_what_the_package_gives(row):
  np.testing.assert_allclose(_found(row), row["value"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
  "row", [row for row in ROWS if row.get("differs") == "computes in float32"], ids=_name
)
def test_a_package_in_float32_differs_by_its_rounding(row):
  np.testing.assert_allclose(_found(row), row["value"], rtol=3e-4)


def test_the_points_and_the_line_of_a_limit_are_those_of_fadtk():
  (row,) = (row for row in ROWS if row["function"] == LIMIT)
  x, reference = golden.limit_sets()
  draws = np.random.RandomState(0)
  found = []
  for size, _ in row["points"]:
    rows = draws.choice(len(x), int(size), replace=True)
    found.append((size, distances.frechet_distance(x[rows], reference)))
  np.testing.assert_allclose(found, row["points"], rtol=0, atol=1e-6)
  limit = distances.extrapolated(*np.transpose(found))
  assert limit == pytest.approx(row["value"], abs=1e-6)


def test_draws_with_replacement_have_the_limit_of_the_set_and_others_that_of_its_source(rng):
  sizes, found = np.linspace(200, 400, 9).astype(int), []
  for _ in range(16):
    x, reference = rng.normal(size=(400, 16)), rng.normal(size=(3000, 16))
    limits = [
      distances.extrapolated(
        sizes,
        [
          distances.frechet_distance(x[rng.choice(400, n, replace=again)], reference) for n in sizes
        ],
      )
      for again in (True, False)
    ]
    found.append([*limits, distances.frechet_distance(x, reference)])
  again, once, whole = np.mean(found, axis=0)
  assert again == pytest.approx(whole, rel=0.25) and abs(once) < 0.25 * whole


def test_the_limit_is_within_three_deviations_of_draws_in_the_way_of_fadtk():
  x, reference = golden.limit_sets()
  (row,) = (row for row in ROWS if row["function"] == LIMIT)
  sizes, found = np.array([size for size, _ in row["points"]], int), []
  for seed in range(6):
    rng = np.random.default_rng(seed)
    drawn = [distances.frechet_distance(x[rng.choice(len(x), n)], reference) for n in sizes]
    found.append(distances.extrapolated(sizes, drawn))
  found.append(row["value"])
  ours = distances.frechet_limit(x, reference)
  assert abs(ours - np.mean(found)) < 3 * np.std(found)


def test_mauve_is_within_the_spread_of_the_package_over_its_seeds():
  (row,) = (row for row in ROWS if row["function"] == "compute_mauve")
  found = [divergence.mauve(*golden.mauve_sets(), clusters=20, seed=seed) for seed in range(4)]
  assert min(row["value"]) < np.median(found) < max(row["value"])
  assert np.median(found) == pytest.approx(np.median(row["value"]), rel=0.05)
