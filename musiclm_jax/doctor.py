"""Versions, devices, missing requirements of extras and system libraries of this machine."""

import importlib.util
import platform
import shutil
from importlib import metadata
from json import dumps
from pathlib import Path

import jax
import soundfile
from packaging.requirements import Requirement

from musiclm_jax.training import hardware

_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "seqio",
  "tensorflow",
  "tensorflow-datasets",
  "apache-beam",
  "gin-config",
  "symusic",
  "music21",
)
_ACCELERATORS = ("jax-cuda", "jax-rocm", "libtpu")


def doctor(json: bool) -> None:
  """Prints versions, devices, missing requirements of each extra, soundfont and audio libraries.

  With json as one JSON object. Raises ValueError where packages of an accelerator are installed but
  JAX finds only the CPU.
  """
  devices = [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]
  extras = missing_by_extra("musiclm_jax")
  report = {
    "versions": {"python": platform.python_version()} | {n: version(n) for n in _PACKAGES},
    "devices": devices,
    "missing": extras,
    "system": {
      "soundfont": soundfont(),
      "libsndfile": soundfile.__libsndfile_version__,
      "ffmpeg": shutil.which("ffmpeg"),
    },
  }
  print(dumps(report, indent=2) if json else _text(report))
  installed = unused_accelerators(
    [d.name for d in metadata.distributions()],
    {device.platform for device in jax.devices()},
    has_tpu=hardware.has_tpu(),
  )
  if installed:
    raise ValueError(
      f"{', '.join(installed)} installed, but JAX finds only the CPU: check the driver, and that "
      "JAX_PLATFORMS is not cpu"
    )


def version(package: str) -> str | None:
  """The installed version of a package, None if it is not installed."""
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None


def missing_by_extra(package: str) -> dict[str, list[str]]:
  """{extra: unmet requirements}, including those of the extras that a requirement names."""
  return {
    extra: sorted(set(_unmet(package, extra)))
    for extra in metadata.metadata(package).get_all("Provides-Extra") or ()
  }


def _unmet(package: str, extra: str):
  for text in metadata.requires(package) or ():
    requirement = Requirement(text)
    marker = requirement.marker
    if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
      continue
    found = version(requirement.name)
    if found is None or not requirement.specifier.contains(found, prereleases=True):
      yield f"{requirement.name}{requirement.specifier}"
    else:
      for inner in requirement.extras:
        yield from _unmet(requirement.name, inner)


def soundfont() -> str | None:
  """The path of pretty_midi's soundfont, None if it is missing."""
  package = importlib.util.find_spec("pretty_midi")
  path = Path(package.origin).parent / "TimGM6mb.sf2" if package else Path("TimGM6mb.sf2")
  return str(path) if path.is_file() else None


def unused_accelerators(
  distributions: list[str], platforms: set[str], *, has_tpu: bool
) -> list[str]:
  """The installed accelerator packages among distributions where platforms are only {"cpu"}.

  libtpu counts only with a TPU: without one it serves to compile for TPUs.
  """
  names = {name for name in distributions if name.startswith(_ACCELERATORS)}
  names = sorted(names if has_tpu else names - {"libtpu"})
  return names if platforms == {"cpu"} else []


def _text(report: dict) -> str:
  lines = [f"{name:<22}{found or 'missing'}" for name, found in report["versions"].items()]
  lines += [f"{'device':<22}{device}" for device in report["devices"]]
  for extra, missing in report["missing"].items():
    lines.append(
      f"{f'extra [{extra}]':<22}{'missing: ' + ', '.join(missing) if missing else 'ready'}"
    )
  lines += [f"{name:<22}{found or 'missing'}" for name, found in report["system"].items()]
  return "\n".join(lines)
