"""Pictures of the report: mel spectrograms as PNG, charts as SVG that follow the page's colours."""

import base64
import io
import re

import numpy as np

from musiclm_jax import spectrograms

_WINDOW, _HOP, _MELS = 1024, 480, 64
_INK = "#010203"  # stands for the colour of the text around
SERIES = {"train": "#6f8fb8", "eval": "#d0662f", "chance": "#8a8a8a"}


def spectrogram(waveform: np.ndarray, sample_rate: int) -> str:
  """A data URI of a PNG: log-mel spectrogram of [samples], low pitches below, time to the right."""
  from matplotlib import colormaps
  from PIL import Image

  x = np.asarray(
    spectrograms.log_mel(
      waveform, sample_rate=sample_rate, window=_WINDOW, hop=_HOP, num_mels=_MELS, fmin=30.0
    )
  )
  low, high = np.log(spectrograms.LOG_FLOOR), np.log(1.0)
  levels = (255 * np.clip((x.T[::-1] - low) / (high - low), 0, 1)).astype(np.uint8)
  image = Image.fromarray(levels, "P")
  image.putpalette((colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8).tobytes())
  buffer = io.BytesIO()
  image.save(buffer, "PNG", optimize=True)
  return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def thinned(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
  """At most `most` of the points, the first and the last among them, evenly spread."""
  if len(points) <= most:
    return points
  return [points[i] for i in np.linspace(0, len(points) - 1, most).round().astype(int)]


def loss_chart(name: str, lines: list[dict]) -> str:
  """SVG of the losses of one training: `lines` of metrics.jsonl, train, held-out and chance."""
  figure, axes = _axes(3.0, 1.9)
  for split in ("train", "eval"):
    points = [(line["step"], line["loss"]) for line in lines if line["split"] == split]
    if points:
      marker = "o" if split == "eval" else ""
      axes.plot(
        *zip(*thinned(points, 150)), color=SERIES[split], marker=marker, markersize=3.5, lw=1.4
      )
  chance = [(line["step"], line["chance"]) for line in lines if "chance" in line]
  if chance:
    axes.plot(*zip(*thinned(chance, 60)), color=SERIES["chance"], linestyle=(0, (4, 3)), lw=1)
  axes.set_title(name, loc="left", color=_INK, size=9)
  axes.set_xlabel("step")
  return _svg(figure, f"Losses of {name}")


def codec_chart(levels: list[dict], rivals: list[dict]) -> str:
  """SVG of the log-mel distance over that of silence by bit rate, of our levels and of rivals."""
  figure, axes = _axes(3.0, 1.9)
  for rows, color in ((levels, SERIES["eval"]), (rivals, SERIES["train"])):
    x = [row["bits_per_second"] / 1000 for row in rows]
    y = [row["log_mel_ratio"] for row in rows]
    axes.plot(x, y, color=color, marker="o", markersize=3.5, lw=1.4)
  axes.set_xscale("log")
  ticks = (0.5, 1, 2, 5, 10, 20)
  axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
  axes.minorticks_off()
  axes.axhline(1.0, color=SERIES["chance"], linestyle=(0, (4, 3)), lw=1)
  axes.axhline(0.6, color=SERIES["train"], linestyle=(0, (1, 2)), lw=1.2)
  axes.set_ylim(bottom=0)
  axes.set_title("log-mel distance, silence = 1", loc="left", color=_INK, size=9)
  axes.set_xlabel("kbit/s")
  return _svg(figure, "Rate and distortion of the codec")


def usage_chart(title: str, usage: list[dict]) -> str:
  """SVG of the perplexity of the codes of each level as a share of the codebook."""
  figure, axes = _axes(3.0, 1.9)
  x = np.arange(1, len(usage) + 1)
  axes.bar(x, [row["perplexity_share"] for row in usage], color=SERIES["train"], width=0.7)
  axes.set_xticks(x[:: 1 + len(x) // 13])
  axes.set_ylim(0, 1)
  axes.set_title(title, loc="left", color=_INK, size=9)
  axes.set_xlabel("level")
  return _svg(figure, f"Codebook use: {title}")


def _axes(width: float, height: float):
  """A figure of inches and its axes, in the report's manner."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout="constrained")
  axes = figure.subplots()
  axes.set_facecolor("none")
  for side in ("top", "right"):
    axes.spines[side].set_visible(False)
  for side in ("left", "bottom"):
    axes.spines[side].set_color(_INK)
  axes.tick_params(colors=_INK, labelsize=8, length=2)
  axes.xaxis.label.set(color=_INK, size=8)
  return figure, axes


def _svg(figure, label: str) -> str:
  """The figure as an SVG element that takes the width and the text colour of the page."""
  from matplotlib import rc_context

  buffer = io.StringIO()
  # by the label, ids differ between the charts of one page
  with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
  text = buffer.getvalue()
  text = text[text.index("<svg") :].replace(_INK, "currentColor")
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
  head, _, rest = text.partition(">")
  head = re.sub(r'\s(width|height)="[^"]*"', "", head)
  return f'{head} role="img" aria-label="{label}">{rest}'
