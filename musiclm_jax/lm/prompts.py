"""What music is asked for: a prompt is a weighted set of texts and of audio files, and a story is
prompts that begin at their times. A text alone is a set of one, at time 0.
"""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Sequence

import numpy as np

_SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif")
_STEPS = 4  # of a crossfade: windows are some seconds long
_TIME = re.compile(r"(?:(\d+):(?=[0-5]\d(?:\.|$)))?(\d+(?:\.\d*)?|\.\d+)")


@dataclasses.dataclass(frozen=True)
class Prompt:
  """`texts` and the audio files `sounds`, each with its weight. Raises ValueError for a set without
  members, an empty text, and a weight that is not a number above 0.
  """

  texts: tuple[tuple[str, float], ...] = ()
  sounds: tuple[tuple[str, float], ...] = ()

  def __post_init__(self):
    if not self.texts and not self.sounds:
      raise ValueError("the prompt is empty: wanted a text or an audio file")
    for name, weight in (*self.texts, *self.sounds):
      if not name.strip():
        raise ValueError(f"the prompt is empty: {name!r}")
      if (
        isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf
      ):
        raise ValueError(f"{name}: wanted a weight above 0, found {weight!r}")

  @property
  def words(self) -> str:
    """All texts, which may name a tempo, a key, instruments."""
    return ", ".join(text for text, _ in self.texts)

  @property
  def name(self) -> str:
    """What random numbers follow from: the same for other weights, and for a file elsewhere."""
    files = (pathlib.Path(path).name for path, _ in self.sounds)
    return " + ".join([*(text for text, _ in self.texts), *files])


@dataclasses.dataclass(frozen=True)
class Story:
  """Prompts, the first at 0 seconds, each up to the time of the next. Raises ValueError where the
  times do not begin at 0 and rise.
  """

  times: tuple[float, ...]
  prompts: tuple[Prompt, ...]

  def __post_init__(self):
    times = self.times
    rise = all(a < b < math.inf for a, b in zip(times, times[1:]))
    if not times or times[0] != 0 or not rise:
      raise ValueError(f"wanted times that begin at 0 and rise, found {list(times)}")

  def __str__(self) -> str:
    if len(self.times) == 1:
      return self.prompts[0].name
    return ", ".join(f"{time:g} s: {p.name}" for time, p in zip(self.times, self.prompts))

  @property
  def texts(self) -> list[str]:
    """All texts of all prompts."""
    return [text for prompt in self.prompts for text, _ in prompt.texts]

  def steps(self, crossfade: float) -> tuple[float, ...]:
    """The times at which its embedding changes, the first 0: around each change `_STEPS` equal
    parts of `crossfade` seconds, or its time alone.
    """
    if not crossfade:
      return self.times
    parts = (crossfade * (step / _STEPS - 0.5) for step in range(_STEPS + 1))
    times = {max(time + part, 0.0) for part in parts for time in self.times[1:]}
    return tuple(sorted({0.0} | times))

  def shares(self, time: float, crossfade: float) -> np.ndarray:
    """What share each prompt has of the embedding at a time; they add up to 1."""
    since = time - np.asarray(self.times)
    begun = np.clip(since / crossfade + 0.5, 0, 1) if crossfade else (since >= 0).astype(float)
    begun[0] = 1.0
    return begun - np.append(begun[1:], 0.0)  # of each what has begun and is not replaced yet

  def check_length(self, seconds: float) -> None:
    """Raises ValueError where a prompt begins at or after the end."""
    if self.times[-1] >= seconds:
      last = self.times[-1]
      raise ValueError(f"wanted times below the {seconds:g} s of the music, found {last:g}")


# A text, {text or audio file: weight}, or such prompts with their times in seconds.
Blend = dict[str, float]
Asked = str | Blend | Prompt | Story | Sequence[tuple[float, str | Blend]]


def is_sound(name: str) -> bool:
  """Whether a member of a blend is an audio file, by its ending."""
  return name.lower().endswith(_SOUNDS)


