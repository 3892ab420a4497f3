"""What is heard in generated music and in real clips, by the same listeners, and how both differ.

Listeners err, so their shares of real clips are no facts about these. They err alike on both sets:
what differs is a difference of the sets, or of their sound, which a codec changes as well.
"""

import dataclasses

import numpy as np

from musiclm_jax.embedders import musicnn
from musiclm_jax.evaluation import adherence, metrics, transcriber

TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MODES = ("major", "minor")
_TEMPI = (60, 75, 90, 105, 120, 135, 150, 180)  # bpm, between classes
_OCTAVES = range(1, 8)
_MOST_NOTES = 5  # at once
_DRAWS = 2000
_KEYS = tuple(f"{tonic} {mode}" for mode in MODES for tonic in TONICS)
TAGS = {  # of musicnn, whose other tags are about character
  "instruments": (
    *("guitar", "strings", "drums", "piano", "violin", "synth", "harpsichord", "flute", "sitar"),
    *("harp", "cello", "beat", "beats"),
  ),
  "voices": (
    *("vocal", "vocals", "no vocals", "no vocal", "voice", "no voice", "singing", "choir"),
    *("choral", "female", "woman", "female vocal", "female voice", "male", "man", "male vocal"),
    "male voice",
  ),
  "genres and traditions": (
    *("classical", "classic", "techno", "electronic", "rock", "ambient", "indian", "opera", "pop"),
    *("new age", "dance", "country", "metal"),
  ),
  "character": ("slow", "fast", "loud", "quiet", "soft", "solo", "weird"),
}
QUANTITIES = {
  "key": _KEYS,
  "mode": MODES,
  "tempo": (
    f"below {_TEMPI[0]} bpm",
    *(f"{low} to {high} bpm" for low, high in zip(_TEMPI, _TEMPI[1:])),
    f"from {_TEMPI[-1]} bpm",
  ),
  "pitch class": TONICS,
  "register": tuple(f"C{octave} to B{octave}" for octave in _OCTAVES),
  "notes at once": (*map(str, range(_MOST_NOTES)), f"{_MOST_NOTES} or more"),
} | TAGS


@dataclasses.dataclass(frozen=True)
class Difference:
  """A value of a quantity: its share of generated and of real clips, and the ratio, with intervals.

  Intervals are (low, high) of 95 %. A ratio is of shares to which half of the largest share that a
  single clip has is added, so that what is absent from one set has a finite one.
  """

  quantity: str
  value: str
  generated: float
  generated_interval: tuple[float, float]
  real: float
  real_interval: tuple[float, float]
  ratio: float
  ratio_interval: tuple[float, float]

  @property
  def distance(self) -> float:
    """How far the ratio is from 1 at least: |log| of the nearer end of its interval, or 0."""
    low, high = np.log(self.ratio_interval)
    return float(max(low, -high, 0.0))


def hear(waveforms: np.ndarray, sample_rate: int) -> dict[str, np.ndarray]:
  """{quantity: shares [clips, values]} of QUANTITIES, heard in waveforms [clips, samples] at
  sample_rate Hz.

  The key, its mode and the tempo of a clip are one value each, with the share 1. Pitch classes and
  registers are shares of the time of all notes. Where there is no note, these and the key's are 0.
  Notes at once are shares of frames. Tags are shares of the probabilities of all 50 tags.

  Raises ValueError where basic-pitch, onnxruntime or musicnn is not installed.
  """
  notes = transcriber.transcribe(waveforms, sample_rate)[0]
  classes = transcriber.note_chroma(notes)
  audible = classes.any(axis=(1, 2))[:, None]
  found = {k: x * audible for k, x in keys_and_modes(adherence.keys(classes)).items()}
  found["tempo"] = tempi(adherence.tempo(waveforms, sample_rate))
  found["pitch class"] = _shares(classes.sum(axis=1))
  time = transcriber.sounding(notes).sum(axis=1)
  octaves = (transcriber.LOWEST_PITCH + np.arange(time.shape[1])) // 12 - 1
  found["register"] = _shares(
    np.stack([time[:, np.clip(octaves, 1, 7) == octave].sum(axis=1) for octave in _OCTAVES], axis=1)
  )
  counts = np.minimum(transcriber.sounding(notes).sum(axis=2), _MOST_NOTES)
  found["notes at once"] = np.stack(
    [(counts == count).mean(axis=1) for count in range(_MOST_NOTES + 1)], axis=1
  )
  names = musicnn.tag_names()
  tags = _shares(musicnn.embed(waveforms, sample_rate)[1].mean(axis=1))
  for quantity, some in TAGS.items():
    found[quantity] = tags[:, [names.index(name) for name in some]]
  return found


