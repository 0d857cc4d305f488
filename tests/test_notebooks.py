"""The notebooks run from top to bottom, and find what they say they find."""

import dataclasses
import pickle
import shutil
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


ALL = sorted(NOTEBOOKS.glob("*.ipynb"))


def read(number: str):
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    return nbformat.read(path, as_version=4)


def prepared(notebook, check: str, behind: str = "", added: str = ""):
    """A notebook with a check at its end, and something behind the cell that has some words."""
    if behind:
        (place,) = (i for i, cell in enumerate(notebook.cells) if behind in cell.source)
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(added))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(QUICKER))
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    return notebook


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_outputs_are_committed(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)


def test_notebooks_are_numbered():
    assert [path.stem[:3] for path in ALL] == [f"0{i + 1}_" for i in range(6)]


def test_the_quick_start_recovers_the_groups(small_settings, tmp_path):
    settings, config = small_settings
    config = dataclasses.replace(config, looks=1, random_draws=1, similarities=("dot",), test_tasks=0)
    smaller = SMALLER.format(kept=pickle.dumps((settings, config)))
    check = "assert run.results.agreement.exact\nassert run.results.gain.realised.mean > 0"
    notebook = prepared(read("01"), check, "steps_per_task", smaller)
    assert images_of(notebook, tmp_path) == 4


READERS = {
    "02": (3, "assert np.allclose(own, features.values[:, few].reshape(len(own), -1), atol=1e-4)"),
    "03": (4, "assert nested.gain > nested.null and certain.together.shape == U.shape"),
    "06": (3, "assert set(seconds) > {'meta', 'policies'} and len(ours) == len(run.labels)"),
}
"""Notebooks that read a run: their figures, and a check."""


@pytest.mark.parametrize("number", READERS)
def test_notebooks_that_read_a_run(number, small_run, tmp_path):
    shutil.copytree(small_run.store.path, tmp_path / "runs" / "cartpole-goals")
    figures, check = READERS[number]
    assert images_of(prepared(read(number), check), tmp_path) == figures


OWN = """
import pickle
config = pickle.loads({kept!r})
"""


def test_an_environment_of_ones_own_is_grouped(small_settings, tmp_path):
    config = dataclasses.replace(small_settings[1], looks=1, compare="none", test_tasks=0)
    check = """
assert sorted(sum(run.results.groups, [])) == sorted(names)
assert len(fig.axes) == 2
"""
    notebook = prepared(read("04"), check, "steps_per_task", OWN.format(kept=pickle.dumps(config)))
    assert images_of(notebook, tmp_path) == 1


FEWER = "lt.OWN, noise, held_out_each, pretraining, dim, share = 0.2, 0.0, 40, 60, 96, 8"
"""Readers who are more alike, and sizes of the benchmark's small preset, with its programs."""


def test_readers_of_a_language_model_are_grouped():
    check = """
assert (labels == readers.labels).all()
assert accuracy["our groups"].mean() > accuracy["one for all"].mean()
"""
    notebook = prepared(read("05"), check, "pairs_each, held_out_each", FEWER)
    assert images_of(notebook, NOTEBOOKS) == 2


def images_of(notebook, folder):
    """The number of figures that a notebook draws, run in a folder."""
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return sum("image/png" in output.get("data", {}) for output in outputs)
