"""The codes of music that is there already, which generation continues."""

import functools
import math

import jax
import numpy as np

from musiclm_jax.export.bundle import MAKERS
from musiclm_jax.tokenizers import protocols
from musiclm_jax.tokenizers.frozen import Frozen
from musiclm_jax.tokens import Stage, common_multiple

_BEYOND = 0.5  # seconds by which a waveform is mirrored at its end


def known_codes(
  parts: dict[str, Frozen], stages: list[Frozen], waveform: np.ndarray, place: str
) -> dict[str, np.ndarray]:
  """The codes {source: [1, frames, levels] int32} of all that the stages write, of a waveform
  [samples] up to its last whole step of their grids.

  As in extraction, by the parts that the stages were trained with. What no window reads of it, that
  which is longer ago than the longest crop, is not encoded but where the codec decodes it again:
  such codes are 0. Raises ValueError, beginning with `place`, where a part is missing, its layer is
  not known, or the waveform is shorter than a step.
  """
  models = [stage.module.stage for stage in stages]
  rate = parts["soundstream"].module.sample_rate
  grid = common_multiple(model.grid_seconds for model in models)
  steps = math.floor(len(waveform) / rate / grid + 1e-6)
  if not steps:
    raise ValueError(f"{place}: wanted at least {float(grid):g} s, found {len(waveform)} samples")
  longest = max(math.ceil(model.crop_seconds / grid - 1e-6) for model in models)
  # Without it the windows of the last frames would hear silence, and the music would go on from it.
  heard = np.pad(waveform, (0, round(_BEYOND * rate)), "reflect").astype(np.float32)
  found = {}
  for stage, model in zip(stages, models):
    source, target = model.target.source, model.target
    if source in found:
      continue
    encoder = _part(parts, source, "encoder", place)
    whole = isinstance(encoder.module, protocols.Codec)
    skipped = 0 if whole else max(steps - longest, 0)
    samples = heard[None, round(skipped * grid * rate) :]
    if whole:
      codes = encoder("encode", samples)
    else:
      quantizer = _part(parts, source, "quantizer", place)
      entry = stage.provenance["sources"].get(source, {})
      layer = _layer(encoder, quantizer, source, entry, place)
      codes = quantizer("encode", encoder("embed", samples, layer=layer))
    before, count = target.frames(skipped * grid), target.frames(steps * grid)
    codes = np.asarray(codes, np.int32)[:, : count - before]
    found[source] = np.pad(codes, ((0, 0), (before, 0), (0, 0)))
  return found


def known_seconds(stages: list[Stage], known: dict[str, np.ndarray]) -> float:
  """How long the music of known codes is; 0 without any."""
  rates = {stage.target.source: stage.target.frame_rate for stage in stages}
  return min((codes.shape[1] / rates[source] for source, codes in known.items()), default=0.0)


def _part(parts: dict[str, Frozen], source: str, key: str, place: str) -> Frozen:
  role = MAKERS.get((source, key), f"{key} of {source}")
  if role not in parts:
    raise ValueError(f"{place}: the bundle has no part {role}, which makes its {source} codes")
  return parts[role]


def _layer(encoder, quantizer, source: str, entry: dict, place: str) -> int | None:
  """The layer that the codes are of: stated by the tokens of the training, else the one whose width
  is that of the quantizer's vectors.
  """
  if "layer" in entry:
    return entry["layer"]
  (embeddings,) = quantizer.module.methods["encode"]
  second = jax.ShapeDtypeStruct((1, encoder.module.sample_rate), np.float32)

  def width(layer) -> int:
    return jax.eval_shape(functools.partial(encoder, "embed", layer=layer), second).shape[-1]

  layers = [layer for layer in encoder.module.layers if width(layer) == embeddings.dim]
  if len(layers) != 1:
    raise ValueError(f"{place}: the bundle does not say of which layer its {source} codes are")
  return layers[0]
