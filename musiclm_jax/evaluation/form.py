"""Long pieces: whether they stay in their key and beat, and whether an ending ends.

The built-in corpus renders the real pieces to compare with: held-out works, as long.
"""

import dataclasses
import pathlib
import tempfile

import numpy as np

from musiclm_jax import audio
from musiclm_jax.datasets import catalogue, corpus_clips, soundfonts
from musiclm_jax.embedders import packages
from musiclm_jax.embedders.batches import in_batches
from musiclm_jax.evaluation import adherence, metrics, page, transcriber
from musiclm_jax.evaluation.generated import choose_prompts, prompt
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.lm.composer import Composer
from musiclm_jax.ranges import PositiveFloat, PositiveInt, Seed

_EDGE = 10.0  # seconds at the beginning and at the end, whose levels are compared
_CLOSE = 1.0  # seconds that tell an ending
_RATIOS, _LEVEL = ("key_of_halves", "beat"), "level_difference_db"


@dataclasses.dataclass(frozen=True)
class Form:
  """`pieces` pieces of `seconds` from captions of held-out clips, and as many real ones.

  Measured are the agreement of the halves' keys, the regularity of onsets and how far the level
  moves; then the same prompts with an ending are compared with those without, where the bundle
  knows ends. `stated` is as of generated.Generation. `wanted` is {figure: comparison}. Raises
  ValueError for a target of another figure, and where a package of the listeners is not
  installed.
  """

  pieces: PositiveInt
  seconds: PositiveFloat
  stated: str
  wanted: dict[str, str]
  batch_size: PositiveInt
  seed: Seed

  name = "form"
  parts = ("bundle",)

  def __post_init__(self):
    packages.check()
    ratios = (f"{name}_of_real" for name in _RATIOS)
    metrics.check_wanted(self.wanted, (*ratios, _LEVEL, "ending_fades_p", "ending_on_tonic_p"))

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    clips = [held_out.clips[i] for i in choose_prompts(held_out.clips, self.pieces, self.seed)]
    composer, rate = Composer(held_out.bundle), held_out.sample_rate
    music = self._compose(composer, clips, {})
    real = real_pieces(clips, self.seconds, self.seed)
    found = {kind: measures(x, rate) for kind, x in (("generated", music), ("real", real))}
    figures = {}
    for name in (*_RATIOS, _LEVEL):
      value, baseline = (float(np.mean(found[kind][name])) for kind in ("generated", "real"))
      figures[name] = metrics.figure(
        value, self.wanted.get(name, ""), baseline=baseline, baseline_is="real pieces"
      )
      if name in _RATIOS:
        of_real = f"{name}_of_real"
        figures[of_real] = metrics.figure(value / max(baseline, 1e-9), self.wanted.get(of_real, ""))
    if "end_s" in composer.facts:
      ends = self._compose(composer, clips, {"end_s": self.seconds})
      tonics = [adherence.parse_key(clip["key"])[0] for clip in clips]
      for name, (with_end, without) in (
        ("ending_fades", [fading(x, rate) for x in (ends, music)]),
        ("ending_on_tonic", [on_tonic(x, rate, tonics) for x in (ends, music)]),
      ):
        figures[name] = metrics.figure(
          with_end.mean(), baseline=without.mean(), baseline_is="without an ending"
        )
        p = f"{name}_p"
        figures[p] = metrics.figure(metrics.paired(without, with_end)["p"], self.wanted.get(p, ""))
    return {"figures": figures}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """A table of the figures."""
    rows = [
      [name.replace("_", " "), page.amount(figure["value"]), page.amount(figure["baseline"])]
      for name, figure in results["figures"].items()
      if figure["baseline"] is not None
    ]
    note = (
      "Pieces much longer than a window: the MIREX score of the second half's key for the first "
      "one's, the highest peak of the onsets' autocorrelation, and how far the level of the last "
      "10 s is from that of the first; beside real pieces of held-out works. Endings: how far the "
      "last second is below the piece, and the share of its notes on the tonic."
    )
    return page.section("Long pieces", note, page.table(["", "generated", "beside"], rows))

  def _compose(self, composer: Composer, clips: list[dict], facts: dict) -> np.ndarray:
    captions = np.array([prompt(clip, self.stated) for clip in clips])

    def write(some):
      return composer.waveforms(list(some), self.seconds, self.seed, facts=facts)

    return in_batches(write, captions, self.batch_size)


def real_pieces(clips: list[dict], seconds: float, seed: int) -> np.ndarray:
  """The works of clips of the built-in corpus, rendered for `seconds` [clips, samples] at 24 kHz.

  Raises ValueError for a work that the catalogue does not have, and for one in which no passage is
  so long.
  """
  works = {work.id: work for work in catalogue.list_works()}
  pieces = []
  with tempfile.TemporaryDirectory() as folder:
    soundfont = soundfonts.write_corrected("", pathlib.Path(folder))
    for clip in clips:
      if clip["work"] not in works:
        raise ValueError(f"form: no work {clip['work']!r} in the catalogue of the built-in corpus")
      job = corpus_clips.Job(works[clip["work"]], seed, soundfont, "", seconds, 1, 1, False)
      if not (records := corpus_clips.render_work(job)):
        raise ValueError(f"form: no passage of {seconds:g} s in {clip['work']}")
      pieces.append(audio.from_int16(records[0]["waveform"]))
  return np.stack(pieces)


def measures(music: np.ndarray, sample_rate: int) -> dict[str, np.ndarray]:
  """{measure: values [pieces]} of music [pieces, samples]."""
  halves = np.array_split(music, 2, axis=1)
  first, second = (
    adherence.keys(transcriber.note_chroma(transcriber.transcribe(half, sample_rate)[0]))
    for half in halves
  )
  edge = min(round(_EDGE * sample_rate), music.shape[1] // 2)
  return {
    "key_of_halves": np.diagonal(adherence.key_agreement(first, second)),
    "beat": adherence.regularity(music, sample_rate),
    _LEVEL: np.abs(level(music[:, -edge:]) - level(music[:, :edge])),
  }


def level(music: np.ndarray) -> np.ndarray:
  """RMS [pieces] in dB of full scale of music [pieces, samples]."""
  return 10 * np.log10(np.maximum(np.square(music).mean(axis=1), 1e-10))


def fading(music: np.ndarray, sample_rate: int) -> np.ndarray:
  """How far [pieces] the level of the last second is below that of the whole piece, in dB."""
  return level(music) - level(music[:, -round(_CLOSE * sample_rate) :])


def on_tonic(music: np.ndarray, sample_rate: int, tonics: list[int]) -> np.ndarray:
  """The share [pieces] of the last second's notes that are on the tonic, 0 in silence.

  That second ends with the last audible sound.
  """
  found = []
  for waveform, tonic in zip(music, tonics):
    loud = np.flatnonzero(np.abs(waveform) > 0.05 * np.abs(waveform).max())
    end = loud[-1] + 1 if len(loud) else len(waveform)
    last = waveform[max(0, end - round(_CLOSE * sample_rate)) : end]
    chroma = transcriber.note_chroma(transcriber.transcribe(last[None], sample_rate)[0])[0]
    found.append(float(chroma[:, tonic].sum() / max(chroma.sum(), 1e-9)))
  return np.array(found)
