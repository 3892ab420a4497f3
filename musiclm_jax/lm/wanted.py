"""What `musiclm generate` asks of the music: the prompts, and what holds for all of them."""

import dataclasses

from musiclm_jax import audio
from musiclm_jax.datasets.clip_files import read_table
from musiclm_jax.lm.composer import Composer
from musiclm_jax.lm.prompts import (
  Prompt,
  Story,
  prompt_of,
  read_prompts,
  read_story,
  sound,
  story_of,
)
from musiclm_jax.ranges import NonNegativeFloat


@dataclasses.dataclass(frozen=True)
class Wanted:
  """One of `prompt`, a text; `prompts`, a file of a text a line, or a CSV with the columns `file`
  and `caption`, whose files give the names; `story`, a file of lines `TIME PROMPT`; `style`, an
  audio file whose style counts; and `blend` {text or audio file: weight}.

  Around the changes of a story prompts are mixed for `crossfade` seconds. The music begins with
  that of the audio file `continued`, and guidance goes against the prompt `negative`, where they
  are not "". `facts` {field: value}, those that are not None, say exactly what is wanted beside the
  prompts, where the bundle's stages read them (`Composer.told`), and `ending` that the music comes
  to its end.
  """

  prompt: str = ""
  prompts: str = ""
  story: str = ""
  style: str = ""
  blend: dict[str, float] | None = None
  crossfade: NonNegativeFloat = 0.0
  continued: str = ""
  negative: str = ""
  facts: dict = dataclasses.field(default_factory=dict)
  ending: bool = False

  def stories(self, seconds: float) -> dict[str, Story]:
    """{name of its file: story} of `seconds` of music, the name "" where there is one file.

    Raises ValueError, naming file and line, where a file cannot be read, where nothing is asked
    for, or more than one thing.
    """
    prompt = self.prompt.strip()
    given = {"a prompt": prompt, "--prompts": self.prompts, "--story": self.story}
    given |= {"--style": self.style, "--blend": self.blend}
    given = {flag: value for flag, value in given.items() if value}
    if len(given) > 1:
      found = [flag if flag == "a prompt" else f"{flag} {given[flag]}" for flag in given]
      raise ValueError(f"both {' and '.join(found)} are given: give one of them")
    if not given:
      raise ValueError("the prompt is empty: give one, or a file of prompts by --prompts FILE")
    if self.style:
      return {"": story_of(_heard(sound(self.style)))}
    if self.blend:
      return {"": story_of(_heard(_blend(self.blend)))}
    if self.story:
      return {"": read_story(self.story, seconds)}
    if prompt:
      return {"": story_of(self.prompt)}
    if self.prompts.lower().endswith(".csv"):
      rows = read_table(self.prompts, ("file", "caption"))
      return {name: story_of(row["caption"].strip()) for name, row in rows.items()}
    return {f"{i:02}": story_of(text) for i, text in enumerate(read_prompts(self.prompts))}

  def beside(self, composer: Composer, seconds: float) -> dict:
    """What else `Composer.waveforms` is told. Raises ValueError, naming the file, where one cannot
    be continued: it is no audio, not shorter than `seconds`, or the bundle cannot encode it; and
    for a negative prompt without guidance, or of words that the text model does not know.
    """
    negative = self.negative.strip()
    composer.check_negative(negative)
    composer.tokenizer.check_known([negative])
    return {
      "facts": self.facts | {"end_s": seconds if self.ending else None},
      "crossfade": self.crossfade,
      "negative": negative,
      "known": self._known(composer, seconds),
    }

  def _known(self, composer: Composer, seconds: float) -> dict:
    if not self.continued:
      return {}
    waveform = audio.read(self.continued, composer.sample_rate)
    if (found := len(waveform) / composer.sample_rate) >= seconds:
      wanted = f"more than the {found:.2f} s of {self.continued}, which it continues"
      raise ValueError(f"--seconds: wants {wanted}, got {seconds:g}")
    return composer.known_codes(waveform, self.continued)


def _blend(blend: dict[str, float]) -> Prompt:
  try:
    return prompt_of(blend)
  except ValueError as error:
    raise ValueError(f"--blend: {error}") from None


def _heard(prompt: Prompt) -> Prompt:
  """The prompt. Raises ValueError, naming the file, where one is missing or no audio."""
  for path, _ in prompt.sounds:
    audio.header(path)
  return prompt
