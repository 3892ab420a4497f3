"""Soundfonts with root keys in their sample headers and loops that are safe to interpolate."""

import numpy as np
import pytest

from musiclm_jax.datasets import soundfonts


def zones(content):
  """(sample's name, its root key, the header's key) of every zone, as a player reads them."""
  tables = dict(
    soundfonts.read_chunks(
      next(b for _, b in soundfonts.read_chunks(content[12:]) if b[:4] == b"pdta")[4:]
    )
  )
  generators = np.frombuffer(tables[b"igen"], "<u2").reshape(-1, 2).tolist()
  bags = np.frombuffer(tables[b"ibag"], "<u2").reshape(-1, 2)[:, 0].tolist()
  headers = [tables[b"shdr"][i : i + 46] for i in range(0, len(tables[b"shdr"]), 46)]
  for begin, stop in zip(bags[:-1], bags[1:]):
    zone = dict(generators[begin:stop])
    if soundfonts.SAMPLE in zone:
      header = headers[zone[soundfonts.SAMPLE]]
      yield header[:20], zone.get(soundfonts.ROOT_KEY, header[40]), header[40]


def test_headers_hold_the_key_that_the_zone_sets():
  content = soundfonts.default_soundfont().read_bytes()
  before, after = list(zones(content)), list(zones(soundfonts.corrected(content)))
  assert len(before) == len(after) > 1000
  assert sum(key != header for _, key, header in before) > 500
  assert [zone[:2] for zone in after] == [zone[:2] for zone in before]
  assert all(key == header for _, key, header in after)


def test_correcting_twice_changes_nothing_more():
  content = soundfonts.default_soundfont().read_bytes()
  once = soundfonts.corrected(content)
  assert list(zones(soundfonts.corrected(once))) == list(zones(once))


def test_loops_continue_after_their_end():
  """A sample of 4 points, all loop, has room after it; the second is followed by the third."""
  headers = np.zeros(4, soundfonts.HEADER)
  headers[0]["start"], headers[0]["end"], headers[0]["loop_end"] = 0, 4, 4
  headers[1]["start"], headers[1]["end"], headers[1]["loop_start"] = 50, 54, 51
  headers[1]["loop_end"] = 54
  headers[2]["start"], headers[2]["end"] = 56, 70
  points = np.zeros(70, np.int16)
  points[:4], points[50:70] = [1, 2, 3, 4], 9
  after, content = soundfonts.continue_loops(headers, points)
  longer = np.frombuffer(content, np.int16)
  np.testing.assert_array_equal(longer[:13], [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 0])
  np.testing.assert_array_equal(longer[13:], points[13:])
  assert after["end"].tolist() == [12, 54, 70, 0]


def test_chunks_are_read_as_written():
  chunks = [(b"abcd", b"odd"), (b"efgh", b""), (b"ijkl", b"even")]
  assert soundfonts.read_chunks(soundfonts.write_chunks(chunks)) == chunks


def test_missing_or_other_file_is_named(tmp_path):
  with pytest.raises(
    ValueError, match="soundfont: wanted an .sf2 file, found none at /no/such.sf2"
  ):
    soundfonts.write_corrected("/no/such.sf2", tmp_path)
  (tmp_path / "song.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
  with pytest.raises(ValueError, match="another kind of file"):
    soundfonts.write_corrected(str(tmp_path / "song.wav"), tmp_path)
