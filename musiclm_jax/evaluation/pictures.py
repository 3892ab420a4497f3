"""Pictures for the report: spectrograms as PNG, charts as SVG in the colours of the page."""

import base64
import io
import itertools
import re
import textwrap

import numpy as np

from musiclm_jax import spectrograms, storage

_WINDOW, _HOP, _BINS_PER_ROW = 2048, 480, 3
_HIGHEST_HZ = 8000
INK = "#010203"  # replaced by the page's text colour in the SVG
SERIES = {"train": "#6f8fb8", "eval": "#d0662f", "chance": "#8a8a8a"}


def spectrogram(waveform: np.ndarray, sample_rate: int) -> str:
  """A data URI of a PNG of [samples]: level from 0 to 8 kHz, low frequencies at the bottom.

  Frequencies are linear, so that overtones are even lines; 35 Hz are one row. Brightness is from
  90 to 10 dB below a sine of full scale.
  """
  from matplotlib import colormaps
  from PIL import Image

  image = Image.fromarray((255 * _levels(waveform, sample_rate)).astype(np.uint8), "P")
  image.putpalette((colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8).tobytes())
  buffer = io.BytesIO()
  image.save(buffer, "PNG", optimize=True)
  return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def save_spectrograms(
  path: str, waveforms: np.ndarray, titles: list[str], sample_rate: int
) -> None:
  """Writes a PNG of the spectrograms of [clips, samples], as in `spectrogram`, two in a row; whole
  or not at all.
  """
  from matplotlib.figure import Figure
  from PIL import Image

  columns = min(2, len(titles))
  rows = -(-len(titles) // columns)
  figure = Figure(figsize=(5 * columns, 1.9 * rows), dpi=100, layout="constrained")
  plots = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
  highest = min(_HIGHEST_HZ, sample_rate / 2) / 1000
  for plot, waveform, title in itertools.zip_longest(plots, waveforms, titles):
    if title is None:
      plot.axis("off")
      continue
    extent = (0, len(waveform) / sample_rate, 0, highest)
    levels = _levels(waveform, sample_rate)
    plot.imshow(levels, "magma", vmin=0, vmax=1, aspect="auto", extent=extent)
    plot.set_title("\n".join(textwrap.wrap(title, 76)), loc="left", size=7)
    plot.tick_params(labelsize=7, length=2)
  figure.supxlabel("seconds", size=8)
  figure.supylabel("kHz", size=8)
  drawn, small = io.BytesIO(), io.BytesIO()
  figure.savefig(drawn, format="png")
  Image.open(drawn).convert("RGB").quantize(64).save(small, "PNG", optimize=True)
  storage.write_bytes(path, small.getvalue())


def _levels(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
  """[rows, frames] in 0 .. 1 of [samples], the highest frequencies first."""
  padded = np.pad(waveform, (0, max(0, _WINDOW - len(waveform))))
  magnitudes = np.abs(spectrograms.stft(padded, window=_WINDOW, hop=_HOP))
  highest = min(_HIGHEST_HZ, sample_rate / 2)
  rows = int(highest * _WINDOW / sample_rate) // _BINS_PER_ROW
  bins = magnitudes[:, : rows * _BINS_PER_ROW].reshape(len(magnitudes), rows, _BINS_PER_ROW)
  decibels = 20 * np.log10(np.maximum(bins.max(axis=2), 1e-9) / (_WINDOW / 4))
  return np.clip((decibels.T[::-1] + 90) / 80, 0, 1)


def thinned(points: list[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
  """At most `limit` of the points, evenly spaced, with the first and the last."""
  if len(points) <= limit:
    return points
  return [points[i] for i in np.linspace(0, len(points) - 1, limit).round().astype(int)]


def loss_chart(name: str, lines: list[dict]) -> str:
  """SVG of one training's losses, from the lines of its metrics.jsonl: train, held-out, chance."""
  figure, plot = axes(name, "step")
  for split in ("train", "eval"):
    points = [(line["step"], line["loss"]) for line in lines if line["split"] == split]
    if points:
      marker = "o" if split == "eval" else ""
      plot.plot(
        *zip(*thinned(points, 150)), color=SERIES[split], marker=marker, markersize=3.5, lw=1.4
      )
  chance = [(line["step"], line["chance"]) for line in lines if "chance" in line]
  if chance:
    plot.plot(*zip(*thinned(chance, 60)), color=SERIES["chance"], linestyle=(0, (4, 3)), lw=1)
  return svg(figure, f"Losses of {name}")


def usage_chart(name: str, usage: list[dict]) -> str:
  """SVG of the codebook use of each level: the perplexity as a share of the codebook."""
  figure, plot = axes("codebook use: perplexity / size", "level")
  x = np.arange(1, len(usage) + 1)
  plot.bar(x, [row["perplexity_share"] for row in usage], color=SERIES["train"], width=0.7)
  plot.set_xticks(x[:: 1 + len(x) // 13])
  plot.set_ylim(0, 1)
  return svg(figure, f"Codebook use: {name}")


def bars(
  title: str, values: list[str], series: dict[str, list], intervals: dict[str, list] | None = None
) -> str:
  """SVG of a number of each value, one bar for each of `series` {name: [values]}.

  `intervals` has (low, high) of the bars of a series, or is None.
  """
  figure, plot = axes(title, "")
  thickness = 0.8 / len(series)
  figure.set_size_inches(3.6, 0.7 + max(0.16, 0.09 * len(series)) * len(values))
  places = np.arange(len(values))
  for index, (name, numbers) in enumerate(series.items()):
    y = places + (index - (len(series) - 1) / 2) * thickness
    plot.barh(y, numbers, thickness, label=name)
    if intervals and name in intervals:
      plot.hlines(y, *np.transpose(intervals[name]), color=INK, lw=0.8)
  plot.set_yticks(places, values)
  plot.set_ylim(len(values) - 0.4, -0.6)
  plot.locator_params(axis="x", nbins=5)
  figure.legend(
    *plot.get_legend_handles_labels(),
    loc="outside lower center",
    ncols=len(series),
    fontsize=7,
    frameon=False,
    labelcolor=INK,
  )
  return svg(figure, title)


def axes(title: str, label: str):
  """A small matplotlib figure and its axes, in the style of the page; `label` is the x axis's."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(3.0, 1.9), layout="constrained")
  plot = figure.subplots()
  plot.set_facecolor("none")
  for side in ("top", "right"):
    plot.spines[side].set_visible(False)
  for side in ("left", "bottom"):
    plot.spines[side].set_color(INK)
  plot.tick_params(colors=INK, labelsize=8, length=2)
  plot.set_title(title, loc="left", color=INK, size=9)
  plot.set_xlabel(label, color=INK, size=8)
  return figure, plot


def svg(figure, label: str) -> str:
  """The matplotlib figure as an SVG element with the width and the text colour of the page.

  `label` describes it to screen readers; each chart of a page needs one of its own.
  """
  from matplotlib import rc_context

  buffer = io.StringIO()
  # the salt keeps the ids of the charts of one page apart
  with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
  text = buffer.getvalue()
  text = text[text.index("<svg") :].replace(INK, "currentColor")
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
  head, _, rest = text.partition(">")
  head = re.sub(r'\s(width|height)="[^"]*"', "", head)
  return f'{head} role="img" aria-label="{label}">{rest}'
