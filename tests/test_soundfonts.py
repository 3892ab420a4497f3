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


def test_loops_are_long_and_continue_after_their_end():
  """A loop of three points is repeated; a sample that a zone plays without its loop is kept."""
  headers = np.zeros(3, soundfonts.HEADER)
  for header, start in zip(headers, (0, 50)):
    header["start"], header["end"] = start, start + 5
    header["loop_start"], header["loop_end"] = start + 1, start + 4
  points = np.zeros(60, np.int16)
  points[:5], points[50:55] = [9, 1, 2, 3, 7], [9, 1, 2, 3, 7]
  zones = [soundfonts.Zone(0, 0, None, True), soundfonts.Zone(1, 1, None, False)]
  after, content = soundfonts.lengthen_loops(headers, points, zones)
  longer = np.frombuffer(content, np.int16)
  first, second = (longer[header["start"] : header["end"]] for header in after[:2])
  loop = int(after[0]["loop_end"]) - int(after[0]["loop_start"])
  assert loop >= soundfonts.LOOP and loop % 3 == 0
  assert len(first) == 1 + loop + soundfonts.GUARD and first[0] == 9
  np.testing.assert_array_equal(first[1:], np.resize([1, 2, 3], len(first) - 1))
  np.testing.assert_array_equal(second, [9, 1, 2, 3, 7])
  assert after[1]["loop_end"] - after[1]["start"] == 4
  assert not longer[after[0]["end"] : after[1]["start"]].any()


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
