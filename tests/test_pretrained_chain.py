"""From audio to music with published tokenizers alone, as a user runs it."""

import json

import numpy as np
import pytest
import soundfile

from musiclm_jax import main
from tests import published
from tests.test_text import roberta

pytestmark = pytest.mark.slow
RATES = "--acoustic_rate=50", "--semantic_rate=50"
CODES = "--acoustic_codes=16", "--fine_levels=4"  # EnCodec's 8 levels of 16 codes

WANTED = {"acoustic": (50, 16), "semantic": (50, 32)}  # Hz and codes


def musiclm(*words):
  assert main.main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A directory with three imported parts, what was trained on them, and a bundle."""
  made = tmp_path_factory.mktemp("made")
  for kind in ("encodec", "hubert", "clap"):
    folder = published.save(kind, tmp_path_factory.mktemp(kind))
    if kind == "clap":
      text_model = roberta(folder / "tokenizer.json")
    musiclm("import", folder, f"--model_dir={made / kind}")
  musiclm("prepare", "--size=tiny", f"--data_dir={made}/corpus")
  corpus = f"--data_dir={made}/corpus/rendered/tiny/1.0.0"
  parts = f"--w2v_bert={made}/hubert", f"--mulan={made}/clap", "--semantic_rate=50", "--layer=2"
  sources = "--sources=(%W2V_BERT_SOURCE, %MULAN_SOURCE)"
  musiclm("extract", "tiny/embeddings", corpus, sources, *parts, f"--output_dir={made}/embeddings")
  for name, dim in (("kmeans", 16), ("mulan_rvq", 12)):
    embeddings = f"--data_dir={made}/embeddings", f"--embed_dim={dim}"
    musiclm("train", f"tiny/{name}", *embeddings, f"--model_dir={made}/{name}")
  parts = f"--soundstream={made}/encodec", f"--kmeans={made}/kmeans", "--layer=2", *parts[:2]
  sources = "--sources=(%ACOUSTIC_SOURCE, %SEMANTIC_SOURCE, %MULAN_SOURCE)"
  musiclm("extract", "tiny/tokens", corpus, sources, *parts, *RATES, f"--output_dir={made}/tokens")
  rvq = f"--mulan_rvq={made}/mulan_rvq"
  for name, flags in (("semantic", [rvq]), ("coarse", [rvq, *CODES]), ("fine", CODES)):
    where = f"--data_dir={made}/tokens", f"--model_dir={made}/{name}"
    musiclm("train", f"tiny/{name}", *where, "--batch_size=8", *RATES, *flags)
  stages = [f"--{name}={made}/{name}" for name in ("semantic", "coarse", "fine", "mulan_rvq")]
  tokenizers = f"--soundstream={made}/encodec", f"--mulan={made}/clap"
  text = f"--text_model={text_model}", "--text_length=24"
  musiclm("export", f"--output_dir={made}/bundle", *text, *tokenizers, *stages)
  return made


def test_streams_follow_from_what_was_imported(made):
  sources = json.loads((made / "tokens/manifest.json").read_text())["sources"]
  found = {name: (sources[name]["frame_rate"], sources[name]["codebook_size"]) for name in WANTED}
  assert found == WANTED


def test_the_bundle_makes_music(made, tmp_path):
  out = tmp_path / "music.wav"
  musiclm("generate", "a calm flute", f"--bundle={made}/bundle", "--seconds=2", f"--out={out}")
  waveform, rate = soundfile.read(out)
  assert rate == published.RATE and len(waveform) == 2 * rate
  assert np.isfinite(waveform).all() and np.std(waveform) > 0


def test_the_licences_of_what_was_imported_are_those_of_the_bundle(made, capsys):
  musiclm("licenses", made / "bundle")
  assert "apache-2.0" in capsys.readouterr().out
