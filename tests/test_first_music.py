"""One generation among the fast tests: random weights, by the command that users type."""

import numpy as np
import pytest
import soundfile
from PIL import Image

from musiclm_jax import main
from tests import bundles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
  made = tmp_path_factory.mktemp("made")
  return bundles.export(*bundles.make_runs(made / "runs"), made / "bundle")


def test_a_prompt_becomes_a_file_of_its_length(bundle, tmp_path):
  out = tmp_path / "music.wav"
  words = ["generate", "a slow flute", f"--bundle={bundle}", "--seconds=0.4", f"--out={out}"]
  assert main.main(words) == 0
  samples, rate = soundfile.read(out)
  assert rate == bundles.SAMPLE_RATE and len(samples) == round(0.4 * rate)
  assert np.isfinite(samples).all() and np.abs(samples).max() > 0


@pytest.mark.slow
def test_many_prompts_get_files_of_the_asked_format_and_a_picture(bundle, tmp_path):
  prompts, picture = tmp_path / "prompts.txt", tmp_path / "pictures" / "music.png"
  prompts.write_text("a slow flute\na quick flute\na slow flute\n")
  words = ["generate", f"--prompts={prompts}", f"--bundle={bundle}", "--seconds=0.4"]
  words += [f"--out={tmp_path / 'takes'}", "--format=flac", f"--picture={picture}"]
  assert main.main(words) == 0
  names = sorted(path.name for path in (tmp_path / "takes").iterdir())
  assert names == ["00.flac", "01.flac", "02.flac", "index.html"]
  shown = np.asarray(Image.open(picture).convert("L"))
  assert shown.shape == (380, 1000) and np.ptp(shown) > 200  # two rows of two, one empty


@pytest.mark.parametrize("flag", ["--format=mp3", "--picture={folder}"])
def test_a_place_that_cannot_be_written_is_refused_before_any_music(tmp_path, capsys, flag):
  (tmp_path / "prompts.txt").write_text("a slow flute\n")
  words = ["generate", f"--prompts={tmp_path / 'prompts.txt'}", f"--out={tmp_path / 'takes'}"]
  assert main.main([*words, flag.format(folder=tmp_path)]) != 0
  assert "wants" in capsys.readouterr().err
  assert not (tmp_path / "takes" / "00.wav").exists()
