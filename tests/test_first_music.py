"""One generation among the fast tests: random weights, by the command that users type."""

import numpy as np
import soundfile

from musiclm_jax import main
from tests import bundles


def test_a_prompt_becomes_a_file_of_its_length(tmp_path):
  bundle = bundles.export(*bundles.make_runs(tmp_path / "runs"), tmp_path / "bundle")
  out = tmp_path / "music.wav"
  words = ["generate", "a slow flute", f"--bundle={bundle}", "--seconds=0.4", f"--out={out}"]
  assert main.main(words) == 0
  samples, rate = soundfile.read(out)
  assert rate == bundles.SAMPLE_RATE and len(samples) == round(0.4 * rate)
  assert np.isfinite(samples).all() and np.abs(samples).max() > 0
