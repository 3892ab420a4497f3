"""Formats and old names: what was written under them is read under those of now."""

import pytest

from musiclm_jax.old_names import Renames, check_format, renamed_description, renamed_parameters

# An example: a class moved, then two of its fields and a parameter were renamed.
RENAMES = {
  1: Renames(classes={"musiclm_jax.codec.Codec": "musiclm_jax.tokenizers.soundstream.SoundStream"}),
  2: Renames(
    fields={("musiclm_jax.tokenizers.soundstream.SoundStream", "rate"): "sample_rate"},
    parameters={"attention/turn": "attention/rotary"},
    removed=frozenset({"sums"}),
  ),
}


@pytest.mark.parametrize(
  ("written", "cls", "field"),
  [
    (1, "musiclm_jax.codec.Codec", "rate"),
    (2, "musiclm_jax.tokenizers.soundstream.SoundStream", "rate"),
    (3, "musiclm_jax.tokenizers.soundstream.SoundStream", "sample_rate"),
  ],
)
def test_a_description_of_any_format_is_read_under_the_names_of_now(written, cls, field):
  inner = {"class": cls, field: 24000, "parts": [{"class": "musiclm_jax.tokens.Stream", "rate": 1}]}
  found = renamed_description({"class": "musiclm_jax.x.Y", "codec": inner}, written, RENAMES)
  assert found["codec"] == {
    "class": "musiclm_jax.tokenizers.soundstream.SoundStream",
    "sample_rate": 24000,
    "parts": [{"class": "musiclm_jax.tokens.Stream", "rate": 1}],  # another class keeps its field
  }


def renamed(path, written):
  return list(renamed_parameters({path: 0.0}, written, RENAMES))


def test_a_parameter_is_renamed_by_whole_components():
  for written in (1, 2):
    found = renamed("params/layers/attention/turn/kernel", written)
    assert found == ["params/layers/attention/rotary/kernel"]
  for name in ("params/self_attention/turn", "params/attention/turned", "attention/turn"):
    wanted = "attention/rotary" if name == "attention/turn" else name
    assert renamed(name, 2) == [wanted]
  assert renamed("params/attention/turn", 3) == ["params/attention/turn"]


def test_a_removed_parameter_is_left_out():
  assert renamed("codebooks/quantizer/sums", 1) == renamed("codebooks/sums", 2) == []
  assert renamed("codebooks/quantizer/sums", 3) == ["codebooks/quantizer/sums"]
  assert renamed("sums/kernel", 2) == ["sums/kernel"]


@pytest.mark.parametrize("found", [None, 0, "1", 1.5])
def test_what_states_no_format_is_refused(found):
  with pytest.raises(ValueError, match=rf"^a/model.json: wanted a format of 1..2, found {found}$"):
    check_format(found, 1, 2, "a/model.json")


def test_a_newer_format_is_refused_in_one_line():
  with pytest.raises(ValueError, match=r"^b: has format 3, this version reads up to 2; install"):
    check_format(3, 1, 2, "b")
  check_format(2, 1, 2, "b")
