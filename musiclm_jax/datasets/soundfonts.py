"""Soundfonts as symusic needs them.

symusic 0.5.9 takes a sample's root key from the sample header alone and ignores the generator
`overridingRootKey`; with the soundfont of pretty_midi it then plays a violin's A4 19 semitones too
high, and some high notes never end. So a copy is rendered with whose headers hold the right keys.
Chunks, records and generator numbers are those of the SoundFont 2.01 specification, section 7.
"""

import importlib.util
import pathlib
import struct

import numpy as np

ROOT_KEY, SAMPLE = 58, 53  # generators overridingRootKey and sampleID
KEY_BYTE = 40  # place of the root key in the 46 bytes of a sample header


def default_soundfont() -> pathlib.Path:
  """Path of the TimGM6mb.sf2 that pretty_midi ships, found without importing it."""
  return pathlib.Path(importlib.util.find_spec("pretty_midi").origin).with_name("TimGM6mb.sf2")


def write_corrected(soundfont: str, folder: pathlib.Path) -> str:
  """Path of a copy in `folder` of a soundfont ("": pretty_midi's) with its root keys in its
  headers.

  Raises ValueError where the file is missing or is no soundfont.
  """
  path = pathlib.Path(soundfont) if soundfont else default_soundfont()
  if not path.is_file():
    raise ValueError(f"soundfont: wanted an .sf2 file, found none at {path}")
  content = path.read_bytes()
  if content[:4] != b"RIFF" or content[8:12] != b"sfbk":
    raise ValueError(f"soundfont: wanted an .sf2 file, {path} is another kind of file")
  copy = folder / path.name
  copy.write_bytes(with_root_keys_in_headers(content))
  return str(copy)


def with_root_keys_in_headers(content: bytes) -> bytes:
  """The soundfont with a sample header for each root key that a zone sets for a sample."""
  chunks = read_chunks(content[12:])
  index = next(i for i, (_, body) in enumerate(chunks) if body[:4] == b"pdta")
  tables = dict(read_chunks(chunks[index][1][4:]))
  generators = np.frombuffer(tables[b"igen"], "<u2").reshape(-1, 2).copy()
  bags = np.frombuffer(tables[b"ibag"], "<u2").reshape(-1, 2)[:, 0].astype(int)
  instruments = np.frombuffer(tables[b"inst"], np.dtype([("name", "S20"), ("zone", "<u2")]))
  firsts = set(instruments["zone"].tolist())
  headers = [tables[b"shdr"][i : i + 46] for i in range(0, len(tables[b"shdr"]), 46)]
  end = headers.pop()  # the table's last record only marks its end
  places: dict[tuple[int, int], int] = {}
  shared = None
  for zone, (begin, stop) in enumerate(zip(bags[:-1], bags[1:])):
    rows = {int(generators[i, 0]): i for i in range(begin, stop)}
    key = int(generators[rows[ROOT_KEY], 1]) if ROOT_KEY in rows else None
    if zone in firsts:
      shared = key if SAMPLE not in rows else None  # an instrument's first zone may hold for all
    key = shared if key is None else key
    if SAMPLE not in rows or key is None:
      continue
    sample = int(generators[rows[SAMPLE], 1])
    if (sample, key) not in places:
      places[sample, key] = len(headers)
      headers.append(headers[sample][:KEY_BYTE] + bytes([key]) + headers[sample][KEY_BYTE + 1 :])
    generators[rows[SAMPLE], 1] = places[sample, key]
  tables[b"igen"] = generators.tobytes()
  tables[b"shdr"] = b"".join([*headers, end])
  chunks[index] = (b"LIST", b"pdta" + write_chunks(list(tables.items())))
  return write_chunks([(b"RIFF", b"sfbk" + write_chunks(chunks))])


def read_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
  """(name, body) of RIFF chunks that follow each other."""
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
