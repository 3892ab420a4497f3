"""Text to music: MuLan codes of the text, then every stage in turn, then the codec (Section 3.2).

Stages, streams and windows are data of the bundle: nothing here knows what semantic, coarse or fine
is.
"""

import dataclasses
import pathlib
import zlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.export import bundle as bundles
from musiclm_jax.lm.sampling import sample
from musiclm_jax.text import Tokenizer
from musiclm_jax.tokenizers import frozen
from musiclm_jax.tokens import Stream, flatten, unflatten, windows


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How one stage is sampled.

  Windows are as long as the training crop; the share `stride_fraction` of each is new, the rest is
  context from the window before. Temperature and guidance as in `sampling.sample`.
  """

  stage: str
  temperature: float
  guidance: float
  stride_fraction: float


class Composer:
  """A loaded bundle: prompts to waveforms.

  Raises ValueError where the bundle is incomplete or `samplings` do not name its stages.
  """

  def __init__(self, bundle: str, samplings: tuple[Sampling, ...]):
    description = bundles.load_description(bundle)
    self.sample_rate = description["sample_rate"]
    self.parts = {r: frozen.load(str(pathlib.Path(bundle, r))) for r in description["parts"]}
    self._bundle, self._stages = bundle, description["stages"]
    self._samplings = {s.stage: s for s in samplings}
    for stage in self.stages:
      if stage.module.stage.name not in self._samplings:
        raise ValueError(f"stage {stage.module.stage.name} of {bundle} has no sampling settings")
    self._tokenizer = Tokenizer(description["text_model"])
    self._text_length = description["text_length"]

  @property
  def stages(self) -> list[frozen.Frozen]:
    """The token models in the order in which they write."""
    return [self.parts[name] for name in self._stages]

  def role(self, module) -> str:
    """The one part whose place a module can take: of its class, and for a stage of its tokens.

    Raises ValueError where there is none, or more than one.
    """

    def work(module):
      return type(module), *(getattr(module, name, None) for name in ("stage", "vocabulary"))

    found = [role for role, part in self.parts.items() if work(part.module) == work(module)]
    if len(found) != 1:
      parts = f"{len(found)} parts: {', '.join(found)}" if found else "no part"
      kind = type(module).__name__
      raise ValueError(f"{self._bundle}: this {kind} wants the place of one part, fits {parts}")
    return found[0]

  def replace(self, module, variables: dict) -> None:
    """Puts a module with its values in the place of the part whose work it does."""
    self.parts[self.role(module)] = frozen.Frozen(module, variables)

  def text_codes(self, prompts: list[str]) -> np.ndarray:
    """MuLan codes [batch, 1, num_quantizers] of texts. Raises ValueError for an empty one."""
    for prompt in prompts:
      if not self._tokenizer.encode(prompt):
        raise ValueError(f"the prompt is empty: {prompt!r}")
    rows = self._tokenizer.fitted(prompts, self._text_length)
    embeddings = self.parts["mulan"]("embed_text", rows)
    return np.asarray(self.parts["mulan_rvq"]("encode", embeddings[:, None]))

  def melody_codes(self, waveform: np.ndarray, window_seconds: float, hop_seconds: float):
    """Melody codes [1, frames, num_quantizers] of a waveform [samples]."""
    window, hop = (round(s * self.sample_rate) for s in (window_seconds, hop_seconds))
    padded = np.pad(waveform, (0, window))
    starts = range(0, max(1, len(waveform) - window // 2), hop)
    rows = np.stack([padded[s : s + window] for s in starts])
    embeddings = self.parts["melody"]("embed", rows)
    return np.asarray(self.parts["melody_rvq"]("encode", embeddings[None]))

  def compose(
    self, known: dict[str, np.ndarray], seconds: float, keys: jax.Array
  ) -> dict[str, np.ndarray]:
    """The codes {source: [batch, frames, levels]} of all stages for at least `seconds`.

    `known` are codes of sources that no stage writes ({"mulan": [batch, 1, 12]}); keys [batch].
    """
    codes = dict(known)
    total = _whole_seconds(seconds, [s.module.stage for s in self.stages])
    for index, stage in enumerate(self.stages):
      target = stage.module.stage.target
      stage_keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)  # noqa: B023
      new = self._write(stage, codes, target.frames(total), stage_keys)
      below = codes.get(target.source)
      codes[target.source] = new if below is None else np.concatenate([below, new], axis=-1)
    return codes

  def _write(self, stage, codes, total_frames: int, keys) -> np.ndarray:
    """The target's codes [batch, total_frames, levels], window by window."""
    module, plan = stage.module, stage.module.stage
    target, settings = plan.target, self._samplings[plan.name]
    offsets = module.vocabulary.offsets(target)
    grid = round(float(plan.grid_seconds) * target.frame_rate)
    size = target.frames(plan.crop_seconds)
    stride = max(1, round(settings.stride_fraction * size / grid)) * grid
    written = np.zeros((len(keys), 0, target.num_quantizers), np.int32)
    for window in windows(total_frames, size, stride, grid):
      conditions = [
        flatten(_crop(codes[s.source], s, target, window), module.vocabulary.offsets(s))
        for s in plan.conditions
      ]
      begin = np.zeros((len(keys), 0), np.int32)
      window_keys = jax.vmap(lambda key: jax.random.fold_in(key, window.new))(keys)  # noqa: B023
      tokens = sample(
        module,
        stage.variables,
        jnp.asarray(np.concatenate([begin, *conditions], axis=1), jnp.int32),
        jnp.asarray(flatten(written[:, window.start : window.new], offsets), jnp.int32),
        window_keys,
        num_new=(window.end - window.new) * target.num_quantizers,
        temperature=settings.temperature,
        guidance=settings.guidance,
      )
      new = unflatten(np.asarray(tokens), offsets)
      written = np.concatenate([written, new], axis=1)
    return written

  def waveforms(
    self, prompts: list[str], seconds: float, seed: int, melody: np.ndarray | None = None
  ) -> np.ndarray:
    """Music [batch, samples] float32 of exactly `seconds` for each prompt.

    The same prompt and seed give the same music whatever else is in the batch; a prompt that comes
    twice gives two takes. `melody` are codes from `melody_codes`, for stages that read them.
    """
    if not seconds > 0:
      raise ValueError(f"seconds: wanted more than 0, found {seconds}")
    known = {"mulan": self.text_codes(prompts)}
    if melody is not None:
      known["melody"] = np.repeat(melody, len(prompts), axis=0)
    codes = self.compose(known, seconds, prompt_keys(prompts, seed))
    music = self.parts["soundstream"]("decode", codes["acoustic"])
    return np.asarray(music)[:, : round(seconds * self.sample_rate)]


