"""The page: complete, self-contained, escaped, and with every missed target."""

import html.parser
import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from musiclm_jax import audio
from musiclm_jax.evaluation import metrics, page, pictures
from musiclm_jax.evaluation.report import read_runs, report

RATE = 24000
CAPTION = "A <b>slow</b> & quiet \"waltz\" <script>alert('x')</script>"
USAGE = [{"entropy_bits": 2.0, "perplexity": 4.0, "perplexity_share": 0.5, "used": 1.0}] * 3


def found(value):
  return {"recall_at_1": value, "chance_at_1": 0.01, "recall_at_10": value, "chance_at_10": 0.1,
          "mrr": value, "chance_mrr": 0.05, "queries": 200}  # fmt: skip


def results():
  """Results of all sections but two, as evaluate writes them."""
  level = {
    "log_mel": 1.0,
    "si_snr": -3.0,
    "stft": 1.2,
    "bits_per_second": 4800.0,
    "entropy_bits_per_second": 4e3,
  }
  test = {"value": 0.3, "shuffled": 0.1, "z": 2.0, "p": 0.01}
  kinds = ("real", "roundtrip", "generated")
  shown = {"caption": CAPTION, "bpm": 90.0, "family": "brass", "key": "D major"}
  heard = metrics.figure(0.7, baseline=1.0, baseline_is="real clips", interval=(0.6, 0.8))
  losses = {"loss": 3.0, "other_condition": 3.2, "unigram": 4.0, "held_out_entropy": 3.9}
  return {
    "codec": {
      "section": "musiclm_jax.evaluation.codec.Codec",
      "figures": {
        "log_mel_ratio": metrics.figure(0.5, "<= 0.6", baseline=1, baseline_is="silence")
      },
      "levels": [level | {"levels": n, "log_mel_ratio": 1 / n} for n in (1, 2, 4)],
      "opus": [level | {"kbps": 12, "log_mel_ratio": 0.1}],
      "usage": USAGE,
    },
    "round_trip": {
      "section": "musiclm_jax.evaluation.round_trip.RoundTrip",
      "figures": {"note_f_measure": heard},
      "levels": [4, 12],
      "rows": [{"note_f_measure": heard}] * 2,
      "distances": {
        "real": {
          "kernel": -1.0,
          "kernel_interval": None,
          "frechet": 2.0,
          "frechet_limit": None,
          "rows": 4,
        }
      },
    },
    "resynthesis": {
      "section": "musiclm_jax.evaluation.resynthesis.Resynthesis",
      "figures": {"chroma_correlation": heard},
      "rows": dict.fromkeys(("own", "swapped", "round_trip"), {"chroma_correlation": heard}),
      "stage": "coarse",
    },
    "layers": {
      "section": "musiclm_jax.evaluation.layers.Layers",
      "figures": {"best": metrics.figure(0.7)},
      "rows": [
        {"layer": 0, "pitch": 0.7, "instrument": 0.6, "codebook_use": 0.5}
        | {"probes": dict.fromkeys(("pitch_class", "family", "onset"), heard)}
      ],
    },
    "mulan": {
      "section": "musiclm_jax.evaluation.retrieval.MuLan",
      "tags": {"<calm>": 0.7},
      "figures": {"recall": metrics.figure(0.2, ">= 0.4", baseline=0.1, baseline_is="chance")},
      "retrieval": {"text_to_audio": found(0.2)},
      "usage": USAGE,
    },
    "coarse": {
      "section": "musiclm_jax.evaluation.stages.StageLoss",
      "figures": {"p": metrics.figure(0.5)},
      "levels": [losses | {"level": 0}],
      "stage": "coarse",
    },
    "generation": {
      "section": "musiclm_jax.evaluation.generated.Generation",
      "figures": {
        "prompts": metrics.figure(1, ">= 1"),
        "frechet_distance": metrics.figure(3.0, too_few="4 patches, at least 201 are needed"),
        "notes_share": metrics.figure(0.4, interval=(0.3, 0.5)),
      },
      "shown": [shown | {kind: f"audio/00_{kind}.wav" for kind in kinds}],
      "adherence": {"family": {kind: test for kind in kinds}},
      "distances": dict.fromkeys(
        kinds,
        {
          "kernel": 3.0,
          "kernel_interval": [2.0, 4.0],
          "frechet": 2.0,
          "frechet_limit": None,
          "rows": 4,
        },
      ),
      "notes_at_once": dict.fromkeys(kinds, 1.5),
    },
  }


