"""One page to listen to and to judge by: report.html, which opens from disk with no network."""

import html
import json
import pathlib

import soundfile

from musiclm_jax import storage
from musiclm_jax.evaluation import pictures
from musiclm_jax.evaluation.page import STYLE, amount, bullet, mark, section, table
from musiclm_jax.training.progress import read_lines

_PLAYERS = (("generated", "generated"), ("real", "real clip"), ("roundtrip", "codec round trip"))


def report(*, out_dir: str, runs_dir: str, progress: str, title: str) -> str:
  """Writes out_dir/report.html from what `evaluate` left in out_dir, and gives its path.

  The wavs beside it are referred to by relative paths; pictures stand in the page. Loss curves are
  of all runs in runs_dir that have a metrics.jsonl; `progress` is the JSON file of commands and
  seconds, which may be absent. Raises ValueError, naming the path, where a result is missing.
  """
  path = pathlib.Path(out_dir, "metrics.json")
  if not path.is_file():
    raise ValueError(f"{path}: missing; run the evaluation first")
  results = json.loads(path.read_text())
  parts = [
    _summary(results),
    _listen(results, out_dir),
    _adherence(results),
    _losses(read_runs(runs_dir)),
    _codec(results),
    _usage(results),
    _layers(results),
    _retrieval(results),
    _stages(results),
    _figures(results),
    _how(results, progress),
  ]
  text = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
    f"<body><main><h1>{html.escape(title)}</h1>{''.join(parts)}</main></body></html>\n"
  )
  target = pathlib.Path(out_dir, "report.html")
  storage.write_text(target, text)
  return str(target)


def read_runs(runs_dir: str) -> dict[str, list[dict]]:
  """The lines of metrics.jsonl of every run, by its name, the oldest run first.

  Of a step that was repeated after a stop the later line counts, and half a line that a kill has
  left is none. Raises ValueError where there is no run, or a line is not JSON.
  """
  runs = {}
  paths = pathlib.Path(runs_dir).glob("*/metrics.jsonl")
  for path in sorted(paths, key=lambda p: p.stat().st_mtime):
    try:
      lines = {(line["step"], line["split"]): line for line in read_lines(path)}
    except KeyError as error:
      raise ValueError(f"{path}: a line is none of metrics: it has no {error}") from None
    runs[path.parent.name] = [lines[key] for key in sorted(lines)]
  if not runs:
    raise ValueError(f"{runs_dir}: no run with a metrics.jsonl")
  return runs


def _targets(results: dict) -> list[tuple[str, str, dict]]:
  """(section, name, figure) of all figures that have a target."""
  return [
    (part, name, figure)
    for part, result in results.items()
    for name, figure in result["figures"].items()
    if figure["met"] is not None
  ]


def _summary(results: dict) -> str:
  targets = _targets(results)
  missed = [(part, name, figure) for part, name, figure in targets if not figure["met"]]
  lines = [
    f"<p class=lead><b>{len(targets) - len(missed)} of {len(targets)}</b> targets met on works "
    "that no training has seen.</p>"
  ]
  if missed:
    items = (
      bullet(f"{part}: {name.replace('_', ' ')}", f"{amount(f['value'])}, wanted {f['wanted']}")
      for part, name, f in missed
    )
    lines.append(f"<p>Missed:</p><ul>{''.join(items)}</ul>")
  return "".join(lines)


