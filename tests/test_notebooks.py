"""The notebooks run from top to bottom, and find what they say they find."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"

pytestmark = pytest.mark.skipif(not NOTEBOOKS.is_dir(), reason="no checkout around the tests")

QUICKER = """
from pgx_jax import steady
steady.QUICK["xla_backend_optimization_level"] = 0
"""
"""So that it finds the programs of the other tests."""


def test_the_quick_start_recovers_the_groups(tmp_path):
    notebook = nbformat.read(NOTEBOOKS / "01_quickstart.ipynb", as_version=4)
    (first,) = (cell for cell in notebook.cells if "steps_per_task" in cell.source)
    first.source = first.source.replace("61_440", "20_480")  # enough for two groups
    assert "20_480" in first.source
    notebook.cells.insert(0, nbformat.v4.new_code_cell(QUICKER))
    check = "assert run.results.agreement.exact\nassert run.results.gain.realised.mean > 0"
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    images = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(images) == 4