@pytest.fixture
def out(tmp_path):
  """A directory as `evaluate` leaves it, beside runs."""
  for kind, level in (("real", 0.5), ("roundtrip", 0.1), ("generated", 0.0)):
    waveform = level * np.sin(np.arange(RATE) / 20, dtype=np.float32)
    audio.write(str(tmp_path / "out" / "audio" / f"00_{kind}.wav"), waveform, RATE)
  timed = {name: {"took_seconds": 1.5, **result} for name, result in results().items()}
  (tmp_path / "out" / "metrics.json").write_text(json.dumps(timed))
  run = tmp_path / "runs" / "soundstream"
  run.mkdir(parents=True)
  lines = [{"step": s, "split": "train", "loss": 9 / s, "chance": 8.0} for s in (1, 2, 3)]
  lines.append({"step": 3, "split": "eval", "loss": 3.5, "chance": 8.0})
  (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  (tmp_path / "progress.json").write_text(json.dumps({"train demo/soundstream": 64.2}))
  return tmp_path


def write_report(out):
  path = report(
    out_dir=str(out / "out"),
    runs_dir=str(out / "runs"),
    progress=str(out / "progress.json"),
    title="MusicLM & demo",
  )
  with open(path) as file:
    return file.read()


class Links(html.parser.HTMLParser):
  """Collects what a browser would fetch, and the tags."""

  def __init__(self, text):
    super().__init__()
    self.fetched, self.tags = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag in ("img", "audio", "script", "link", "iframe", "source"):
      values = dict(attrs)
      self.fetched.append((tag, values.get("src") or values.get("href")))


def test_nothing_is_fetched_but_the_wavs_beside_it(out):
  text = write_report(out)
  links = Links(text)
  assert "script" not in links.tags and "link" not in links.tags and "@import" not in text
  for tag, source in links.fetched:
    assert source.startswith("data:image/png") if tag == "img" else source.startswith("audio/")
    if tag == "audio":
      assert (out / "out" / source).is_file()
  assert [tag for tag, _ in links.fetched].count("audio") == 3
  outside = re.findall(r"(?:src|href)=\"(?!data:|audio/|#)[^\"]*", text)
  assert not outside and "url(http" not in text


def test_a_caption_is_text_not_markup(out):
  text = write_report(out)
  assert "&lt;script&gt;alert" in text and "<script" not in text
  assert "MusicLM &amp; demo" in text and "&lt;calm&gt;" in text


def test_what_was_missed_is_at_the_top(out):
  text = write_report(out)
  assert "<b>2 of 3</b> targets met" in text
  top = text[: text.index("<section>")]
  assert "mulan: recall" in top and "wanted &gt;= 0.4" in top
  assert text.count("class=bad>missed") == 1


def test_intervals_are_beside_their_values(out):
  assert (
    write_report(out).count("0.7 (0.6 to 0.8)") == 10
  )  # in the tables of three sections and of all


def test_charts_tables_and_commands_are_there(out):
  text = write_report(out)
  for wanted in ("Losses of soundstream", "Rate and distortion", "train demo/soundstream", "64.2"):
    assert wanted in text
  for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
    element = xml.etree.ElementTree.fromstring(chart)  # well formed
    assert "width" not in element.attrib and "viewBox" in element.attrib
  assert "currentColor" in text  # charts follow a dark page


def test_the_same_results_give_the_same_page(out):
  assert write_report(out) == write_report(out)


def test_no_progress_file_is_no_error(out):
  (out / "progress.json").unlink()
  assert "evaluation: codec" in write_report(out)


def change(out, edit):
  """Changes the results on disk."""
  path = out / "out" / "metrics.json"
  found = json.loads(path.read_text())
  edit(found)
  path.write_text(json.dumps(found))


def test_sections_are_shown_in_the_order_of_the_results_and_one_alone_is_enough(out):
  text = write_report(out)
  shown = [
    "Codec",
    "What is heard after the codec",
    "Resynthesis from real conditions",
    "Layers of w2v-BERT",
    "MuLan: text and audio",
    "Coarse stage",
    "Listen",
  ]
  titles = [*shown, "Does it follow the prompt?", "Trainings", "All figures", "How it was made"]
  assert re.findall(r"<h2>(.*?)</h2>", text) == titles

  def keep_coarse(found):
    for name in set(found) - {"coarse"}:
      del found[name]

  change(out, keep_coarse)
  assert re.findall(r"<h2>(.*?)</h2>", write_report(out)) == [titles[5], *titles[-3:]]


def test_a_figure_of_too_few_observations_is_marked(out):
  text = write_report(out)
  assert text.count("4 patches, at least 201 are needed") == 1


class Silent:
  """A section from outside the package that has nothing to show."""

  @staticmethod
  def show(results, out_dir):
    return None


def test_a_section_may_come_from_anywhere_and_show_nothing(out):
  change(out, lambda found: found["layers"].update(section=f"{__name__}.Silent"))
  text = write_report(out)
  assert "Layers of w2v-BERT" not in text and "<td>layers</td>" in text


@pytest.mark.parametrize(
  ("edit", "message"),
  [
    (lambda found: found["codec"].pop("section"), "codec has no 'section'"),
    (lambda found: found["codec"].update(section="nowhere.Codec"), "no section 'nowhere.Codec'"),
    (lambda found: found["codec"].update(section="musiclm_jax.audio.Codec"), "no section"),
    (lambda found: found["codec"].pop("opus"), "codec has no 'opus'"),
    (lambda found: found["generation"]["shown"][0].update(real="audio/x.wav"), "audio/x.wav"),
  ],
)
def test_results_that_cannot_be_shown_are_one_line(out, edit, message):
  change(out, edit)
  with pytest.raises(ValueError) as caught:
    write_report(out)
  assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["out/metrics.json", "runs/soundstream/metrics.jsonl"])
