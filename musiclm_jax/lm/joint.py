"""Prompts in MuLan's space: one embedding for each, and codes that change with the time."""

import dataclasses

import numpy as np

from musiclm_jax import audio
from musiclm_jax.lm.conditions import Condition, stacked, stepwise
from musiclm_jax.lm.prompts import Prompt, Story
from musiclm_jax.sources import mean_embedding
from musiclm_jax.text import Tokenizer
from musiclm_jax.tokenizers.frozen import Frozen
from musiclm_jax.windows import cut


@dataclasses.dataclass(frozen=True)
class Joint:
  """The joint encoder of a bundle and the quantizer of its embeddings.

  `windows` are the `window_seconds` and `hop_seconds` in which the training of the stages heard
  audio of `sample_rate` Hz; a text has at most `text_length` tokens.
  """

  mulan: Frozen
  quantizer: Frozen
  tokenizer: Tokenizer
  text_length: int
  windows: dict
  sample_rate: int

  def texts(self, texts: list[str]) -> np.ndarray:
    """Embeddings [texts, dim] of length 1. Raises ValueError for an empty text."""
    for text in texts:
      if not self.tokenizer.encode(text):
        raise ValueError(f"the prompt is empty: {text!r}")
    return np.asarray(self.mulan("embed_text", self.tokenizer.fitted(texts, self.text_length)))

  def sound(self, path: str) -> np.ndarray:
    """The embedding [dim] of length 1 of an audio file: the mean over its windows, as in training.

    Raises ValueError, naming the file, as `audio.read`.
    """
    waveform = audio.read(path, self.sample_rate)
    seconds = self.windows["window_seconds"], self.windows["hop_seconds"]
    window, hop = (round(each * self.sample_rate) for each in seconds)
    found = self.mulan("embed_audio", cut(waveform[None].astype(np.float32), window, hop)[0])
    return mean_embedding(np.asarray(found), 0.0, len(waveform) / self.sample_rate, *seconds)

  def prompts(self, prompts: list[Prompt]) -> np.ndarray:
    """Embeddings [prompts, dim]: of each the mean of its members by their weights, of length 1.

    A single member keeps its own. Raises ValueError as `texts` and `sound`.
    """
    texts = [text for prompt in prompts for text, _ in prompt.texts]
    embedded = iter(self.texts(texts) if texts else ())
    rows = []
    for prompt in prompts:
      found = [next(embedded) for _ in prompt.texts]
      found += [self.sound(path) for path, _ in prompt.sounds]
      weights = [weight for _, weight in (*prompt.texts, *prompt.sounds)]
      rows.append(_mean(np.stack(found), np.asarray(weights)))
    return np.stack(rows)

  def codes(self, embeddings: np.ndarray) -> np.ndarray:
    """Codes [batch, 1, num_quantizers] of embeddings [batch, dim]."""
    return np.asarray(self.quantizer("encode", np.asarray(embeddings, np.float32)[:, None]))

  def condition(self, stories: list[Story], crossfade: float) -> Condition:
    """The codes of each row's story at any time.

    Around a change the embeddings of its two prompts are mixed for `crossfade` seconds, half of
    them before it, step by step (`Story.steps`); 0 for none.
    """
    embeddings = self.prompts([prompt for story in stories for prompt in story.prompts])
    rows, first = [], 0
    for story in stories:
      own = embeddings[first : first + len(story.times)]
      times = story.steps(crossfade)
      ends = [*times[1:], times[-1] + crossfade]
      middles = [(time + end) / 2 for time, end in zip(times, ends)]
      mixed = [_mean(own, story.shares(middle, crossfade)) for middle in middles]
      codes = self.codes(np.stack(mixed))
      rows.append(stepwise([(time, row[None]) for time, row in zip(times, codes)]))
      first += len(story.times)
    return stacked(rows)

  def agreement(self, stories: list[Story], music: np.ndarray) -> np.ndarray:
    """MuLan's cosine [batch] of each story and its music [batch, samples].

    Of each prompt it is that with the mean embedding of the windows, which follow each other, whose
    middles are in its time; of a story it is the mean over its prompts that have any.
    """
    size = round(self.windows["window_seconds"] * self.sample_rate)
    rows = cut(np.asarray(music, np.float32), size, size)
    heard = np.asarray(self.mulan("embed_audio", rows.reshape(-1, size)))
    heard = heard.reshape(*rows.shape[:2], -1)
    middles = (np.arange(heard.shape[1]) + 0.5) * size / self.sample_rate
    wanted = self.prompts([prompt for story in stories for prompt in story.prompts])
    found, first = [], 0
    for story, windows in zip(stories, heard):
      places = np.searchsorted(story.times, middles, side="right") - 1
      cosines = []
      for place in np.unique(places):
        mean = windows[places == place].mean(axis=0)
        cosine = wanted[first + place] @ mean / max(np.linalg.norm(mean), 1e-6)
        cosines.append(cosine)
      found.append(np.mean(cosines))
      first += len(story.times)
    return np.asarray(found)


def _mean(embeddings: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """The weighted mean [dim] of length 1 of embeddings [count, dim]; a single one as it is."""
  there = weights > 0
  if there.sum() == 1:
    return embeddings[there][0]
  mean = weights @ embeddings
  return (mean / max(np.linalg.norm(mean), 1e-6)).astype(np.float32)
