"""Music in Python: `MusicLM.load().generate("a lively fiddle jig", seconds=10)`."""

from collections.abc import Sequence

import numpy as np

from musiclm_jax.lm import takes
from musiclm_jax.lm.composer import Composer
from musiclm_jax.lm.prompts import Asked
from musiclm_jax.lm.sampling import UNCHANGED, Changes


class MusicLM:
  """A loaded bundle. `sample_rate` is that of its music, in Hz."""

  def __init__(self, composer: Composer):
    self._composer = composer
    self.sample_rate = composer.sample_rate

  @classmethod
  def load(cls, bundle: str = "small", changes: Changes = UNCHANGED) -> "MusicLM":
    """Loads a bundle by its directory, or a released one by its name; `changes` are made to its
    sampling settings.

    Raises ValueError, naming the part, where it is incomplete.
    """
    return cls(Composer(bundle, changes))

  def generate(
    self,
    prompt: Asked,
    seconds: float = 10.0,
    *,
    seed: int = 0,
    tempo: float | None = None,
    key: str | None = None,
    instruments: Sequence[str] | None = None,
    ending: bool = False,
    best_of: int = 1,
    negative: str = "",
    crossfade: float = 0.0,
    continued: np.ndarray | None = None,
  ) -> np.ndarray:
    """Music [samples] float32 of exactly `seconds` for a text; the same for the same arguments.

    In place of a text there may be {text or audio file: weight}, where files count by their style.
    A story is a list of (time in seconds, prompt), the first time 0; around each change prompts are
    mixed for `crossfade` seconds. What is `continued` [samples], mono at `sample_rate`, is the
    beginning, and `seconds` the length with it. Guidance goes against the text `negative`.

    What is asked for exactly wants a bundle whose stages read such labels: the tempo in beats a
    minute, a key such as "D minor", the names of instruments, and that the music comes to its end.
    What is left out is read from the prompt where that names it. Of `best_of` takes the one is kept
    that MuLan finds nearest to the prompt. Raises ValueError for an empty prompt, times that do not
    rise from 0 or are not below `seconds`, a length of no samples, and a label or a value that the
    bundle does not have.
    """
    facts = {"bpm": tempo, "key": key, "instruments": instruments}
    facts["end_s"] = seconds if ending else None
    known = {} if continued is None else self._composer.known_codes(continued)
    wanted = {"facts": facts, "crossfade": crossfade, "known": known, "negative": negative}
    return takes.best_of(self._composer, [prompt], seconds, seed, best_of, **wanted)[0]
