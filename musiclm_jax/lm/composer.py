"""Text to music: MuLan codes of the text, then every stage in turn, then the codec (Section 3.2).

Stages, streams and windows are data of the bundle: nothing here knows what semantic, coarse or fine
is.
"""

import functools
import pathlib
import zlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from musiclm_jax.export import bundle as bundles
from musiclm_jax.lm.conditions import Condition, codes_at, constant, sliced
from musiclm_jax.lm.continuation import known_codes, known_seconds
from musiclm_jax.lm.joint import Joint
from musiclm_jax.lm.labels import Labels
from musiclm_jax.lm.prompts import Asked, name_of, story_of
from musiclm_jax.lm.sampling import UNCHANGED, Changes, Sampling
from musiclm_jax.loudness import steady
from musiclm_jax.seeds import random_key
from musiclm_jax.sequences import sequence
from musiclm_jax.text import Tokenizer
from musiclm_jax.tokenizers import frozen, protocols
from musiclm_jax.tokens import Facts, common_multiple, unflatten
from musiclm_jax.windows import cut, windows


class Composer:
  """A loaded bundle, of a path or a released name: prompts to waveforms.

  `changes` are made to the sampling settings of the bundle. Raises ValueError where it is
  incomplete.
  """

  def __init__(self, bundle: str, changes: Changes = UNCHANGED):
    bundle = bundles.find(bundle)
    description = bundles.load_description(bundle)
    self.sample_rate = description["sample_rate"]
    self.parts = {
      role: frozen.load(
        str(pathlib.Path(bundle, role)), protocols.ROLES.get(role, protocols.StageModel)
      )
      for role in description["parts"]
    }
    self._bundle, self._stages = bundle, description["stages"]
    self._sources = description["sources"]
    own = {name: Sampling(name, **each) for name, each in description["sampling"].items()}
    self.settings = changes.apply(own)
    self.tokenizer = Tokenizer(description["text_model"])
    self._text_length, self._words = description["text_length"], description["words"]

  @property
  def stages(self) -> list[frozen.Frozen]:
    """The token models in the order in which they write."""
    return [self.parts[name] for name in self._stages]

  def role(self, module) -> str:
    """The one part whose place a module can take: of its class, and for a stage of its tokens.

    Raises ValueError where it fits no part, or several.
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
    """Replaces the part that does the same work by a module with its values."""
    self.parts[self.role(module)] = frozen.Frozen(module, variables)

  @property
  def joint(self) -> Joint:
    """Prompts in MuLan's space."""
    mulan, quantizer = (self.parts[role] for role in ("mulan", "mulan_rvq"))
    windows = self._sources.get("mulan", {})
    return Joint(mulan, quantizer, self.tokenizer, self._text_length, windows, self.sample_rate)

  def text_codes(self, prompts: list[str]) -> np.ndarray:
    """MuLan codes [batch, 1, num_quantizers] of texts. Raises ValueError for an empty one."""
    return self.joint.codes(self.joint.texts(prompts))

  def agreement(self, prompts: list[Asked], music: np.ndarray) -> np.ndarray:
    """MuLan's cosine [batch] of each prompt and its music [batch, samples]: `Joint.agreement`."""
    return self.joint.agreement([story_of(prompt) for prompt in prompts], music)

  def melody_codes(self, waveform: np.ndarray) -> np.ndarray:
    """Melody codes [1, frames, num_quantizers] of a waveform [samples].

    Raises ValueError where the bundle has no melody encoder.
    """
    source = self._source("melody")
    window, hop = (
      round(source[name] * self.sample_rate) for name in ("window_seconds", "hop_seconds")
    )
    rows = cut(waveform[None], window, hop)[0]
    return np.asarray(self.parts["melody_rvq"]("encode", self.parts["melody"]("embed", rows)[None]))

  @functools.cached_property
  def labels(self) -> Labels:
    """What the stages can be told of a piece."""
    streams = (s for stage in self.stages for s in stage.module.stage.conditions)
    facts = {s.source: s for s in streams if isinstance(s.made, Facts)}
    return Labels(facts, self._words, self._bundle)

  @property
  def facts(self) -> tuple[str, ...]:
    """The fields of what the stages can be told of a piece: bpm, key, instruments, ..."""
    return self.labels.facts

  def told(self, prompts: list[str], facts: dict) -> list[dict]:
    """The record of each prompt: `Labels.told`."""
    return self.labels.told(prompts, facts)

  def conditions(self, records: list[dict]) -> dict[str, Condition]:
    """{source: condition} of what is known of each row's piece (`told`)."""
    return self.labels.conditions(records)

  def _source(self, name: str) -> dict:
    """The windows of a source, in seconds, as in the training of the stages."""
    if name not in self._sources or name not in self.parts:
      raise ValueError(f"{self._bundle}: its stages read no {name}")
    return self._sources[name]

  def compose(
    self,
    given: dict[str, Condition],
    seconds: float,
    keys: jax.Array,
    known: dict[str, np.ndarray] | None = None,
    against: dict[str, Condition] | None = None,
    changes: tuple[float, ...] = (),
  ) -> dict[str, np.ndarray]:
    """The codes {source: [batch, frames, levels]} that the stages write for at least `seconds`.

    `given` are the conditions of sources that no stage writes, keys [batch] one random key per row.
    `known` are codes [batch, frames, levels] of sources that stages write, which stay: what is
    written continues them. Guidance goes against the conditions `against`, null ones of all sources
    that are not there. No window reaches across a time of `changes`, in seconds. Facts that are not
    given are unknown. Raises ValueError where another condition of a stage has no source.
    """
    conditions = self.conditions([{}] * len(keys)) | given
    written, known = {}, known or {}
    total = _whole_seconds(seconds, [s.module.stage for s in self.stages])
    for index, stage in enumerate(self.stages):
      target = stage.module.stage.target
      stage_keys = fold_in(keys, index)
      beginning = known.get(target.source, np.zeros((len(keys), 0, target.last_quantizer), int))
      beginning = target.slice(beginning, 0.0, float(total))
      new = self._write(
        stage, conditions, against or {}, beginning, target.frames(total), stage_keys, changes
      )
      below = written.get(target.source)
      codes = new if below is None else np.concatenate([below, new], axis=-1)
      written[target.source] = codes
      conditions[target.source] = sliced(codes, target.frame_rate)
    return written

  def _write(
    self, part, conditions, against, known, total_frames: int, keys, changes
  ) -> np.ndarray:
    """The target's codes [batch, total_frames, levels], window by window, from `known` on."""
    module, stage = part.module, part.module.stage
    target, settings = stage.target, self.settings[stage.name]
    missing = {s.source for s in stage.conditions} - set(conditions)
    if missing:
      raise ValueError(f"stage {stage.name} reads {', '.join(sorted(missing))}, which is not given")
    grid = round(float(stage.grid_seconds) * target.frame_rate)
    size = target.frames(stage.crop_seconds)
    stride = max(1, round(settings.stride_fraction * size / grid)) * grid
    written = known[:, : known.shape[1] // grid * grid]
    if written.shape[1] >= total_frames:
      return written[:, :total_frames]
    breaks = tuple(int(time * target.frame_rate / grid + 1e-6) * grid for time in changes)
    for window in windows(total_frames, size, stride, grid, written.shape[1], breaks):
      start, frames = window.start / target.frame_rate, window.end - window.start
      seconds = frames / target.frame_rate
      span = functools.partial(
        codes_at, stage.conditions, start=start, seconds=seconds, rows=len(keys)
      )
      codes = {target.name: written[:, window.start : window.new]}
      ids, beginning = sequence(stage, module.vocabulary, span(conditions) | codes, seconds)
      beginning = beginning[:, : (window.new - window.start) * target.num_quantizers]
      method, arrays = "generate", (ids, beginning, fold_in(keys, window.new))
      if against:
        other, _ = sequence(stage, module.vocabulary, span(against) | codes, seconds)
        method, arrays = "generate_against", (other, *arrays)
      tokens = part(method, *arrays, frames=frames, settings=settings)
      new = unflatten(np.asarray(tokens), module.vocabulary.offsets(target))
      written = np.concatenate([written, new], axis=1)
    return written

  def waveforms(
    self,
    prompts: list[Asked],
    seconds: float,
    seed: int,
    melody: np.ndarray | None = None,
    facts: dict | None = None,
    keys: jax.Array | None = None,
    crossfade: float = 0.0,
    known: dict[str, np.ndarray] | None = None,
    negative: str = "",
  ) -> np.ndarray:
    """Music [batch, samples] float32 of exactly `seconds` for each prompt, of a steady level.

    A prompt is a text, {text or audio file: weight}, or a story of them: [(time, prompt), ...],
    where embeddings are mixed for `crossfade` seconds around each change; those of one batch change
    at the same times. The same prompt and seed
    give the same music whatever else is in the batch; a prompt that comes twice gives two takes.
    `melody` are codes from `melody_codes`, for stages that read them, and `facts` {field: value}
    what is wanted exactly (`told`). `keys` [batch] are those of `prompt_keys`, which it makes
    itself unless the prompts are some of many. `known` are codes of `known_codes`: the music begins
    with what the codec makes of them and goes on from there, `seconds` in all. With the prompt
    `negative` guidance goes against its codes.
    """
    if not 0 < seconds < float("inf"):
      raise ValueError(f"seconds: wanted more than 0, found {seconds}")
    if not 0 <= crossfade < float("inf"):
      raise ValueError(f"crossfade: wanted 0 or more seconds, found {crossfade}")
    stories = [story_of(prompt) for prompt in prompts]
    for story in stories:
      story.check_length(seconds)
    changes = {story.steps(crossfade)[1:] for story in stories}
    if len(changes) > 1:
      raise ValueError("wanted stories that change at the same times in one batch")
    (changes,) = changes
    known, stages = known or {}, [stage.module.stage for stage in self.stages]
    if (beginning := known_seconds(stages, known)) >= seconds:
      raise ValueError(f"seconds: wanted more than the {beginning:g} s known, found {seconds:g}")
    given = self.labels.of_stories(stories, facts or {})
    given["mulan"] = self.joint.condition(stories, crossfade)
    if melody is not None:
      rate = 1 / self._source("melody")["hop_seconds"]
      given["melody"] = sliced(np.repeat(melody, len(prompts), axis=0), rate)
    against = {"mulan": constant(self._negative(negative, len(prompts)))} if negative else {}
    keys = prompt_keys(prompts, seed) if keys is None else keys
    known = {name: np.repeat(codes, len(prompts), axis=0) for name, codes in known.items()}
    codes = self.compose(given, seconds, keys, known, against, changes)
    music = np.asarray(self.parts["soundstream"]("decode", codes["acoustic"]))
    music = music[:, : round(seconds * self.sample_rate)]
    return steady(music, self.sample_rate, beginning)

  def check_negative(self, negative: str) -> None:
    """Raises ValueError where a negative prompt would do nothing: without guidance."""
    reading = [s.module.stage for s in self.stages]
    reading = [s.name for s in reading if "mulan" in {each.source for each in s.conditions}]
    if negative and not any(self.settings[name].guidance for name in reading):
      stages = ", ".join(reading)
      raise ValueError(f"negative {negative!r}: wants guidance above 0 in a stage of {stages}")

  def _negative(self, negative: str, rows: int) -> np.ndarray:
    """The codes [rows, 1, num_quantizers] of a negative prompt."""
    self.check_negative(negative)
    return np.repeat(self.text_codes([negative]), rows, axis=0)

  def known_codes(self, waveform: np.ndarray, name: str = "") -> dict[str, np.ndarray]:
    """The codes of a waveform [samples], of the bundle's rate, that music can continue:
    `continuation.known_codes`. `name` is that of its file, for messages.
    """
    return known_codes(self.parts, self.stages, waveform, name or self._bundle)


def prompt_keys(prompts: list[Asked], seed: int) -> jax.Array:
  """One random key [batch] per prompt, from the seed, the text and how often it came before."""
  key, names = random_key(seed), [name_of(prompt) for prompt in prompts]
  rows = []
  for index, name in enumerate(names):
    take = names[:index].count(name)
    rows.append(jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), take))
  return jnp.stack(rows)


def fold_in(keys: jax.Array, number: int) -> jax.Array:
  """Other keys [batch] for each number."""
  return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _whole_seconds(seconds: float, stages) -> Fraction:
  """The shortest time >= `seconds` that is whole steps of the grids of all stages."""
  grid = common_multiple(stage.grid_seconds for stage in stages)
  return -(-Fraction(seconds).limit_denominator(10**6) // grid) * grid
