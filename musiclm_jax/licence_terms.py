"""What licences allow, by their identifiers (SPDX's and those of the Hugging Face hub)."""

import re

OWN = "trained here"
# From the freest to the most restrictive: (pattern of whole identifiers, what they mean).
_TERMS = (
  (OWN, "yours; what its training data allow holds"),
  (
    r"cc0(-1\.0)?|pddl(-1\.0)?|public-domain|unlicense|wtfpl|zlib|isc|mit(-0)?|apache-2\.0"
    r"|0bsd|bsd(-[234]-clause)?(-clear)?|bsl-1\.0|ncsa|postgresql|cdla-permissive-[12]\.0",
    "any use",
  ),
  (r"cc-by(-\d\.\d)?|odc-by(-1\.0)?", "any use that names the authors"),
  (
    r"cc-by-sa(-\d\.\d)?|[al]?gpl(-\d\.\d)?(-only|-or-later)?|mpl-2\.0|odbl(-1\.0)?|osl-3\.0"
    r"|cdla-sharing-1\.0",
    "any use; derived works under the same licence",
  ),
  (r"cc-by-nd(-\d\.\d)?", "no derived works"),
  (
    # an identifier, or any name that states it in words
    r"cc-by-nc(-sa|-nd)?(-\d\.\d)?|(.*[^a-z])?(nc|non-?commercial)([^a-z].*)?",
    "no commercial use",
  ),
)
_NONCOMMERCIAL = len(_TERMS) - 1
_UNKNOWN = len(_TERMS)


def meaning(licence: str) -> str:
  """What a licence allows, in words."""
  rank = _rank(licence)
  return "not known here: read it" if rank == _UNKNOWN else _TERMS[rank][1]


def is_known(licence: str) -> bool:
  """Whether the terms of a licence are known here."""
  return _rank(licence) != _UNKNOWN


def forbids_commerce(licence: str) -> bool:
  """Whether a licence is known to forbid commercial use."""
  return _rank(licence) == _NONCOMMERCIAL


def strictest(licences) -> str:
  """The most restrictive of some licences; one that is not known here counts as the strictest."""
  return max(licences, key=_rank)


def _rank(licence: str) -> int:
  """How restrictive a licence is, from 0 on."""
  name = licence.strip().lower()
  matches = (rank for rank, (pattern, _) in enumerate(_TERMS) if re.fullmatch(pattern, name))
  return next(matches, _UNKNOWN)
