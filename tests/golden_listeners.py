"""Outputs of musicnn's and basic-pitch's own code, for tests/test_published_listeners.py.

In an environment of Python 3.11 where the package itself is installed without its dependencies,

    python -m tests.golden_listeners musicnn
    python -m tests.golden_listeners basic_pitch

writes a record into tests/golden/embedders/PACKAGE.json, named by its version of librosa. The
environments of the records:

    musicnn 0.1.0, tensorflow-cpu 2.15.1, soundfile, librosa 0.9.2, numpy 1.26.4
    musicnn 0.1.0, tensorflow-cpu 2.15.1, soundfile, librosa 0.8.1, numpy 1.23.5
    basic-pitch 0.4.0, onnxruntime 1.32.0, pretty-midi, resampy, scikit-learn, mir_eval, soundfile,
      librosa 0.9.2, numpy 1.26.4

numpy is below 2 because musicnn multiplies half precision by 10,000: with numpy 2 the product is
half precision as well, and infinite for loud sounds. The signals have the rates of the networks, so
that nothing is resampled: librosa 0.9 does that by another filter than later versions, which use
soxr as we do.
"""

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

FOLDER = Path(__file__).parent / "golden" / "embedders"

RATES = {"musicnn": 16000, "basic_pitch": 22050}  # Hz
SECONDS = {"musicnn": 6.2, "basic_pitch": 4.0}  # two patches and a rest; three windows
OUTPUTS = {"note": "notes", "onset": "onsets", "contour": "contours"}  # by their name and ours
COLUMNS = np.sort(np.random.default_rng(6).choice(200, 40, replace=False))  # of an embedding
WINDOW = 142  # frames that basic-pitch keeps of each of its windows
_PITCHES = (48, 60, 64, 67, 53, 65, 69, 72, 55, 62, 71, 74)
_DRAWN = 60  # values of an output of basic-pitch

_HEADERS = {
  "musicnn": "By musicnn.extractor.extractor of musicnn 0.1.0 (PyPI, ISC): tags of two patches, "
  "and means, root mean squares and some columns of their penultimate layer, in batches of 2: in "
  "batches of 1, its own, it gives that of the first patch for every patch; the signal and the "
  "columns are drawn by tests/golden_listeners.py",
  "basic_pitch": "By basic_pitch.inference.run_inference of basic-pitch 0.4.0 (PyPI, Apache-2.0), "
  "with nmp.onnx: the mean of each window, and values [frame, column, value] drawn in proportion "
  "to their squares; the signal is drawn by tests/golden_listeners.py",
}
_VERSIONS = {
  "musicnn": ("librosa", "tensorflow-cpu", "numpy"),
  "basic_pitch": ("librosa", "onnxruntime", "numpy"),
}


def read(package: str, librosa: str = "0.9.2") -> dict:
  """What `package`, "musicnn" or "basic_pitch", gave with that version of librosa."""
  return json.loads(_file(package).read_text())[f"librosa {librosa}"]


def signal(package: str) -> np.ndarray:
  """Notes that fade, in bursts of noise, [samples] at the package's rate.

  A burst begins with the first sample, so that it matters what is taken to be before it.
  """
  rate, seconds = RATES[package], SECONDS[package]
  time = np.arange(round(seconds * rate)) / rate
  noise = np.random.default_rng(5).standard_normal(len(time))
  x = 0.02 * noise * np.exp(-12 * (time % 0.5))
  for i, pitch in enumerate(_PITCHES):
    since = np.clip(time - i * seconds / len(_PITCHES), 0, None)
    shape = np.minimum(since / 0.01, 1) * np.exp(-1.5 * since)
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    for k in range(1, 7):
      x += 0.1 / k * shape * np.sin(2 * np.pi * k * hertz * since)
  return x.astype(np.float32)


def embedding_figures(embeddings: np.ndarray) -> dict[str, np.ndarray]:
  """Means [patches], root mean squares [patches] and COLUMNS [patches, 40] of [patches, 200]."""
  return {
    "means": embeddings.mean(axis=1),
    "root_mean_squares": np.sqrt(np.square(embeddings).mean(axis=1)),
    "columns": embeddings[:, COLUMNS],
  }


def window_means(output: np.ndarray) -> np.ndarray:
  """The mean of each window of WINDOW frames, the last one shorter, of [frames, columns]."""
  return np.array([output[i : i + WINDOW].mean() for i in range(0, len(output), WINDOW)])


def _file(package: str) -> Path:
  return FOLDER / f"{package}.json"


def _musicnn(path: str) -> dict:
  from musicnn import configuration, extractor

  with mock.patch.object(configuration, "BATCH_SIZE", 2):
    tags, _, features = extractor.extractor(path)
  found = {"tags": tags, **embedding_figures(features["penultimate"])}
  return {name: x.astype(float).round(6).tolist() for name, x in found.items()}


def _basic_pitch(path: str) -> dict:
  import basic_pitch
  from basic_pitch import inference

  network = basic_pitch.build_icassp_2022_model_path(basic_pitch.FilenameSuffix.onnx)
  found = {}
  for name, x in inference.run_inference(path, inference.Model(network)).items():
    shares = np.square(x.ravel().astype(float))  # most values are near 0.1, where nothing sounds
    rng = np.random.default_rng(7)
    drawn = rng.choice(x.size, _DRAWN, replace=False, p=shares / shares.sum())
    places = zip(*(each.tolist() for each in np.unravel_index(np.sort(drawn), x.shape)))
    found[name] = {
      "shape": list(x.shape),
      "means": window_means(x.astype(float)).round(6).tolist(),
      "drawn": [[i, j, round(float(x[i, j]), 6)] for i, j in places],
    }
  return found


def _main(package: str) -> None:
  import soundfile

  with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/signal.wav"
    soundfile.write(path, signal(package), RATES[package], "FLOAT")
    found = {"musicnn": _musicnn, "basic_pitch": _basic_pitch}[package](path)
  versions = {name: importlib.metadata.version(name) for name in _VERSIONS[package]}
  file = _file(package)
  content = json.loads(file.read_text()) if file.exists() else {}
  content |= {
    "header": _HEADERS[package],
    f"librosa {versions['librosa']}": {"versions": versions, **found},
  }
  lines = []  # a line for each entry of a record
  for name, record in content.items():
    if name == "header":
      lines.append(f'"header": {json.dumps(record)}')
      continue
    parts = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()]
    lines.append(f"{json.dumps(name)}: {{\n" + ",\n".join(parts) + "}")
  file.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
  _main(sys.argv[1])
