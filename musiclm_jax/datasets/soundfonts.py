"""Soundfonts corrected for symusic.

symusic 0.5.9 reads a sample's root key from the sample header alone and ignores the generator
`overridingRootKey`: with pretty_midi's soundfont it plays a violin's A4 19 semitones too high, and
some high notes never end. Where a loop ends with its sample, it interpolates with the memory after
the sample. So clips are rendered with a copy that has the right keys in its headers and whose loops
continue a little after their ends. Chunks, records and generator numbers are those of the SoundFont
2.01 specification, sections 5 to 8.
"""

import importlib.util
import pathlib
import struct

import numpy as np

ROOT_KEY, SAMPLE = 58, 53  # generators overridingRootKey and sampleID
GUARD = 8  # points after a loop that an interpolation may read; fonts leave 46 between samples
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
  """A soundfont with root keys in its sample headers and loops that continue after their ends."""
  chunks = read_chunks(content[12:])
  place = {body[:4]: i for i, (_, body) in enumerate(chunks)}
  samples = dict(read_chunks(chunks[place[b"sdta"]][1][4:]))
  tables = dict(read_chunks(chunks[place[b"pdta"]][1][4:]))
  headers = np.frombuffer(tables[b"shdr"], HEADER)
  points = np.frombuffer(samples[b"smpl"], "<i2")
  headers, samples[b"smpl"] = continue_loops(headers, points)
  tables[b"shdr"], tables[b"igen"] = move_root_keys(headers, tables)
  chunks[place[b"sdta"]] = (b"LIST", b"sdta" + write_chunks(list(samples.items())))
  chunks[place[b"pdta"]] = (b"LIST", b"pdta" + write_chunks(list(tables.items())))
  return write_chunks([(b"RIFF", b"sfbk" + write_chunks(chunks))])


def continue_loops(headers: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, bytes]:
  """Headers and sample points [points] int16 in which loops continue for `GUARD` points.

  Only after samples that end with their loop, and where no other sample follows at once.
  """
  headers, longer = headers.copy(), points.copy()
  taken = np.zeros(len(points), bool)
  for header in headers[:-1]:
    taken[header["start"] : header["end"]] = True
  for header in headers[:-1]:
    end, loop_end = int(header["end"]), int(header["loop_end"])
    loop = loop_end - int(header["loop_start"])
    after = slice(end, end + GUARD)
    if loop > 0 and 0 <= end - loop_end < GUARD and not taken[after].any():
      steps = (np.arange(len(points[after])) + end - loop_end) % loop
      longer[after] = points[int(header["loop_start"]) + steps]
      header["end"] = end + len(steps)
  return headers, longer.tobytes()


def move_root_keys(headers: np.ndarray, tables: dict[bytes, bytes]) -> tuple[bytes, bytes]:
  """Sample headers and the instruments' generators, with one header for each root key of a zone."""
  generators = np.frombuffer(tables[b"igen"], "<u2").reshape(-1, 2).copy()
  bags = np.frombuffer(tables[b"ibag"], "<u2").reshape(-1, 2)[:, 0].astype(int)
  instruments = np.frombuffer(tables[b"inst"], np.dtype([("name", "S20"), ("zone", "<u2")]))
  firsts = set(instruments["zone"].tolist())
  rows = list(headers[:-1])  # the last record marks the end
  places: dict[tuple[int, int], int] = {}
  shared = None
  for zone, (begin, stop) in enumerate(zip(bags[:-1], bags[1:])):
    at = {int(generators[i, 0]): i for i in range(begin, stop)}
    key = int(generators[at[ROOT_KEY], 1]) if ROOT_KEY in at else None
    if zone in firsts:
      shared = key if SAMPLE not in at else None  # an instrument's first zone may be global
    key = shared if key is None else key
    if SAMPLE not in at or key is None:
      continue
    sample = int(generators[at[SAMPLE], 1])
    if (sample, key) not in places:
      places[sample, key] = len(rows)
      rows.append(headers[sample].copy())
      rows[-1]["key"] = key
    generators[at[SAMPLE], 1] = places[sample, key]
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
