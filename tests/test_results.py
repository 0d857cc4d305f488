"""The results as typed records: what results.json holds, and its published schema."""

import json
from importlib import resources

import jsonschema
import pytest
from small import typed

from pgx_jax.compare import results
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
