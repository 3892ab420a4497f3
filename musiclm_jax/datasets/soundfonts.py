"""Soundfonts corrected for symusic.

symusic 0.5.9 reads a sample's root key from the sample header alone and ignores the generator
`overridingRootKey`: with pretty_midi's soundfont it plays a violin's A4 19 semitones too high, and
some high notes never end. It rounds a loop to whole samples of the rate at which it renders, so
that notes of short loops are out of tune. Where a loop ends with its sample, it interpolates with
the memory after the sample. So clips are rendered with a copy that has the right keys in its
headers, and loops that are long and continue a little after their ends. Chunks, records and
generator numbers are those of the SoundFont 2.01 specification, sections 5 to 8.
"""

import dataclasses
import importlib.util
import pathlib
import struct

import numpy as np

SAMPLE, LOOPS, ROOT_KEY = 53, 54, 58  # generators sampleID, sampleModes, overridingRootKey
LOOP = 4096  # points of a loop, so that a length rounded to whole points is in tune
GUARD = 8  # points after a loop that an interpolation may read
GAP = 46  # silent points between samples
HEADER = np.dtype(
  [
    ("name", "S20"),
    ("start", "<u4"),
    ("end", "<u4"),
    ("loop_start", "<u4"),
    ("loop_end", "<u4"),
    ("rate", "<u4"),
    ("key", "u1"),
    ("correction", "i1"),
    ("link", "<u2"),
    ("kind", "<u2"),
  ]
)


def default_soundfont() -> pathlib.Path:
  """Path of the TimGM6mb.sf2 that pretty_midi ships, found without importing it."""
  return pathlib.Path(importlib.util.find_spec("pretty_midi").origin).with_name("TimGM6mb.sf2")


def write_corrected(soundfont: str, folder: pathlib.Path) -> str:
  """Writes a corrected copy of a soundfont ("": pretty_midi's) into `folder`; its path.

  Raises ValueError where the file is missing or is not a soundfont.
  """
  path = pathlib.Path(soundfont) if soundfont else default_soundfont()
  if not path.is_file():
    raise ValueError(f"soundfont: wanted an .sf2 file, found none at {path}")
  content = path.read_bytes()
  if content[:4] != b"RIFF" or content[8:12] != b"sfbk":
    raise ValueError(f"soundfont: wanted an .sf2 file, {path} is another kind of file")
  copy = folder / path.name
  copy.write_bytes(corrected(content))
  return str(copy)


def corrected(content: bytes) -> bytes:
  """A soundfont with root keys in its sample headers and with long loops."""
  chunks = read_chunks(content[12:])
  place = {body[:4]: i for i, (_, body) in enumerate(chunks)}
  samples = dict(read_chunks(chunks[place[b"sdta"]][1][4:]))
  tables = dict(read_chunks(chunks[place[b"pdta"]][1][4:]))
  headers = np.frombuffer(tables[b"shdr"], HEADER)
  points = np.frombuffer(samples[b"smpl"], "<i2")
  zones = read_zones(tables)
  headers, samples[b"smpl"] = lengthen_loops(headers, points, zones)
  tables[b"shdr"], tables[b"igen"] = move_root_keys(headers, zones, tables)
  chunks[place[b"sdta"]] = (b"LIST", b"sdta" + write_chunks(list(samples.items())))
  chunks[place[b"pdta"]] = (b"LIST", b"pdta" + write_chunks(list(tables.items())))
  return write_chunks([(b"RIFF", b"sfbk" + write_chunks(chunks))])


@dataclasses.dataclass(frozen=True)
class Zone:
  """A zone of an instrument that plays a sample.

  `place` is the row of its generator sampleID; `key` is its root key (None: the sample's), `loops`
  tells whether it plays the sample's loop.
  """

  place: int
  sample: int
  key: int | None
  loops: bool


def read_zones(tables: dict[bytes, bytes]) -> list[Zone]:
  """All zones that play samples, with what they take from the global zone of their instrument."""
  generators = np.frombuffer(tables[b"igen"], "<i2").reshape(-1, 2)
  bags = np.frombuffer(tables[b"ibag"], "<u2").reshape(-1, 2)[:, 0].astype(int)
  instruments = np.frombuffer(tables[b"inst"], np.dtype([("name", "S20"), ("zone", "<u2")]))
  firsts = set(instruments["zone"].tolist())
  zones, shared = [], {}
  for zone, (begin, stop) in enumerate(zip(bags[:-1], bags[1:])):
    own = {int(kind): int(value) for kind, value in generators[begin:stop]}
    if zone in firsts:
      shared = {} if SAMPLE in own else own  # an instrument's first zone may be global
    if SAMPLE not in own:
      continue
    place = begin + next(i for i in range(stop - begin) if generators[begin + i, 0] == SAMPLE)
    found = shared | own
    zones.append(Zone(place, own[SAMPLE], found.get(ROOT_KEY), bool(found.get(LOOPS, 0) & 1)))
  return zones


def lengthen_loops(
  headers: np.ndarray, points: np.ndarray, zones: list[Zone]
) -> tuple[np.ndarray, bytes]:
  """Headers and sample points [points] int16 in which loops are at least `LOOP` points long.

  Loops are repeated, and continue for `GUARD` points after their ends. Samples that any zone plays
  without its loop stay as they are.
  """
  headers, pieces, length = headers.copy(), [], 0
  plain = {zone.sample for zone in zones if not zone.loops}
  for number, header in enumerate(headers[:-1]):
    start, end, loop_start, loop_end = (
      int(header[name]) for name in ("start", "end", "loop_start", "loop_end")
    )
    piece, period = points[start:end], loop_end - loop_start
    if number not in plain and period > 0:
      times = -(-LOOP // period)
      rest = (np.arange(GUARD + (times - 1) * period)) % period
      piece = np.concatenate([points[start:loop_end], points[loop_start + rest]])
      loop_end = loop_start + times * period
    header["start"], header["end"] = length, length + len(piece)
    header["loop_start"], header["loop_end"] = (length + x - start for x in (loop_start, loop_end))
    pieces += [piece, np.zeros(GAP, np.int16)]
    length += len(piece) + GAP
  return headers, np.concatenate(pieces).astype("<i2").tobytes()


def move_root_keys(
  headers: np.ndarray, zones: list[Zone], tables: dict[bytes, bytes]
) -> tuple[bytes, bytes]:
  """Sample headers and the instruments' generators, with one header for each pair of a sample and
  a root key."""
  generators = np.frombuffer(tables[b"igen"], "<u2").reshape(-1, 2).copy()
  rows = list(headers[:-1])  # the last record marks the end
  places: dict[tuple[int, int], int] = {}
  for zone in zones:
    if zone.key is None:
      continue
    if (zone.sample, zone.key) not in places:
      places[zone.sample, zone.key] = len(rows)
      rows.append(headers[zone.sample].copy())
      rows[-1]["key"] = zone.key
    generators[zone.place, 1] = places[zone.sample, zone.key]
  return np.array([*rows, headers[-1]], HEADER).tobytes(), generators.tobytes()


def read_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
  """(name, body) of consecutive RIFF chunks."""
  chunks, place = [], 0
  while place + 8 <= len(content):
    name, length = (
      content[place : place + 4],
      struct.unpack("<I", content[place + 4 : place + 8])[0],
    )
    chunks.append((name, content[place + 8 : place + 8 + length]))
    place += 8 + length + length % 2
  return chunks


def write_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
  """The inverse of `read_chunks`."""
  return b"".join(
    name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for name, body in chunks
  )
