"""Generated music beside real clips of a data set: the section of the data report."""

import dataclasses
import html
from collections.abc import Iterable

import numpy as np

from musiclm_jax import audio
from musiclm_jax.evaluation import adherence, origins, page, pictures, representation
from musiclm_jax.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from musiclm_jax.scoring.clips import Clips, find, stacked

_FIRST = 12  # values of each direction that stand first

Set = tuple[dict[str, np.ndarray], list[str]]  # what is heard in clips, and the works of these


@dataclasses.dataclass(frozen=True)
class Generated:
  """Generated files, and the real clips that stand beside them; `seconds` of each count.

  `generated` and `real` are glob patterns. Where `real` is "", the real clips are the first records
  of the train split, which are in a random order. There are as many real clips as generated ones,
  drawn from the files, if there are so many. sample_rate is that of the records in Hz; all is heard
  at that rate.
  """

  generated: str
  real: str
  seconds: PositiveFloat
  sample_rate: PositiveInt
  seed: NonNegativeInt

  def check(self, train) -> None:
    """Raises ValueError where there are no such files, or no audio in the records of `train`."""
    find(self.generated, self.seconds)
    if self.real:
      find(self.real, self.seconds)
    elif train is None or "waveform" not in train.features:
      raise ValueError(
        f"{self.generated}: nothing to compare with: the data set has no train split of audio "
        "records; set --real to a pattern of files"
      )

  def show(self, train, columns: dict[str, list]) -> str:
    """The section as HTML; train are the records (tfds_reader.Records) of the train split, or None,
    and columns the labels of all of them that are known.

    Raises ValueError as `check`, and, naming it, where a file cannot be read or a clip is shorter
    than `seconds`.
    """
    generated = self._of_files(find(self.generated, self.seconds))
    if self.real:
      drawn = self._drawn(find(self.real, self.seconds), len(generated[1]))
      real, what = self._of_files(drawn), self.real
    else:
      real, what = self._of_records(train, len(generated[1])), "the first records of train"
    labels = _labels(columns)
    note = (
      f"What published listeners hear in the first {self.seconds:g} s of {len(generated[1])} files "
      f"{self.generated} and of {len(real[1])} real clips ({what}): notes and keys by basic-pitch, "
      "tempo by librosa, tags by musicnn. They err alike on both; labels of the data set stand "
      "beside where it has such. A codec changes tags, too, which real clips after the codec in "
      "the place of the real ones leave out. Intervals: 95 %, by bootstrap over works."
    )
    return page.section("Generated music", note, section(generated, real, labels, self.seed))

  def _drawn(self, clips: Clips, count: int) -> Clips:
    order = np.random.default_rng(self.seed).permutation(len(clips.names))
    return clips.named(clips.names[i] for i in sorted(order[:count]))

  def _of_files(self, clips: Clips) -> Set:
    found = self._hear(clips.batches(self.sample_rate))
    return found, [origins.work_of(name) for name in clips.names]

  def _of_records(self, train, count: int) -> Set:
    fields = [name for name in ("work",) if name in train.features]
    works, samples = [], round(self.seconds * self.sample_rate)

    def waveforms():
      for row in train.rows(("id", "waveform", *fields), count):
        name, found = row["id"].decode(), len(row["waveform"]) / self.sample_rate
        if len(row["waveform"]) < samples:
          wanted = f"wanted {self.seconds:g} s or more, found {found:.2f} s"
          raise ValueError(f"{train.directory}: {name}: {wanted}")
        works.append(row["work"].decode() if fields else origins.work_of(name))
        yield audio.from_int16(row["waveform"][:samples])

    return self._hear(stacked(waveforms())), works

  def _hear(self, batches: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """representation.hear of batches of waveforms [clips, samples]."""
    found = [representation.hear(rows, self.sample_rate) for rows in batches]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def section(generated: Set, real: Set, labels: dict[str, np.ndarray], seed: int) -> str:
  """HTML: what is over- and under-represented, the spread, and each quantity as chart and table.

  labels are {quantity: shares [values] in the labels of the train split}, where it has such.
  """
  works = [generated[1], real[1]]
  found = representation.differences(generated[0], real[0], works, seed)
  parts = [_first(found), _spread(generated, real, seed)]
  charts, tables = [], []
  for quantity, values in representation.QUANTITIES.items():
    some = [each for each in found if each.quantity == quantity]
    share = dict(zip(values, labels.get(quantity, ())))
    charts.append(_chart(quantity, some, share))
    rows = [
      [*_cells(each), *([_percent(share[each.value])] if share else [])]
      for each in sorted(some, key=lambda each: -each.ratio)
    ]
    head = ["", "generated / real", "generated", "real", *(["labels of train"] if share else [])]
    tables.append(page.details(f"{quantity}: all values", page.table(head, rows)))
  return "".join([*parts, page.bars(*charts), *tables])


def _first(found: list[representation.Difference]) -> str:
  """Tables of the values whose ratio surely differs from 1, the furthest first."""
  sure = sorted((x for x in found if x.distance > 0), key=lambda x: -x.distance)
  text = ""
  for name, some in (
    ("Over-represented in what is generated", [x for x in sure if x.ratio > 1]),
    ("Under-represented in what is generated", [x for x in sure if x.ratio < 1]),
  ):
    rows = [[f"{x.value} ({x.quantity})", *_cells(x)[1:]] for x in some[:_FIRST]]
    head = ["", "generated / real", "generated", "real"]
    shown = page.table(head, rows) if rows else "<p>nothing</p>"
    text += f"<h3>{html.escape(name)}: {len(some)} of {len(found)} values</h3>{shown}"
  chance = round(0.025 * len(found))
  return (
    text + "<p class=note>Those whose interval of the ratio does not reach 1, furthest first. By "
    f"chance alone about {chance} of {len(found)} values would be in each table.</p>"
  )


def _spread(generated: Set, real: Set, seed: int) -> str:
  """A table of how many values are in use, by entropy."""
  rows = []
  for quantity, values in representation.QUANTITIES.items():
    shown = [representation.spread(x[quantity], works, seed) for x, works in (generated, real)]
    rows.append([quantity, *(page.interval(*each) for each in shown), str(len(values))])
  return (
    "<h3>Spread</h3><p class=note>How many values are in use, exp(entropy) of their shares: fewer "
    "in generated music than in real clips where it falls back on the frequent ones.</p>"
    + page.table(["", "generated", "real", "values there are"], rows)
  )


def _chart(quantity: str, some: list[representation.Difference], labels: dict[str, float]) -> str:
  series = {
    "generated": [each.generated for each in some],
    "real": [each.real for each in some],
  }
  if labels:
    series["labels of train"] = [labels[each.value] for each in some]
  intervals = {
    "generated": [each.generated_interval for each in some],
    "real": [each.real_interval for each in some],
  }
  title = f"{quantity}, share"
  return pictures.bars(title, [each.value for each in some], series, intervals)


def _cells(x: representation.Difference) -> list[str]:
  return [
    x.value,
    page.interval(x.ratio, x.ratio_interval),
    _percent(x.generated, x.generated_interval),
    _percent(x.real, x.real_interval),
  ]


def _percent(share: float, bounds: tuple[float, float] | None = None) -> str:
  number = page.amount(round(100 * share, 3)) + "\N{NO-BREAK SPACE}%"
  if bounds is None:
    return number
  return f"{number} ({' to '.join(page.amount(round(100 * x, 3)) for x in bounds)})"


def _labels(columns: dict[str, list]) -> dict[str, np.ndarray]:
  """Shares of the labels `key` and `bpm` of the train split, as of representation.QUANTITIES.

  Without the keys where one of them has no name as "Eb major".
  """
  found = {}
  if "key" in columns:
    try:
      keys = [adherence.parse_key(text.decode()) for text in columns["key"]]
    except ValueError:
      keys = []  # other data sets write keys in other ways, which the tables of labels show
    if keys:
      rows = representation.keys_and_modes(keys)
      found |= {name: each.mean(axis=0) for name, each in rows.items()}
  if "bpm" in columns:
    bpm = np.array(columns["bpm"], np.float64).ravel()
    found["tempo"] = representation.tempi(bpm[np.isfinite(bpm)]).mean(axis=0)
  return found
