"""Which split a file of a folder or a work of the built-in corpus belongs to.

Hashes of names decide, so a file or a work stays in its split when others are added, on every
machine.
"""

import hashlib
import re
from collections.abc import Iterable

import numpy as np

SPLITS = ("train", "validation", "test")


def check_shares(shares: tuple[float, ...]) -> None:
  """Raises ValueError where `shares` are not those of train, validation and test, 1 in all."""
  if len(shares) != len(SPLITS) or not min(shares) >= 0 or not abs(sum(shares) - 1) <= 1e-6:
    wanted = f"a share of 0 to 1 for each of {', '.join(SPLITS)}, 1 in all"
    raise ValueError(f"shares: wanted {wanted}, got {shares}")


def hash_fraction(text: str) -> float:
  """A number in [0, 1) that depends on the text alone."""
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def split_of_file(name: str, shares: tuple[float, ...]) -> str:
  """The split of a file by its path within the folder; `shares` as `check_shares` wants them."""
  return SPLITS[int(np.searchsorted(np.cumsum(shares)[:-1], hash_fraction(name), side="right"))]


def split_of_works(works: Iterable[tuple[str, str, str]]) -> dict[str, str]:
  """{id: split} of works given as (id, title, incipit), about 12 % test and 6 % validation.

  Works that share a title or an incipit are versions of one melody and share a split.
  """
  works = list(works)
  leader: dict[str, str] = {}

  def root(name):
    while leader.setdefault(name, name) != name:
      name = leader[name]
    return name

  for work, title, incipit in works:
    slug = re.sub(r"[^a-z0-9]|\bthe\b", "", title.lower())
    for label in (f"title {slug}", f"incipit {incipit}"):
      ends = sorted((root(work), root(label)))
      leader[ends[1]] = ends[0]

  def split(work):
    fraction = hash_fraction(root(work))
    return "test" if fraction < 0.12 else "validation" if fraction < 0.18 else "train"

  return {work: split(work) for work, _, _ in works}
