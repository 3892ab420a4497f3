"""The report about a data set."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from musiclm_jax import main
from musiclm_jax.evaluation import data_report, duplicates, origins
from musiclm_jax.evaluation.duplicates_page import Duplicates
from tests.records import AUDIO_FEATURES, audio_row, write_records

CODES, FRAMES, RUN = 1024, 75, 4


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def melody(rng, frames=300):
  """Codes [frames, 2] that stay the same for a few frames, as those of music do."""
  held = np.repeat(rng.integers(0, CODES, frames), rng.integers(1, 6, frames))[:frames]
  return np.stack([held, rng.integers(0, CODES, frames)], axis=1)


def changed(codes, share, shift, rng):
  """The codes, some of them replaced, later by `shift` frames."""
  codes = np.where(rng.random((len(codes), 1)) < share, rng.integers(0, CODES, codes.shape), codes)
  return np.concatenate([melody(rng, shift), codes])[: len(codes)]


def everything(asked, train):
  return np.ones((len(asked), len(train)), bool)


def test_spans_are_equal_where_their_codes_are_in_the_same_order(rng):
  codes = rng.integers(0, CODES, (50, 2))
  own = duplicates.hashes(codes, 10)
  assert len(own) == 41 == len(np.unique(own))
  shifted = duplicates.hashes(np.concatenate([codes[5:30], codes[::-1][:9]]), 10)
  assert np.isin(shifted, own).sum() == 16 and np.isin(shifted, own)[:16].all()
  assert (duplicates.hashes(codes * [[1, 7]], 10) == own).all()  # the first level alone counts
  assert len(duplicates.hashes(codes[:9], 10)) == 0


def test_a_held_out_clip_that_is_in_the_train_split_is_counted(rng):
  train = [rng.integers(0, 64, (100, 1)) for _ in range(20)]
  test = [rng.integers(0, 64, (100, 1)) for _ in range(3)] + [train[7][20:]]
  spans, clips = duplicates.repeated(test, train, 30)
  assert spans == pytest.approx((80 - 29) / (3 * 71 + 80 - 29)) and clips == 0.25
  assert duplicates.repeated([train[0][:10]], train, 30) == (0.0, 0.0)


def test_a_near_copy_is_found_where_it_is_and_an_unrelated_clip_is_not(rng):
  train = [melody(rng) for _ in range(700)]  # more than one block
  copy = changed(train[610], 0.05, 7, rng)
  asked = [melody(rng), copy]
  assert duplicates.repeated([copy], train, FRAMES)[0] < 0.05  # hardly an exact span is left
  near = duplicates.nearest(asked, train, everything(asked, train), frames=FRAMES, run=RUN)
  assert [each.clip for each in near] == [0, 1]
  assert near[0].similarity < 0.2 < 0.5 < near[1].similarity
  assert near[1].train_clip == 610 and near[1].start - near[1].train_start == 7
  (same,) = duplicates.nearest([train[3]], train, everything([0], train), frames=FRAMES, run=RUN)
  assert (same.similarity, same.train_clip) == (1.0, 3)
  chance = duplicates.permuted([copy], 0)
  (none,) = duplicates.nearest(chance, train, everything(chance, train), frames=FRAMES, run=RUN)
  assert none.similarity < 0.2


def test_only_allowed_train_clips_are_compared(rng):
  train = [melody(rng) for _ in range(20)]
  allowed = everything([0], train)
  allowed[0, 5] = False
  (near,) = duplicates.nearest([train[5]], train, allowed, frames=FRAMES, run=RUN)
  assert near.train_clip != 5 and near.similarity < 0.2
  assert not duplicates.nearest([train[5]], train, ~everything([0], train), frames=FRAMES, run=RUN)


def test_resemblance_is_that_of_the_sets(rng):
  a, b = melody(rng, FRAMES), melody(rng, FRAMES)
  b[20:60] = a[20:60]
  sets = [set(map(tuple, np.lib.stride_tricks.sliding_window_view(x[:, 0], RUN))) for x in (a, b)]
  (near,) = duplicates.nearest([a], [b], everything([a], [b]), frames=FRAMES, run=RUN)
  assert near.similarity == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))


def test_held_sounds_and_short_clips_resemble_nothing(rng):
  held = np.full((300, 1), 9)
  for asked in ([held], [melody(rng)[:50]]):
    assert not duplicates.nearest(asked, [held], everything([0], [0]), frames=FRAMES, run=RUN)
  short = duplicates.nearest(
    [melody(rng)], [held[:2]], everything([0], [0]), frames=FRAMES, run=RUN
  )
  assert short[0].similarity == 0


def test_the_nearest_embedding_is_found(rng):
  train = duplicates.mean_embeddings([rng.normal(size=(5, 8)) for _ in range(30)])
  asked = duplicates.mean_embeddings(train[[4, 9], None] + rng.normal(0, 0.01, (2, 1, 8)))
  allowed = np.ones((2, 30), bool)
  allowed[1, 9] = False
  cosines, places = duplicates.nearest_cosines(asked, train, allowed)
  assert places[0] == 4 and cosines[0] > 0.99 and places[1] != 9 and cosines[1] < 0.97


def test_the_near_copy_stands_first_on_the_page(rng):
  settings = Duplicates(seconds=3.0, run=RUN, clips=20, pairs=3, seed=0)
  columns = {"test": [melody(rng) for _ in range(9)], "train": [melody(rng) for _ in range(40)]}
  columns["test"][6] = changed(columns["train"][30], 0.05, 7, rng)
  ids = {split: [f"{split}<{i}>" for i in range(len(x))] for split, x in columns.items()}
  text = settings.of_codes("semantic", columns, ids, ids, 25.0)
  pairs = text[text.index("nearest train clip") :]
  first = pairs[pairs.index("<tbody>") :].split("</tr>")[0]
  assert "test&lt;6&gt;" in first and "train&lt;30&gt;" in first and "<0>" not in text
  assert "<tr><td>test</td><td>9</td>" in text and "<tr><td>train, other works</td>" in text
  assert settings.of_codes("semantic", {"train": columns["train"]}, ids, ids, 25.0) == ""
  assert settings.of_codes("melody", columns, ids, ids, 1 / 3) == ""
  vectors = {split: [rng.normal(size=(5, 8)) for _ in x] for split, x in columns.items()}
  vectors["test"][2] = vectors["train"][11]
  text = settings.of_embeddings("mulan", vectors, ids, ids)
  assert "<tr><td>test</td><td>test&lt;2&gt;</td><td>train&lt;11&gt;</td><td>1.0000</td>" in text


def test_every_work_has_an_origin():
  known = origins.known()
  assert known["airdsAirs/book1:119"][0] == "Aird's Airs, 1778-1801"
  assert all(all(row) for row in known.values())


def test_works_are_known_by_their_ids():
  names = [b"airdsAirs-book1-119-25-05-rendition0", b"bach-bwv1-6-end-rendition1", b"a song-3"]
  works = origins.works({"id": names})
  assert works == ["airdsAirs/book1:119", "bach/bwv1.6", "a song-3"]
  assert origins.works({"id": names, "work": [b"x", b"y", b"z"]}) == ["x", "y", "z"]
  text = origins.show({"train": works, "test": ["bach/bwv1.6"]})
  assert "<td>Lutheran chorales</td>" in text and "<td>33.3\xa0%</td><td>100\xa0%</td>" in text
  assert origins.show({"train": ["a song"]}) == ""


def test_texts_lists_and_numbers_are_shown():
  texts = {"train": [b"flute", b"flute", b"harp"], "test": [b"<i>"]}
  lists = {"train": [np.array([b"flute", b"harp"], object)], "test": [np.array([b"harp"], object)]}
  numbers = {"train": [60.0, 90.0, float("nan")], "test": [100.0]}
  shown = data_report._distribution("lead", texts, 2)
  assert "all 3 values" in shown and "&lt;i&gt;" in shown and "<i>" not in shown
  assert "<td>harp</td><td>1</td><td>1</td>" in data_report._distribution("players", lists, 9)
  assert "<td>train</td><td>60</td>" in data_report._distribution("bpm", numbers, 9)


def test_the_command_reports_about_token_shards(tmp_path, rng):
  features = {
    "id": tfds.features.Text(),
    "key": tfds.features.Text(),
    "semantic": tfds.features.Tensor(shape=(None, 2), dtype=np.uint16),
    "mulan": tfds.features.Tensor(shape=(None, 8), dtype=np.float32),
  }
  names = [f"bach-bwv1-6-{i}-rendition0" for i in range(4)] + [f"song-{i}" for i in range(4)]
  rows = [
    {
      "id": name,
      "key": "C major",
      "semantic": melody(rng).astype(np.uint16),
      "mulan": rng.normal(size=(3, 8)).astype(np.float32),
    }
    for name in names
  ]
  data = write_records(tmp_path / "tokens", {"train": rows[:6], "test": rows[6:]}, features)
  entries = {
    "semantic": {"encoder": "a", "width": 2, "codebook_size": CODES, "frame_rate": 25.0},
    "mulan": {"encoder": "b", "width": 8, "window_seconds": 10.0},
    "key": {"encoder": ""},
  }
  manifest = tmp_path / "tokens" / "manifest.json"
  manifest.write_text(json.dumps({"sources": entries}))
  assert main.main(["data_report", data, f"--out_dir={tmp_path}"]) == 0
  text = (tmp_path / "index.html").read_text()
  for part in ("Lutheran chorales", "semantic: nearest pairs", "mulan: nearest pairs", "C major"):
    assert part in text
  assert "Generated music" not in text


def test_generated_music_needs_audio_beside_it(tmp_path, capsys):
  rows = {"test": [audio_row(i, 100) for i in range(4)]}
  data = write_records(tmp_path / "audio", rows, AUDIO_FEATURES)
  (tmp_path / "a.wav").touch()
  flags = [f"--out_dir={tmp_path}", f"--generated={tmp_path}/*.wav"]
  assert main.main(["data_report", data, *flags]) == 1
  assert "set --real" in capsys.readouterr().err