def _listen(results: dict, out_dir: str) -> str:
  """A card for each prompt: caption, three players, three pictures."""
  if "generation" not in results:
    return ""
  cards = []
  for shown in results["generation"]["shown"]:
    players = []
    for kind, label in _PLAYERS:
      # not audio.read, which refuses silence: the page shows what there is
      waveform, sample_rate = soundfile.read(pathlib.Path(out_dir, shown[kind]), dtype="float32")
      picture = pictures.spectrogram(waveform, sample_rate)
      source = html.escape(shown[kind], quote=True)
      players.append(
        f"<figure><figcaption>{label}</figcaption>"
        f'<img src="{picture}" alt="mel spectrogram, {label}">'
        f'<audio controls preload="none" src="{source}"></audio></figure>'
      )
    facts = f"{shown['family']}, {shown['bpm']:.0f} bpm, {shown['key']}"
    cards.append(
      f"<article><blockquote>{html.escape(shown['caption'])}</blockquote>"
      f"<p class=note>{html.escape(facts)}</p><div class=players>{''.join(players)}</div></article>"
    )
  note = (
    "Prompts are captions of held-out clips. Generated: from the text alone. Real clip: the one "
    "the caption was written for. Round trip: that clip through the codec, the best the music "
    "could sound. Pictures: 64 mel bands, low below, time to the right."
  )
  return section("Listen", note, "".join(cards))


def _adherence(results: dict) -> str:
  if "generation" not in results:
    return ""
  result = results["generation"]
  rows = []
  for measure, tests in result["adherence"].items():
    for kind, label in _PLAYERS:
      test = tests[kind]
      values = [amount(test["value"]), amount(test["shuffled"]), f"{test['p']:.2g}"]
      rows.append([measure.replace("_", " "), label, *values])
  note = (
    "Does the output fit its own prompt better than shuffled prompts? One-sided permutation tests; "
    "family: mean probability of the prompted instrument family by a classifier of MFCC statistics "
    "that learned from real clips; tempo and onset rate: rank correlation with the prompted bpm. "
    "Own MuLan is the model that conditioned the music, so no independent witness. Real clips and "
    "round trips say what a measure can show at best."
  )
  head = ["measure", "audio", "own prompt", "shuffled", "p"]
  accuracies = [[k.replace("_", " "), amount(v)] for k, v in result["accuracy"].items()]
  distances = [[k, amount(v)] for k, v in result["frechet"].items()]
  inner = table(head, rows)
  inner += table(["accuracy of the family classifier", "share right"], accuracies)
  inner += table(
    ["Fréchet distance of MFCC means to held-out clips (few clips; not FAD)", ""], distances
  )
  return section("Does it follow the prompt?", note, inner)


def _losses(runs: dict[str, list[dict]]) -> str:
  charts = "".join(f"<div>{pictures.loss_chart(name, runs[name])}</div>" for name in runs)
  legend = "".join(
    f'<span><i style="background:{pictures.SERIES[key]}"></i>{label}</span>'
    for key, label in (("train", "train"), ("eval", "held-out"), ("chance", "chance"))
  )
  note = "Every training against the loss of knowing nothing. The units differ."
  return section("Trainings", note, f"<p class=legend>{legend}</p><div class=charts>{charts}</div>")


def _codec(results: dict) -> str:
  if "codec" not in results:
    return ""
  levels, rivals = results["codec"]["levels"], results["codec"]["opus"]
  keys = ("log_mel", "log_mel_ratio", "si_snr", "stft", "bits_per_second")
  rows = [[f"{row['levels']} levels", *(amount(row[key]) for key in keys)] for row in levels]
  rows += [[f"Opus, {row['kbps']:g} kbps", *(amount(row[key]) for key in keys)] for row in rivals]
  head = ["", "log-mel", "of silence's", "SI-SNR dB", "STFT", "bits/s"]
  chart = f"<div class=charts><div>{pictures.codec_chart(levels, rivals)}</div></div>"
  note = (
    "Round trips of held-out clips: multi-scale log-mel and multi-resolution STFT distance, "
    "SI-SNR. Orange: our levels; blue: Opus at its measured rate; dashed: silence; "
    "dotted: what was wanted."
  )
  return section("Codec", note, chart + table(head, rows))


