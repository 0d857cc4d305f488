"""The notebooks run from top to bottom, and find what they say they find."""

import dataclasses
import pickle
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


SMALLER = """
import pickle
settings, config = pickle.loads({kept!r})
family = pgx_jax.make_family("points", **settings)
"""
"""In place of the notebook's own family and settings."""


def test_the_quick_start_recovers_the_groups(small_settings, tmp_path):
    notebook = nbformat.read(NOTEBOOKS / "01_quickstart.ipynb", as_version=4)
    (place,) = (i for i, cell in enumerate(notebook.cells) if "steps_per_task" in cell.source)
    settings, config = small_settings
    config = dataclasses.replace(config, looks=1, random_draws=1, similarities=("dot",), test_tasks=0)
    smaller = SMALLER.format(kept=pickle.dumps((settings, config)))
    for at, added in ((place + 1, smaller), (0, QUICKER)):
        notebook.cells.insert(at, nbformat.v4.new_code_cell(added))
    check = "assert run.results.agreement.exact\nassert run.results.gain.realised.mean > 0"
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    assert images_of(notebook, tmp_path) == 4


FEWER = "lt.OWN, noise, held_out_each, pretraining, dim, share = 0.2, 0.0, 40, 60, 96, 8"
"""Readers who are more alike, and sizes of the benchmark's small preset, with its programs."""


def test_readers_of_a_language_model_are_grouped():
    notebook = nbformat.read(NOTEBOOKS / "05_objectives_and_preferences.ipynb", as_version=4)
    (place,) = (i for i, cell in enumerate(notebook.cells) if "pairs_each, held_out_each" in cell.source)
    for at, added in ((place + 1, FEWER), (0, QUICKER)):
        notebook.cells.insert(at, nbformat.v4.new_code_cell(added))
    check = """
assert (labels == readers.labels).all()
assert accuracy["our groups"].mean() > accuracy["one for all"].mean()
"""
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    assert images_of(notebook, NOTEBOOKS) == 2


def images_of(notebook, folder):
    """The number of figures that a notebook draws, run in a folder."""
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return sum("image/png" in output.get("data", {}) for output in outputs)
