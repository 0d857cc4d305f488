"""The results as typed records: what results.json holds, and its published schema."""

import json
from importlib import resources

import jsonschema
import pytest
from small import copy_of, typed

from pgx_jax import resume
from pgx_jax.compare import judging, results
from pgx_jax.errors import DataError


def published() -> dict:
    return json.loads((resources.files("pgx_jax.compare") / "results.schema.json").read_text())


def test_the_published_schema_is_that_of_the_records():
    assert published() == results.schema(), "write it anew: python -m pgx_jax.compare.results"


def test_results_of_a_run_keep_the_schema(small_run):
    found = json.loads((small_run.store.path / "results.json").read_text())
    jsonschema.validate(found, published())
    assert json.loads(json.dumps(results.to_plain(small_run.results))) == found
    found["methods"]["multitask"]["mean"] = "high"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, published())


def test_what_is_read_is_written_again(run_results, small_run):
    run_results["affinity"]["matrix"][0][1] = None
    again = json.loads(json.dumps(results.to_plain(typed(run_results))))
    for name, entry in run_results["methods"].items():
        assert {key: again["methods"][name][key] for key in entry} == json.loads(json.dumps(entry))
    assert again["affinity"]["matrix"] == run_results["affinity"]["matrix"]
    kept = json.loads((small_run.store.path / "results.json").read_text())
    assert json.loads(json.dumps(results.to_plain(results.from_plain(kept)))) == kept


@pytest.mark.parametrize(
    ("change", "words"), [({"k": "three"}, "k"), ({"methods": None}, "methods"), ({"gain": 1}, "gain")]
)
def test_what_is_no_run_is_refused(run_results, change, words):
    with pytest.raises(DataError, match=rf"results.json cannot be read \(.*\.{words}`?\).*resume"):
        results.from_plain(run_results | change)
    run_results.pop(words)
    with pytest.raises(DataError, match=f"missing required field `{words}`"):
        results.from_plain(run_results)


@pytest.mark.parametrize("version", [0, results.SCHEMA_VERSION + 1])
def test_results_of_another_version_are_refused(run_results, version):
    with pytest.raises(DataError, match=r"results.json cannot be read \(.*schema_version.*resume"):
        results.from_plain(run_results | {"schema_version": version})
    assert results.from_plain(run_results).schema_version == results.SCHEMA_VERSION


def test_a_run_tells_of_numbers_that_are_not_finite_what_its_file_tells(small_run, tmp_path, monkeypatch):
    """Returns that overflow in the evaluation: the run ends with a report all the same."""
    folder = copy_of(small_run, tmp_path)
    (folder / "results.json").unlink()
    nothing = results.Interval(float("nan"), (float("-inf"), float("nan")))
    monkeypatch.setattr(judging, "difference", lambda *args: nothing)
    run = resume(folder)
    assert run.results.gain.realised.mean is None and run.results.gain.realised.lo is None
    assert "the realised gain was not measured" in run.results.advice
    assert results.from_plain(json.loads((folder / "results.json").read_text())) == run.results
