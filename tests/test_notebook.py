"""The notebook runs from its first cell to its last, with the released model."""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "music_from_text.ipynb"


@pytest.mark.slow
def test_the_notebook_plays_music():
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
  shown = [kind for output in outputs for kind in output.get("data", ())]
  players = [out for out in outputs if "<audio" in out.get("data", {}).get("text/html", "")]
  assert len(players) == 4 and shown.count("image/png") == 2


def test_the_notebook_is_kept_without_its_outputs():
  cells = nbformat.read(NOTEBOOK, as_version=4).cells
  assert not [cell for cell in cells if cell.get("outputs")]
