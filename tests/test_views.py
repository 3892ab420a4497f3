"""Views of a clip: gains change nothing, semitones differ, envelopes hold timbre and no pitch."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from musiclm_jax.tokenizers.front_ends import Views
from musiclm_jax.tokenizers.views import Envelope, Flux, MelBands, PitchBands, Spectrum

RATE, FRAME = 24000, 960
MEL = MelBands(40, 0.0, 12000.0)
VIEWS = {
  "notes": Spectrum("notes", MEL, 1024, 240, 0.3, 0.1, 1.0),
  "pitches": Spectrum("pitches", PitchBands(84, 12, 65.4), 4096, 480, 30.0, 0.1, 1.0),
  "timbre": Envelope("timbre", MEL, 1024, 240, 12, 0.4, 0.001, 1.0),
  "attacks": Flux("attacks", MEL, 1024, 240, 10.0, 1, 1.0),
}
every = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def tone(pitch: float, rolloff: float, seconds: float = 2.0) -> np.ndarray:
  """[1, samples]: a tone of a MIDI pitch, whose partials fall by `rolloff` from one to the next."""
  time = np.arange(round(seconds * RATE)) / RATE
  partials = np.arange(1, 9)[:, None]
  hertz = 440 * 2 ** ((pitch - 69) / 12)
  waves = rolloff**partials * np.sin(2 * np.pi * hertz * partials * time)
  return waves.sum(axis=0, keepdims=True).astype(np.float32) * 0.1


def middle(view, waveform):
  """The row of a frame in the middle, float64 of length 1."""
  row = np.asarray(view(jnp.asarray(waveform), RATE, FRAME), np.float64)[0, 25]
  return row / np.linalg.norm(row)


@every
def test_a_gain_changes_nothing(view, rng):
  waveform = (0.1 * rng.normal(size=(2, 10 * FRAME))).astype(np.float32)
  found = view(jnp.asarray(waveform), RATE, FRAME)
  np.testing.assert_allclose(view(jnp.asarray(0.2 * waveform), RATE, FRAME), found, atol=1e-3)


@every
@pytest.mark.parametrize("samples", [FRAME, 7 * FRAME + 959])
def test_there_is_a_row_for_each_whole_frame_and_silence_is_finite(view, samples):
  found = view(jnp.zeros((2, samples)), RATE, FRAME)
  dims = {"notes": 160, "pitches": 168, "timbre": 12, "attacks": 120}
  assert found.shape == (2, samples // FRAME, dims[view.name]) and np.isfinite(found).all()


@pytest.mark.parametrize("pitch", [45, 60, 76])
def test_pitches_tell_semitones_apart_where_notes_of_one_pitch_agree(pitch):
  view = VIEWS["pitches"]
  row, brighter, higher = (
    middle(view, tone(*sound)) for sound in ((pitch, 0.5), (pitch, 0.7), (pitch + 1, 0.5))
  )
  assert row @ brighter > row @ higher + 0.1


@pytest.mark.parametrize("pitch", [60, 76])
def test_an_envelope_tells_timbres_apart_more_than_pitches(pitch):
  row, brighter, higher = (
    middle(VIEWS["timbre"], tone(*sound))
    for sound in ((pitch, 0.3), (pitch, 0.9), (pitch + 1, 0.3))
  )
  assert row @ higher > row @ brighter + 0.1


def test_a_flux_is_of_onsets_alone():
  two = np.concatenate([tone(60, 0.5, 0.8), tone(67, 0.5, 0.8)], axis=1)
  found = np.asarray(VIEWS["attacks"](jnp.asarray(two), RATE, FRAME))[0].sum(axis=1)
  assert (
    found[3:37].argmax() + 3 in (18, 19, 20, 21) and found[3:16].max() < 0.2 * found[18:22].max()
  )


def test_an_envelope_is_the_mean_over_its_seconds(rng):
  waveform = jnp.asarray(0.1 * rng.normal(size=(1, 30 * FRAME)), jnp.float32)
  short = Envelope("timbre", MEL, 1024, 240, 12, FRAME / RATE, 0.001, 1.0)(waveform, RATE, FRAME)
  long = VIEWS["timbre"](waveform, RATE, FRAME)  # 10 frames
  np.testing.assert_allclose(long[0, 15], short[0, 10:20].mean(axis=0), atol=1e-4)
  np.testing.assert_allclose(
    long[0, 0], (short[0, :5].sum(axis=0) + 5 * short[0, 0]) / 10, atol=1e-4
  )


def test_hops_that_do_not_fill_a_frame_are_refused():
  with pytest.raises(
    ValueError, match="view notes: hops of 480 samples do not fill a frame of 700"
  ):
    Spectrum("notes", MEL, 1024, 480, 0.3, 0.1, 1.0)(jnp.zeros((1, 7000)), RATE, 700)


def test_a_front_end_without_a_frame_is_refused():
  front_end = Views(tuple(VIEWS.values()), ("notes",), RATE, FRAME, 0.9, 8, 8, "float32")
  with pytest.raises(ValueError, match="wanted a waveform of 960 samples or more, found 959"):
    front_end.views(jnp.zeros((1, 959)))


def test_coded_views_are_side_by_side_and_weighed_by_their_scales(rng):
  waveform = jnp.asarray(0.1 * rng.normal(size=(1, 5 * FRAME)), jnp.float32)
  louder = dataclasses.replace(VIEWS["timbre"], scale=3.0)
  front_end = Views(
    (VIEWS["pitches"], louder), ("timbre", "pitches"), RATE, FRAME, 0.9, 8, 8, "float32"
  )
  found = front_end.vectors(waveform)
  np.testing.assert_allclose(found[..., :12], 3 * VIEWS["timbre"](waveform, RATE, FRAME), rtol=1e-4)
  np.testing.assert_allclose(found[..., 12:], VIEWS["pitches"](waveform, RATE, FRAME), rtol=1e-4)
  with pytest.raises(ValueError, match="coded: wanted some of pitches, timbre, found 'notes'"):
    Views((VIEWS["pitches"], louder), ("notes",), RATE, FRAME, 0.9, 8, 8, "float32").vectors(
      waveform
    )