def keys_and_modes(keys: list[tuple[int, bool]]) -> dict[str, np.ndarray]:
  """{"key": [clips, 24], "mode": [clips, 2]} of 0 and 1, of keys as of adherence.parse_key."""
  tonics, minor = np.array(keys, int).reshape(-1, 2).T
  return {"key": np.eye(24)[tonics + 12 * minor], "mode": np.eye(2)[minor]}


def tempi(bpm: np.ndarray) -> np.ndarray:
  """The class of each tempo [clips] in bpm, as of QUANTITIES: [clips, classes] of 0 and 1."""
  return np.eye(len(_TEMPI) + 1)[np.digitize(bpm, _TEMPI)]


def differences(
  generated: dict[str, np.ndarray],
  real: dict[str, np.ndarray],
  works: list[list[str]],
  seed: int,
) -> list[Difference]:
  """All values of all quantities that are heard in one of the sets, as of `hear`.

  works has the labels of the generated and of the real clips: intervals are by bootstrap over
  works, since clips of one are not independent.
  """
  found = []
  for quantity, values in QUANTITIES.items():
    sets = (generated[quantity], real[quantity])
    most = np.max([rows.max(axis=0) for rows in sets], axis=0)
    added = [most / 2 / len(rows) for rows in sets]
    means = [rows.mean(axis=0) for rows in sets]
    draws = [means_of_draws(rows, w, seed + i) for i, (rows, w) in enumerate(zip(sets, works))]
    ratio = (means[0] + added[0]) / np.maximum(means[1] + added[1], 1e-12)
    ratios = (draws[0] + added[0]) / np.maximum(draws[1] + added[1], 1e-12)
    bounds = [np.percentile(x, (2.5, 97.5), axis=0).T.tolist() for x in (*draws, ratios)]
    for i in np.flatnonzero(most > 0):
      found.append(
        Difference(
          *(quantity, values[i]),
          *(float(means[0][i]), tuple(bounds[0][i])),
          *(float(means[1][i]), tuple(bounds[1][i])),
          *(float(ratio[i]), tuple(bounds[2][i])),
        )
      )
  return found


def spread(rows: np.ndarray, works: list[str], seed: int) -> tuple[float, tuple[float, float]]:
  """The effective number of values, exp(entropy) of the mean shares, and its 95 % interval.

  rows [clips, values] of shares; 0 where all are 0. The interval is by bootstrap over works; since
  draws have a smaller entropy than the sample that they are of, their median is brought to its.
  """
  value = _effective(rows.mean(axis=0))
  draws = _effective(means_of_draws(rows, works, seed))
  if not value:
    return 0.0, (0.0, 0.0)
  low, high = np.percentile(draws, (2.5, 97.5)) * value / np.median(draws)
  return float(value), (max(float(low), 1.0), min(float(high), float(rows.shape[1])))


def means_of_draws(rows: np.ndarray, works: list[str], seed: int) -> np.ndarray:
  """Means [draws, values] of rows [clips, values] when whole works are drawn with replacement."""
  labels, group = np.unique(np.asarray(works), return_inverse=True)
  sums = np.zeros((len(labels), rows.shape[1] + 1))
  np.add.at(sums, group, np.column_stack([rows, np.ones(len(rows))]))
  totals = metrics.draws_of(len(labels), _DRAWS, seed) @ sums
  return totals[:, :-1] / totals[:, -1:]


def _effective(means: np.ndarray) -> np.ndarray:
  """exp(entropy) [...] of shares [..., values], 0 where all are 0."""
  return np.where(means.any(axis=-1), np.exp(metrics.entropy(means + 1e-12)), 0.0)


def _shares(rows: np.ndarray) -> np.ndarray:
  """rows [clips, values] over their sums; 0 where these are 0."""
  return rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-9)
