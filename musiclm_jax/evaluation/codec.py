"""How good the codec is on held-out works: rate and distortion, beside Opus on the same clips."""

import dataclasses
import functools
import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import soundfile

from musiclm_jax import spectrograms
from musiclm_jax.embedders.batches import in_batches
from musiclm_jax.evaluation import metrics, page, pictures
from musiclm_jax.evaluation.held_out import HeldOut
from musiclm_jax.ranges import PositiveFloat, PositiveInt
from musiclm_jax.tokenizers.soundstream import log_mel_distance, si_snr

_MEASURES = ("log_mel", "si_snr", "stft")
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_STFT_WINDOWS = (512, 1024, 2048)
_LOG_MEL_TARGET = 0.6  # over the distance of silence


def stft_distance(x, y):
  """Multi-resolution STFT distance [batch] of y to x [batch, samples], 0 for equal waveforms.

  Spectral convergence plus the mean absolute difference of log magnitudes, a mean over windows of
  512, 1024 and 2048 samples with a hop of a quarter (Parallel WaveGAN, 1910.11480, Section 2.2).
  """
  distances = []
  for window in _STFT_WINDOWS:
    a, b = (jnp.abs(spectrograms.stft(z, window=window, hop=window // 4)) for z in (x, y))
    norms = [jnp.sqrt(jnp.square(z).sum(axis=(1, 2))) for z in (a - b, a)]
    logs = [jnp.log(jnp.maximum(z, spectrograms.LOG_FLOOR)) for z in (a, b)]
    difference = jnp.abs(logs[0] - logs[1]).mean(axis=(1, 2))
    distances.append(norms[0] / jnp.maximum(norms[1], spectrograms.LOG_FLOOR) + difference)
  return sum(distances) / len(distances)


def through_opus(waveform: np.ndarray, sample_rate: int, kbps: float) -> tuple[np.ndarray, float]:
  """The round trip [samples] of a waveform [samples] through Opus, and the size in bits.

  `kbps`, from 6 to 256, is the bit rate that the encoder aims at; the size is that of the whole Ogg
  file. Raises ValueError for a sample rate that Opus does not support.
  """
  if sample_rate not in _OPUS_RATES:
    raise ValueError(
      f"Opus does not support {sample_rate} Hz, only {_OPUS_RATES}: set opus_kbps to ()"
    )
  file = io.BytesIO()
  level = 1 - (kbps - 6) / 250  # libsndfile's scale of bit rates
  with soundfile.SoundFile(
    file, "w", sample_rate, 1, "OPUS", format="OGG", compression_level=level
  ) as writer:
    writer.write(waveform)
  bits = 8 * file.tell()
  file.seek(0)
  decoded, _ = soundfile.read(file, dtype="float32")
  return decoded[: len(waveform)], bits


@dataclasses.dataclass(frozen=True)
class Codec:
  """Distortion of the first `seconds` of `clips` clips after a round trip.

  Through the first levels of the codec, for each number in `levels`, and through Opus at each of
  `opus_kbps`. Codebook use is that of the token shards of all clips.
  """

  clips: PositiveInt
  seconds: PositiveFloat
  levels: tuple[PositiveInt, ...]
  opus_kbps: tuple[PositiveFloat, ...]
  batch_size: PositiveInt

  name = "codec"
  parts = ("soundstream",)

  def __call__(self, held_out: HeldOut, out_dir: str) -> dict:
    codec = held_out.part("soundstream")
    hop, codebook_size = codec.module.hop, codec.module.codebook_size
    seconds = math.floor(self.seconds * held_out.sample_rate / hop) * hop / held_out.sample_rate
    waveforms = held_out.waveforms(seconds, self.clips)
    compare = functools.partial(_compare, held_out.sample_rate)
    silence = in_batches(lambda x: compare(x, np.zeros_like(x)), waveforms, self.batch_size)
    silence = float(silence[:, 0].mean())
    usage = metrics.code_usage(
      np.concatenate([row["acoustic"] for row in held_out.shards]), codebook_size
    )
    table, rate = [], codec.module.frame_rate
    for levels in (n for n in self.levels if n <= codec.module.num_quantizers):
      measure = functools.partial(_round_trip, codec, levels, compare)
      row = _means(in_batches(measure, waveforms, self.batch_size), silence)
      row["bits_per_second"] = rate * levels * math.log2(codebook_size)
      row["entropy_bits_per_second"] = rate * sum(u["entropy_bits"] for u in usage[:levels])
      table.append({"levels": levels} | row)
    opus = [self._opus(kbps, waveforms, held_out.sample_rate, silence) for kbps in self.opus_kbps]
    figures = _figures(table, usage, silence)
    return {"figures": figures, "levels": table, "opus": opus, "usage": usage}

  @staticmethod
  def show(results: dict, out_dir: str) -> str:
    """Rate and distortion as a chart and a table, and the use of the codebooks."""
    levels, opus = results["levels"], results["opus"]
    keys = ("log_mel", "log_mel_ratio", "si_snr", "stft", "bits_per_second")
    rows = [
      [
        f"{row['levels']} level{'s' * (row['levels'] > 1)}",
        *(page.amount(row[key]) for key in keys),
      ]
      for row in levels
    ]
    rows += [
      [f"Opus, {row['kbps']:g} kbps", *(page.amount(row[key]) for key in keys)] for row in opus
    ]
    head = ["", "log-mel", "over silence's", "SI-SNR dB", "STFT", "bits/s"]
    charts = page.charts(_chart(levels, opus), pictures.usage_chart("codec", results["usage"]))
    note = (
      "Round trips of held-out clips: multi-scale log-mel and multi-resolution STFT distance, "
      "SI-SNR. Orange: the codec by number of levels; blue: Opus at its measured rate; dashed: "
      "silence; dotted: the target."
    )
    inner = charts + page.table(head, rows) + page.usage_table(results["usage"])
    return page.section("Codec", note, inner)

  def _opus(self, kbps: float, waveforms, sample_rate: int, silence: float) -> dict[str, float]:
    decoded, bits = zip(*(through_opus(waveform, sample_rate, kbps) for waveform in waveforms))
    decoded = np.stack(decoded)
    size = self.batch_size
    rows = [
      _compare(sample_rate, waveforms[i : i + size], decoded[i : i + size])
      for i in range(0, len(waveforms), size)
    ]
    row = _means(np.concatenate(rows), silence)
    return {"kbps": kbps, **row, "bits_per_second": sum(bits) * sample_rate / waveforms.size}


def _round_trip(codec, levels: int, compare, x: np.ndarray) -> np.ndarray:
  """The measures [batch, 3] of the round trip of x [batch, samples] through the first levels."""
  return compare(x, codec("decode", codec("encode", x)[..., :levels]))


@functools.partial(jax.jit, static_argnums=0)
def _compare(sample_rate: int, x, y):
  measures = [log_mel_distance(x, y, sample_rate), si_snr(x, y), stft_distance(x, y)]
  return jnp.stack(measures, axis=-1)


def _means(measures: np.ndarray, silence: float) -> dict[str, float]:
  """{measure: mean} of [clips, 3], and the log-mel distance over that of silence."""
  row = dict(zip(_MEASURES, map(float, measures.mean(axis=0))))
  return row | {"log_mel_ratio": row["log_mel"] / silence}


def _figures(table, usage, silence: float) -> dict:
  first = [row["log_mel_ratio"] for row in table if row["levels"] <= 4]
  full = table[-1]
  figures = {
    "log_mel_ratio": metrics.figure(
      full["log_mel_ratio"], f"<= {_LOG_MEL_TARGET}", baseline=1.0, baseline_is="silence"
    ),
    "si_snr_db": metrics.figure(full["si_snr"]),
    "stft_distance": metrics.figure(full["stft"]),
    "bits_per_second": metrics.figure(full["bits_per_second"]),
    "entropy_bits_per_second": metrics.figure(
      full["entropy_bits_per_second"],
      baseline=full["bits_per_second"],
      baseline_is="all codes equally often",
    ),
    "silence_log_mel": metrics.figure(silence),
    "perplexity_share_of_first_levels": metrics.figure(
      min(u["perplexity_share"] for u in usage[:4]),
      ">= 0.1",
      baseline=1.0,
      baseline_is="all codes equally often",
    ),
  }
  if len(first) > 1:
    figures["largest_step_up_to_4_levels"] = metrics.figure(
      max(np.diff(first)), "< 0", baseline=0.0, baseline_is="a level that adds nothing"
    )
  return figures


def _chart(levels: list[dict], opus: list[dict]) -> str:
  """SVG of the log-mel distance over that of silence by bit rate."""
  figure, plot = pictures.axes("log-mel distance, silence = 1", "kbit/s")
  for rows, color in ((levels, pictures.SERIES["eval"]), (opus, pictures.SERIES["train"])):
    x = [row["bits_per_second"] / 1000 for row in rows]
    y = [row["log_mel_ratio"] for row in rows]
    plot.plot(x, y, color=color, marker="o", markersize=3.5, lw=1.4)
  plot.set_xscale("log")
  ticks = (0.5, 1, 2, 5, 10, 20)
  plot.set_xticks(ticks, [f"{t:g}" for t in ticks])
  plot.minorticks_off()
  plot.axhline(1.0, color=pictures.SERIES["chance"], linestyle=(0, (4, 3)), lw=1)
  plot.axhline(_LOG_MEL_TARGET, color=pictures.SERIES["train"], linestyle=(0, (1, 2)), lw=1.2)
  plot.set_ylim(bottom=0)
  return pictures.svg(figure, "Rate and distortion of the codec")