def sound(path: str) -> Prompt:
  """The style of one audio file."""
  return Prompt(sounds=((path, 1.0),))


def prompt_of(asked: str | Blend | Prompt) -> Prompt:
  """The prompt of a text or of {text or audio file: weight}. Raises ValueError as `Prompt`."""
  if isinstance(asked, Prompt):
    return asked
  if isinstance(asked, str):
    return Prompt(((asked, 1.0),))
  if not isinstance(asked, dict) or not all(isinstance(name, str) for name in asked):
    raise ValueError(f"wanted a text or {{text or audio file: weight}}, found {asked!r}")
  texts = tuple((name, weight) for name, weight in asked.items() if not is_sound(name))
  sounds = tuple((name, weight) for name, weight in asked.items() if is_sound(name))
  return Prompt(texts, sounds)


def story_of(asked: Asked) -> Story:
  """The story of a prompt, or of prompts with times. Raises ValueError as `Story` and `Prompt`."""
  if isinstance(asked, Story):
    return asked
  if isinstance(asked, str | dict | Prompt):
    return Story((0.0,), (prompt_of(asked),))
  pairs = [(float(time), prompt_of(prompt)) for time, prompt in asked]
  return Story(tuple(time for time, _ in pairs), tuple(prompt for _, prompt in pairs))


def name_of(asked: Asked) -> str:
  """What random numbers follow from: that of the first prompt, so that stories which begin alike
  sound alike up to their first difference.
  """
  return asked if isinstance(asked, str) else story_of(asked).prompts[0].name


def text_of(path: str) -> str:
  """The text of a UTF-8 file, without a byte-order mark. Raises ValueError where it is missing, or
  not UTF-8, with the line.
  """
  if not pathlib.Path(path).is_file():
    raise ValueError(f"{path}: no such file")
  try:
    return pathlib.Path(path).read_text("utf-8-sig")
  except UnicodeDecodeError as error:
    line = pathlib.Path(path).read_bytes()[: error.start].count(b"\n") + 1
    raise ValueError(f"{path}:{line}: wanted UTF-8 text") from None


def read_prompts(prompts: str) -> list[str]:
  """The lines of a UTF-8 file, without a byte-order mark.

  Raises ValueError where it is missing or not UTF-8, or a line is empty.
  """
  lines = [line.strip() for line in text_of(prompts).splitlines()]
  if not all(lines) or not lines:
    empty = lines.index("") + 1 if lines else 1
    raise ValueError(f"{prompts}:{empty}: the prompt is empty")
  return lines


def read_story(path: str, seconds: float) -> Story:
  """The story of a UTF-8 file for `seconds` of music: lines `TIME PROMPT`, the time in seconds or
  as M:SS. Empty lines and those that begin with # say nothing.

  Raises ValueError, naming file and line, for another line, for times that do not begin at 0 and
  rise, and for one that is not below `seconds`.
  """
  pairs: list[tuple[float, Prompt]] = []
  for number, line in enumerate(text_of(path).splitlines(), start=1):
    if not line.strip() or line.strip().startswith("#"):
      continue
    fail = functools.partial(_fail, f"{path}:{number}")
    first, _, text = line.strip().replace("\t", " ").partition(" ")
    if not (found := _TIME.fullmatch(first)):
      fail(f"wanted a time in seconds or as M:SS, then the prompt, found {line.strip()!r}")
    time = 60 * int(found[1] or 0) + float(found[2])
    if not text.strip():
      fail("the prompt is empty")
    if not pairs and time != 0:
      fail(f"wanted the first time to be 0, found {first}")
    if pairs and time <= pairs[-1][0]:
      fail(f"wanted a time above {pairs[-1][0]:g} s, found {first}")
    if time >= seconds:
      fail(f"wanted a time below the {seconds:g} s of the music, found {first}")
    pairs.append((time, prompt_of(text.strip())))
  if not pairs:
    raise ValueError(f"{path}: wanted lines TIME PROMPT, found none")
  return story_of(pairs)


def _fail(place: str, message: str):
  raise ValueError(f"{place}: {message}")