def test_what_is_missing_is_named(out, name):
  (out / name).unlink()
  with pytest.raises(ValueError, match=name if name.startswith("out") else "runs: no run"):
    write_report(out)


def test_a_repeated_step_counts_once_half_a_line_not_and_a_broken_one_is_named(out):
  path = out / "runs" / "soundstream" / "metrics.jsonl"
  with path.open("a") as file:
    file.write(json.dumps({"step": 3, "split": "train", "loss": 2.5, "chance": 8.0}) + "\n")
  lines = [line for line in read_runs(str(out / "runs"))["soundstream"] if line["split"] == "train"]
  assert [line["loss"] for line in lines] == [9, 4.5, 2.5]
  with path.open("a") as file:
    file.write('{"step": 4, "spl')
  assert len(read_runs(str(out / "runs"))["soundstream"]) == 4
  with path.open("a") as file:
    file.write("\n")
  with pytest.raises(ValueError, match=r"metrics.jsonl:6"):
    read_runs(str(out / "runs"))


@pytest.mark.parametrize(
  ("value", "text"),
  [(0.12345, "0.123"), (24000.0, "24,000"), (3.0, "3"), (0.0, "0"), (-0.5, "-0.5"), (100.0, "100"),
   (1234.5, "1,234"), (0.00012, "1.2e-04"), (-61.234, "-61.2"), (9.999, "10")],
)  # fmt: skip
def test_amounts(value, text):
  assert page.amount(value) == text


def test_a_spectrogram_shows_low_notes_below():
  import base64
  import io

  from PIL import Image

  tone = 0.5 * np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE).astype(np.float32)
  data = pictures.spectrogram(tone, RATE).removeprefix("data:image/png;base64,")
  image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
  brightest = image.mean(axis=1).argmax()
  assert brightest > 0.8 * len(image)


def test_thinning_keeps_the_ends():
  points = [(i, i * i) for i in range(1000)]
  kept = pictures.thinned(points, 50)
  assert len(kept) == 50 and kept[0] == points[0] and kept[-1] == points[-1]
  assert pictures.thinned(points[:10], 50) == points[:10]
