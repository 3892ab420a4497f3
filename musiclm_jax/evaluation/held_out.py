"""The material of an evaluation: the parts of all runs, and clips and tokens of unseen works."""

import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np

from musiclm_jax import audio, part_files, storage
from musiclm_jax.export.bundle import find
from musiclm_jax.quiet import quiet
from musiclm_jax.tokenizers import frozen, protocols


def read_split(
  directory: str, split: str, *, without: tuple[str, ...] = (), count: int | None = None
) -> list[dict]:
  """The first `count` records (None: all) of one split of a TFDS directory, in order, without the
  features `without`.

  Raises ValueError, naming the directory, where there is no data set, no such split, or fewer
  records in it.
  """
  with quiet():
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
  if count is not None and len(source) < count:
    raise ValueError(f"{directory}: {count} clips of split {split!r} wanted, it has {len(source)}")
  return [source[i] for i in range(len(source) if count is None else count)]


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Runs (a directory of one part each), the corpus, its token shards, the bundle and the split of
  the corpus that is measured.
  """

  runs_dir: str
  data_dir: str
  tokens_dir: str
  bundle: str
  split: str = "test"

  @functools.cached_property
  def _parts(self) -> dict[str, frozen.Frozen]:
    return {}

  def part(self, name: str) -> frozen.Frozen:
    """The trained part of a run. Raises ValueError, naming it, where it is not trained."""
    if name not in self._parts:
      self._parts[name] = frozen.load(
        str(pathlib.Path(self.runs_dir, name)), protocols.ROLES.get(name)
      )
    return self._parts[name]

  def directories(self, names: tuple[str, ...]) -> dict[str, str]:
    """The directories of these runs, by name."""
    return {name: str(pathlib.Path(self.runs_dir, name)) for name in names}

  def fingerprint(self, name: str) -> str:
    """A digest of the content of the run `name`, or of the bundle. Raises as `part`."""
    if name != "bundle":
      part_files.read_description(str(pathlib.Path(self.runs_dir, name)))
      return part_files.fingerprint(str(pathlib.Path(self.runs_dir, name)))
    path = pathlib.Path(find(self.bundle), "bundle.json")
    if not path.is_file():
      raise ValueError(f"{self.bundle}: no bundle here (bundle.json is missing)")
    text_model = json.loads(path.read_text())["text_model"]
    text = [path, path.with_name(text_model)] if text_model else [path]
    return _digest(text)  # bundle.json has the fingerprint of every part, but not of the text model

  @functools.cached_property
  def data_fingerprint(self) -> str:
    """A digest of the split and the content of the corpus and token shards, wherever they are."""
    if not pathlib.Path(self.data_dir, "dataset_info.json").is_file():
      raise ValueError(f"{self.data_dir}: no data set here (dataset_info.json is missing)")
    # the manifest's other entries, and TFDS's own description, hold paths
    tokens = {key: self.manifest[key] for key in ("sample_rate", "records", "sources")}
    files = [
      path
      for directory in (self.data_dir, self.tokens_dir)
      for path in sorted(pathlib.Path(directory).glob("*.array_record-*"))
      if path.suffix != ".json"
    ]
    return storage.digest(self.split + json.dumps(tokens, sort_keys=True) + _digest(files))

  @functools.cached_property
  def manifest(self) -> dict:
    """The manifest of the token shards."""
    path = pathlib.Path(self.tokens_dir, "manifest.json")
    if not path.is_file():
      raise ValueError(f"{self.tokens_dir}: no token shards here (manifest.json is missing)")
    manifest = json.loads(path.read_text())
    if not manifest["records"].get(self.split):
      raise ValueError(f"{self.tokens_dir}: no split {self.split!r}; it has {manifest['records']}")
    return manifest

  def source(self, name: str) -> dict:
    """The manifest's entry of a source of tokens. Raises ValueError where it is missing."""
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
    return [_texts(clip) for clip in read_split(self.data_dir, self.split)]

  @functools.cached_property
  def shards(self) -> list[dict]:
    """The tokens of the held-out clips, in the clips' order. Raises ValueError where some lack."""
    rows = {row["id"].decode(): row for row in read_split(self.tokens_dir, self.split)}
    missing = [clip["id"] for clip in self.clips if clip["id"] not in rows]
    if missing:
      raise ValueError(f"{self.tokens_dir}: no tokens of clip {missing[0]} of {self.data_dir}")
    return [rows[clip["id"]] for clip in self.clips]

  @functools.cached_property
  def train_shards(self) -> list[dict]:
    """The tokens of the train split; [] where that was not extracted."""
    if not self.manifest["records"].get("train"):
      return []
    return read_split(self.tokens_dir, "train")

  def train_rows(
    self, fields: tuple[str, ...], features: tuple[str, ...], count: int
  ) -> list[tuple[dict, dict]]:
    """The `fields` that there are of the first `count` train clips, texts decoded, and the
    `features` of their tokens. Raises ValueError, naming it, where a clip has no tokens.
    """
    with quiet():
      from musiclm_jax.datasets.tfds_reader import Records

    clips, shards = (Records(path, "train") for path in (self.data_dir, self.tokens_dir))
    tokens = {row["id"]: row for row in shards.rows(("id", *features), len(shards))}
    names = tuple(name for name in fields if name in clips.features)
    found = []
    for clip in clips.rows(("id", *names), count):
      if clip["id"] not in tokens:
        raise ValueError(f"{self.tokens_dir}: no tokens of clip {clip['id'].decode()}")
      found.append((_texts(clip), tokens[clip["id"]]))
    return found

  def first(self, count: int) -> list[dict]:
    """The first `count` held-out clips. Raises ValueError where there are fewer."""
    if count > len(self.clips):
      raise ValueError(
        f"{self.data_dir}: {count} clips wanted, split {self.split!r} has {len(self.clips)}"
      )
    return self.clips[:count]

  def waveforms(self, seconds: float, count: int | None = None) -> np.ndarray:
    """The first `seconds` of the first `count` clips (None: all), [clips, samples] float32.

    Raises as `first`.
    """
    clips = self.clips if count is None else self.first(count)
    return crop(clips, round(seconds * self.sample_rate))


def crop(clips: list[dict], samples: int) -> np.ndarray:
  """The first `samples` of each clip, [clips, samples] float32, shorter ones padded by zeros."""
  rows = np.zeros((len(clips), samples), np.float32)
  for row, clip in zip(rows, clips):
    waveform = clip["waveform"][:samples]
    row[: len(waveform)] = audio.from_int16(waveform)
  return rows


def _digest(paths: list[pathlib.Path]) -> str:
  """A digest of the content of files, in their order."""
  content = hashlib.sha256()
  for path in paths:
    with open(path, "rb") as file:
      content.update(hashlib.file_digest(file, "sha256").digest())
  return content.hexdigest()[:12]


def _texts(clip: dict) -> dict:
  """The clip with its bytes decoded to str."""

  def text(value):
    if isinstance(value, bytes):
      return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
      value = value.tolist()
    return [text(v) for v in value] if isinstance(value, list) else value

  return {name: text(value) for name, value in clip.items()}