def _usage(results: dict) -> str:
  charts, rows = [], []
  for name, result in results.items():
    if "usage" in result:
      charts.append(f"<div>{pictures.usage_chart(name, result['usage'])}</div>")
      for level, row in enumerate(result["usage"], start=1):
        values = (row["perplexity"], row["perplexity_share"], row["used"], row["entropy_bits"])
        rows.append([name, str(level), *(amount(v) for v in values)])
  head = ["codes", "level", "perplexity", "of the codebook", "codes used", "entropy bits"]
  details = f"<details><summary>all levels</summary>{table(head, rows)}</details>"
  note = "Perplexity of each level's codes on held-out clips as a share of its codebook."
  return section("Codebook use", note, f"<div class=charts>{''.join(charts)}</div>{details}")


def _layers(results: dict) -> str:
  if "layers" not in results:
    return ""
  keys = ("pitch", "instrument", "codebook_use")
  rows = [
    [str(row["layer"]), *(amount(row[key]) for key in keys)] for row in results["layers"]["rows"]
  ]
  head = ["layer", "ABX pitch class", "ABX instrument", "k-means use"]
  note = (
    "Is a frame nearer to one of the same pitch class (instrument) in another work than to one "
    "that differs in that alone? Chance is 0.5. Layer 0 is what the masked Conformer is given."
  )
  return section("Layers of w2v-BERT", note, table(head, rows))


def _retrieval(results: dict) -> str:
  rows = []
  for result in results.values():
    for name, found in result.get("retrieval", {}).items():
      cells = [
        f"{amount(found[key])} <small>({amount(found[chance])})</small>"
        for key, chance in (
          ("recall_at_1", "chance_at_1"),
          ("recall_at_10", "chance_at_10"),
          ("mrr", "chance_mrr"),
        )
      ]
      rows.append([name.replace("_", " "), *cells, str(found["queries"])])
  found = table(["", "recall@1", "recall@10", "MRR", "queries"], rows, safe=True)
  tags = results.get("mulan", {}).get("tags", {})
  areas = [[tag, amount(area)] for tag, area in sorted(tags.items(), key=lambda item: -item[1])]
  details = table(["aspect, by its text alone", "area under the ROC curve"], areas)
  note = "Share of queries with a right answer among the first 1 and 10; chance in brackets."
  return section("Retrieval", note, f"{found}<details><summary>tags</summary>{details}</details>")


def _stages(results: dict) -> str:
  rows = []
  for name, result in results.items():
    for row in result.get("levels", []) if "swapped" in result else []:
      keys = ("loss", "other_condition", "unigram", "held_out_entropy")
      rows.append([name, str(row["level"] + 1), *(amount(row[key]) for key in keys)])
  head = ["stage", "level", "loss", "other clip's condition", "unigram", "held-out entropy"]
  note = "Held-out nats per token. Unigram: a model of the train split's code frequencies alone."
  return section("Token models", note, table(head, rows))


def _figures(results: dict) -> str:
  rows = []
  for part, result in results.items():
    for name, figure in result["figures"].items():
      baseline = "" if figure["baseline"] is None else amount(figure["baseline"])
      where = f"{baseline} {html.escape(figure['baseline_is'])}".strip()
      rows.append(
        [
          part,
          name.replace("_", " "),
          amount(figure["value"]),
          where,
          html.escape(figure["wanted"]),
          mark(figure["met"]),
        ]
      )
  head = ["", "figure", "value", "baseline", "wanted", ""]
  note = "The same as in metrics.json."
  return section("All figures", note, table(head, rows, safe=True))


def _how(results: dict, progress: str) -> str:
  """Seconds of every command and of every part of the evaluation."""
  rows = [
    [f"evaluation: {name}", amount(result["took_seconds"])] for name, result in results.items()
  ]
  path = pathlib.Path(progress)
  if path.is_file():
    commands = json.loads(path.read_text())
    rows = [[f"musiclm {command}", amount(took)] for command, took in commands.items()] + rows
  note = "Commands in the order they ran."
  return section("How it was made", note, table(["command", "seconds"], rows))
