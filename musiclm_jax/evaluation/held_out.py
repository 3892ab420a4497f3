"""What an evaluation works on: the parts of all runs, and the clips and tokens they never saw."""

import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np

from musiclm_jax import checkpointing
from musiclm_jax.tokenizers import frozen

SPLIT = "test"


def read_split(directory: str, split: str, *, without: tuple[str, ...] = ()) -> list[dict]:
  """The records of one split of a TFDS directory, in order, but for the features `without`.

  Raises ValueError, naming the directory, where there is no data set or no such split.
  """
  import tensorflow_datasets as tfds

  if not pathlib.Path(directory, "dataset_info.json").is_file():
    raise ValueError(f"{directory}: no data set here (dataset_info.json is missing)")
  builder = tfds.builder_from_directory(str(directory))
  if split not in builder.info.splits or not builder.info.splits[split].num_examples:
    known = ", ".join(sorted(builder.info.splits)) or "none"
    raise ValueError(f"{directory}: no split {split!r}; it has {known}")
  for path in builder.info.splits[split].filepaths:
    if not pathlib.Path(path).is_file():
      raise ValueError(f"{path}: shard is missing")
  skipped = {name: tfds.decode.SkipDecoding() for name in without}
  source = builder.as_data_source(split, decoders=skipped)
  return [source[i] for i in range(len(source))]


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Runs (a directory of one part each), the corpus, its token shards and the bundle."""

  runs_dir: str
  data_dir: str
  tokens_dir: str
  bundle: str

  @functools.cached_property
  def _parts(self) -> dict[str, frozen.Frozen]:
    return {}

  def part(self, name: str) -> frozen.Frozen:
    """The trained part of a run. Raises ValueError, naming it, where it is not trained."""
    if name not in self._parts:
      self._parts[name] = frozen.load(str(pathlib.Path(self.runs_dir, name)))
    return self._parts[name]

  def directories(self, names: tuple[str, ...]) -> dict[str, str]:
    """The directories of these runs, by name."""
    return {name: str(pathlib.Path(self.runs_dir, name)) for name in names}

  def fingerprint(self, name: str) -> str:
    """What changes when the run `name`, or the "bundle", does. Raises as `part`."""
    if name != "bundle":
      checkpointing.read_part(str(pathlib.Path(self.runs_dir, name)))
      return checkpointing.fingerprint(str(pathlib.Path(self.runs_dir, name)))
    path = pathlib.Path(self.bundle, "bundle.json")
    if not path.is_file():
      raise ValueError(f"{self.bundle}: no bundle here (bundle.json is missing)")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]

  @functools.cached_property
  def data_fingerprint(self) -> str:
    """What changes when the corpus or the token shards do."""
    info = pathlib.Path(self.data_dir, "dataset_info.json")
    if not info.is_file():
      raise ValueError(f"{self.data_dir}: no data set here (dataset_info.json is missing)")
    text = info.read_bytes() + json.dumps(self.manifest, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:12]

  @functools.cached_property
  def manifest(self) -> dict:
    """The manifest of the token shards."""
    path = pathlib.Path(self.tokens_dir, "manifest.json")
    if not path.is_file():
      raise ValueError(f"{self.tokens_dir}: no token shards here (manifest.json is missing)")
    manifest = json.loads(path.read_text())
    if not manifest["records"].get(SPLIT):
      raise ValueError(f"{self.tokens_dir}: no split {SPLIT!r}; it has {manifest['records']}")
    return manifest

  def source(self, name: str) -> dict:
    """The manifest's entry of a source of tokens. Raises ValueError where there is none."""
    if name not in self.manifest["sources"]:
      known = ", ".join(sorted(self.manifest["sources"]))
      raise ValueError(f"{self.tokens_dir}: no source {name!r}; the shards hold {known}")
    return self.manifest["sources"][name]

  @property
  def sample_rate(self) -> int:
    """Hz of the corpus."""
    return self.manifest["sample_rate"]

  @functools.cached_property
  def clips(self) -> list[dict]:
    """The held-out clips, their texts decoded."""
    return [_texts(clip) for clip in read_split(self.data_dir, SPLIT)]

  @functools.cached_property
  def shards(self) -> list[dict]:
    """The tokens of the held-out clips, in their order. Raises ValueError where one has none."""
    rows = {row["id"].decode(): row for row in read_split(self.tokens_dir, SPLIT)}
    missing = [clip["id"] for clip in self.clips if clip["id"] not in rows]
    if missing:
      raise ValueError(f"{self.tokens_dir}: no tokens of clip {missing[0]} of {self.data_dir}")
    return [rows[clip["id"]] for clip in self.clips]

  @functools.cached_property
  def train_shards(self) -> list[dict]:
    """The tokens of the train split; none where they were not extracted here."""
    if not self.manifest["records"].get("train"):
      return []
    return read_split(self.tokens_dir, "train")

  def waveforms(self, seconds: float, count: int | None = None) -> np.ndarray:
    """The first `seconds` of the first `count` clips (None: all), [clips, samples] float32."""
    return crop(self.clips[:count], round(seconds * self.sample_rate))


def crop(clips: list[dict], samples: int) -> np.ndarray:
  """The first `samples` of each clip, [clips, samples] float32, silence behind shorter ones."""
  rows = np.zeros((len(clips), samples), np.float32)
  for row, clip in zip(rows, clips):
    waveform = clip["waveform"][:samples]
    row[: len(waveform)] = waveform.astype(np.float32) / 32768.0
  return rows


def in_batches(function, rows: np.ndarray, batch_size: int) -> np.ndarray:
  """`function` of all rows [n, ...], batch by batch of one shape, its results put together."""
  results = []
  for start in range(0, len(rows), batch_size):
    some = rows[start : start + batch_size]
    spare = batch_size - len(some)
    padded = np.concatenate([some, np.repeat(some[:1], spare, axis=0)])
    results.append(np.asarray(function(padded))[: len(some)])
  return np.concatenate(results)


def _texts(clip: dict) -> dict:
  """The clip with str in the place of bytes."""

  def text(value):
    if isinstance(value, bytes):
      return value.decode()
    return [text(v) for v in value] if isinstance(value, list) else value

  return {name: text(value) for name, value in clip.items()}