def prompt_keys(prompts: list[str], seed: int) -> jax.Array:
  """One random key [batch] per prompt, from the seed, the text and how often it came before."""
  key = jax.random.key(seed)
  rows = []
  for index, prompt in enumerate(prompts):
    take = prompts[:index].count(prompt)
    rows.append(jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(prompt.encode())), take))
  return jnp.stack(rows)


def _whole_seconds(seconds: float, stages) -> Fraction:
  """The shortest time >= `seconds` that is whole steps of every stage's grid."""
  grid = max(stage.grid_seconds for stage in stages)
  return -(-Fraction(seconds).limit_denominator(10**6) // grid) * grid


def _crop(codes: np.ndarray, stream: Stream, target: Stream, window) -> np.ndarray:
  """The codes [batch, frames, levels] of a condition at the time of a window of the target."""
  last = stream.first_quantizer + stream.num_quantizers
  codes = codes[:, :, stream.first_quantizer : last]
  if stream.frame_rate == 0:
    return codes
  start = round(window.start * stream.frame_rate / target.frame_rate)
  frames = stream.frames((window.end - window.start) / target.frame_rate)
  if codes.shape[1] < start + frames:
    raise ValueError(
      f"stream {stream.name}: {start + frames} frames are needed, there are {codes.shape[1]}"
    )
  return codes[:, start : start + frames]
