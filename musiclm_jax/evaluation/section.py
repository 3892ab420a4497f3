"""What a section of an evaluation is: something that measures, and that shows what it measured.

To add a metric, write a frozen dataclass with these four members in a module of its own and name it
in SECTIONS (gin/data/evaluation.gin). `evaluate` then calls it, keeps its result until its
settings, its models, the data or its source change, and the report shows it in its place.
"""

import typing

from musiclm_jax.evaluation.held_out import HeldOut


class Section(typing.Protocol):
  """One part of an evaluation and of its page."""

  @property
  def name(self) -> str:
    """The key of its result in metrics.json and the name of its kept result; each name once."""

  @property
  def parts(self) -> tuple[str, ...]:
    """The runs whose models it uses, and "bundle" where it uses that.

    When one of them changes, the section is measured again.
    """

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    """Its results: {"figures": {name: metrics.figure(...)}, ...}, all of it plain JSON.

    What it writes into out_dir it lists as "files": [path relative to out_dir]. Raises ValueError,
    naming what was wanted, where the data do not suffice.
    """

  @staticmethod
  def show(results: dict, out_dir: str) -> str | None:
    """Its part of the page as HTML (see page.section), or None where the figures are all.

    `results` are what the call gave, as read from JSON, possibly long ago; nothing is measured
    here. Files are referred to by their path relative to out_dir.
    """
