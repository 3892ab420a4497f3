"""What is measured of long pieces, on music of which it is known."""

import numpy as np
import pytest

from musiclm_jax.evaluation import adherence, form

RATE = 24000


def note(pitch, seconds, level=0.2):
  time = np.arange(round(RATE * seconds)) / RATE
  partials = sum(
    np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * n * time) / n**1.5 for n in range(1, 5)
  )
  return level * np.exp(-3 * time / seconds) * partials


def piece(pitches, seconds, level=0.2):
  return np.concatenate([note(pitch, seconds, level) for pitch in pitches])[None].astype(np.float32)


def test_a_beat_is_more_regular_than_notes_at_random(rng):
  steady = piece([60, 64, 67, 72] * 6, 0.5)
  lengths = rng.uniform(0.15, 0.9, 40)
  loose = np.concatenate([note(60, length) for length in lengths])[None, : steady.shape[1]]
  regular, other = (adherence.regularity(x.astype(np.float32), RATE)[0] for x in (steady, loose))
  assert regular > 0.6 and regular > other + 0.2
  assert adherence.regularity(np.zeros((1, RATE), np.float32), RATE)[0] == 0


def test_levels_and_a_fading_end():
  music = piece([60] * 8, 0.5)
  assert np.isclose(form.level(music * 0.1), form.level(music) - 20, atol=1e-3)
  faded = music * np.linspace(1, 0, music.shape[1])[None]
  assert form.fading(faded, RATE)[0] > form.fading(music, RATE)[0] + 6


@pytest.mark.slow
def test_keys_of_halves_and_the_last_note():
  scale = [60, 62, 64, 65, 67, 69, 71, 72, 67, 64, 60, 60]
  same = piece(scale + scale, 0.5)
  moved = piece(scale + [pitch + 6 for pitch in scale], 0.5)
  found = form.measures(np.concatenate([same, moved]), RATE)
  assert found["key_of_halves"].tolist() == [1, 0]
  assert found["level_difference_db"][0] < 0.5
  silence = np.zeros((1, RATE), np.float32)
  ends = np.concatenate([same, silence], axis=1)
  assert form.on_tonic(ends, RATE, [0])[0] > 0.7 > 0.2 > form.on_tonic(ends, RATE, [1])[0]


@pytest.mark.slow
def test_the_real_pieces_are_the_works_of_the_clips():
  work = next(w for w in form.catalogue.list_works() if w.split == "test")
  pieces = form.real_pieces([{"work": work.id}], 12.0, seed=0)
  assert pieces.shape == (1, 12 * RATE) and np.square(pieces).mean() > 1e-6
  with pytest.raises(ValueError, match="no work 'none' in the catalogue"):
    form.real_pieces([{"work": "none"}], 12.0, seed=0)
