"""The sizes of the built-in corpus, and the works that each renders. Imports no TFDS."""

import dataclasses

from musiclm_jax.datasets import catalogue
from musiclm_jax.datasets.corpus_clips import Job

SPLITS = ("train", "validation", "test", "combinations")


@dataclasses.dataclass(frozen=True)
class Size:
  """`works` of each split (None: all), `passages` of each work and `renditions` of each passage.

  The split `combinations` has works of train, played by instruments at the tempi that are held out
  for them.
  """

  clip_seconds: float
  works: tuple[int | None, ...]
  passages: int
  renditions: int


SIZES = {
  "tiny": Size(clip_seconds=4.0, works=(12, 3, 6, 4), passages=1, renditions=3),
  "demo": Size(clip_seconds=10.0, works=(144, 12, 76, 12), passages=1, renditions=3),
  "small": Size(clip_seconds=30.0, works=(None, 30, 76, 60), passages=2, renditions=2),
  "full": Size(clip_seconds=30.0, works=(None, None, None, 400), passages=3, renditions=3),
}


def jobs(size: Size, split: str, *, seed: int, soundfont: str, scores: str) -> list[Job]:
  """One job for each work of a split; `soundfont` and `scores` as in `Job`."""
  held_out = split == "combinations"
  works = [
    work for work in catalogue.list_works() if work.split == ("train" if held_out else split)
  ]
  return [
    Job(
      work=work,
      seed=seed,
      soundfont=soundfont,
      scores=scores,
      clip_seconds=size.clip_seconds,
      passages=size.passages,
      renditions=size.renditions,
      held_out=held_out,
    )
    for work in works[: size.works[SPLITS.index(split)]]
  ]


def clip_count(size: Size) -> int:
  """The most clips that all splits have; a work without enough passages has fewer."""
  works = sum(len(jobs(size, split, seed=0, soundfont="", scores="")) for split in SPLITS)
  return works * size.passages * size.renditions
