"""The licences of model cards, and what an import makes of them."""

import pytest

from musiclm_jax.tokenizers import importing, model_card

CARDS = {
  "a name": ("---\nlicense: mit\n---\n", ("mit",)),
  "quotes": ('---\nlicense: "cc-by-nc-4.0"\n---\n', ("cc-by-nc-4.0",)),
  "a list": ("---\nlicense:\n- apache-2.0\n- cc-by-nc-4.0\n---\n", ("apache-2.0", "cc-by-nc-4.0")),
  "a list in a line": ("---\nlicense: [mit, cc-by-4.0]\n---\n", ("mit", "cc-by-4.0")),
  "carriage returns": ("---\r\nlicense: mit\r\n---\r\n# A\r\n", ("mit",)),
  "a byte order mark": ("\ufeff---\nlicense: mit\n---\n", ("mit",)),
  "a name of its own": ("---\nlicense: other\nlicense_name: llama2\n---\n", ("llama2",)),
  "another without a name": ("---\nlicense: other\n---\n", ("other",)),
  "nothing": ("---\nlicense:\nlanguage: en\n---\n", ()),
  "no licence": ("---\nlanguage: en\n---\nlicense: mit\n", ()),
  "no front matter": ("# A\n\n---\nlicense: mit\n---\n", ()),
  "an open front matter": ("---\nlicense: mit\n", ()),
  "no mapping": ("---\n- license\n---\n", ()),
}


@pytest.fixture
def folder(tmp_path):
  def write(text):
    (tmp_path / "README.md").write_bytes(text.encode())
    return tmp_path

  return write


@pytest.mark.parametrize("name", CARDS)
def test_a_card_states_its_licences_in_its_front_matter(name, folder):
  text, wanted = CARDS[name]
  assert model_card.read(folder(text) / "README.md").names == wanted


def test_a_card_that_is_missing_states_nothing(tmp_path):
  assert model_card.read(tmp_path / "README.md") == model_card.Licences((), "")


def test_a_front_matter_that_is_not_yaml_is_one_line(folder):
  with pytest.raises(ValueError, match="README.md: its front matter is not YAML") as caught:
    model_card.read(folder("---\nlicense: [mit\n---\n") / "README.md")
  assert "\n" not in str(caught.value)


def licence(folder, given="", accept=False):
  return importing._licence(importing.Checkpoint("x", folder), given, accept)


OTHER = "---\nlicense: other\nlicense_name: llama2\nlicense_link: https://a.b/c\n---\n"


@pytest.mark.parametrize(
  ("text", "given", "message"),
  [
    ("", "", "x: states no licence; look it up and pass --licence=NAME"),
    (CARDS["nothing"][0], "", "x: states no licence"),
    (
      OTHER,
      "",
      r"x: states licence llama2 \(https://a.b/c\), whose terms are not known here; read",
    ),
    ("---\nlicense: limited-research-use\n---\n", "", "limited-research-use, whose terms are not"),
    (CARDS["a list"][0], "", "cc-by-nc-4.0 forbids commercial use.*accept_noncommercial"),
    (OTHER.replace("llama2", "non-commercial"), "", "non-commercial forbids commercial use"),
    ("---\nlicense: [cc-by-nc-4.0, other]\n---\n", "mit", "cc-by-nc-4.0 forbids commercial use"),
    ("", "cc-by-nc-4.0", "cc-by-nc-4.0 forbids commercial use"),
    (CARDS["quotes"][0], "mit", "x: states licence cc-by-nc-4.0, --licence is mit"),
  ],
)
def test_a_licence_that_is_unknown_or_forbids_commerce_is_refused(folder, text, given, message):
  with pytest.raises(ValueError, match=message) as caught:
    licence(folder(text), given)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("text", "given", "accept", "wanted"),
  [
    (CARDS["a list in a line"][0], "", False, "cc-by-4.0"),
    (CARDS["a list"][0], "", True, "cc-by-nc-4.0"),
    (OTHER, "llama2", False, "llama2"),
    ("", "MIT", False, "MIT"),
    (CARDS["a name"][0], "MIT", False, "mit"),
  ],
)
def test_the_strictest_licence_counts(folder, text, given, accept, wanted):
  assert licence(folder(text), given, accept) == wanted
