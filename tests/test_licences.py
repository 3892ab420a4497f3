"""What the licences of a bundle's parts come to."""

import json

import pytest

from musiclm_jax import licence_terms, part_files, storage
from musiclm_jax.export import licences
from tests import bundles


@pytest.mark.parametrize(
  ("name", "terms"),
  [
    ("apache-2.0", "any use"),
    ("cc-by-4.0", "names the authors"),
    ("cc-by-sa-4.0", "the same licence"),
    ("cc-by-nc-4.0", "no commercial use"),
    ("cc-by-nc-sa-4.0", "no commercial use"),
    ("cc-by-nc-nd-4.0", "no commercial use"),
    ("weights-non-commercial", "no commercial use"),
    ("fair-noncommercial-research-license", "no commercial use"),
    ("MIT", "any use"),
    ("cc-by-nd-4.0", "no derived works"),
    ("AGPL-3.0-or-later", "the same licence"),
    ("limited-research-use", "read it"),  # it contains "mit"
    ("trained here and there", "read it"),
    ("other", "read it"),
    ("somebody's own", "read it"),
  ],
)
def test_a_licence_is_known_by_its_whole_identifier(name, terms):
  assert terms in licence_terms.meaning(name)


@pytest.mark.parametrize(
  ("names", "wanted"),
  [
    (["mit", "cc-by-nc-4.0", "cc-by-4.0"], "cc-by-nc-4.0"),
    (["trained here", "apache-2.0"], "apache-2.0"),
    (["cc-by-nc-4.0", "somebody's own"], "somebody's own"),
  ],
)
def test_the_strictest_of_licences_counts(names, wanted):
  assert licence_terms.strictest(names) == wanted


@pytest.mark.slow
def test_the_strictest_part_speaks_for_the_bundle(tmp_path, capsys):
  bundle = bundles.export(*bundles.make_runs(tmp_path / "runs"), tmp_path / "bundle")
  assert set(licences.licences(bundle).values()) == {"trained here"}
  _license(bundle, "soundstream", "cc-by-nc-4.0")
  _license(bundle, "mulan", "mit")
  assert licences.licences(bundle)["soundstream"] == "cc-by-nc-4.0"
  assert capsys.readouterr().out.splitlines()[-1] == "the bundle: cc-by-nc-4.0: no commercial use"


def test_what_started_from_a_licensed_part_or_read_its_tokens_is_under_its_licence():
  provenance = {"sources": {"semantic": {"encoder": "1", "licence": "cc-by-nc-4.0"}}, "parts": {}}
  assert licence_terms.strictest(licences.of(provenance)) == "cc-by-nc-4.0"
  provenance = {"sources": {}, "parts": {}, "initial": {"text_tower": {"licence": "cc-by-sa-4.0"}}}
  assert licence_terms.strictest(licences.of(provenance)) == "cc-by-sa-4.0"


def _license(bundle, role, name):
  """Writes the licence of a part, and its new fingerprint to bundle.json."""
  path = f"{bundle}/{role}/model.json"
  with open(path) as file:
    description = json.load(file)
  description["provenance"]["licence"] = name
  storage.write_text(path, json.dumps(description))
  with open(f"{bundle}/bundle.json") as file:
    whole = json.load(file)
  whole["parts"][role] = part_files.fingerprint(f"{bundle}/{role}")
  storage.write_text(f"{bundle}/bundle.json", json.dumps(whole))
