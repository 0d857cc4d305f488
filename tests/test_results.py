"""The results as typed records: what results.json holds, and its published schema."""

import json
from importlib import resources

import jsonschema
import numpy as np
import pytest
from msgspec import structs
from small import copy_of

from pgx_jax import resume
from pgx_jax.compare import judging, results, summaries
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


def test_what_is_written_is_read_again(run_results, small_run):
    matrix = [[None, *row[1:]] for row in run_results.affinity.matrix]
    run_results = structs.replace(run_results, affinity=structs.replace(run_results.affinity, matrix=matrix))
    assert results.from_plain(json.loads(json.dumps(results.to_plain(run_results)))) == run_results
    curve = structs.replace(
        run_results.curves["random"], at_end=[0.5, None], per_task_at_end=[[0.25], [None]]
    )
    judged = structs.replace(run_results, curves={"random": curve})
    plain = json.loads(json.dumps(results.to_plain(judged)))
    assert results.from_plain(plain) == judged != run_results
    jsonschema.validate(plain, published())
    assert "at_end" not in results.to_plain(run_results)["curves"]["random"]  # so have older files
    kept = json.loads((small_run.store.path / "results.json").read_text())
    assert json.loads(json.dumps(results.to_plain(results.from_plain(kept)))) == kept


@pytest.mark.parametrize(
    ("change", "words"), [({"k": "three"}, "k"), ({"methods": None}, "methods"), ({"gain": 1}, "gain")]
)
def test_what_is_no_run_is_refused(run_results, change, words):
    plain = results.to_plain(run_results)
    with pytest.raises(DataError, match=rf"results.json cannot be read \(.*\.{words}`?\).*resume"):
        results.from_plain(plain | change)
    plain.pop(words)
    with pytest.raises(DataError, match=f"missing required field `{words}`"):
        results.from_plain(plain)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (0, r"results.json cannot be read \(.*schema_version.*resume"),
        (results.SCHEMA_VERSION + 1, "in schema_version 3, and this version knows 2: install a newer"),
    ],
)
def test_results_of_another_version_are_refused(run_results, version, words):
    with pytest.raises(DataError, match=words):
        results.from_plain(results.to_plain(run_results) | {"schema_version": version})


def test_results_that_do_not_say_their_version_or_hold_more_are_refused(run_results):
    """Read and written again, what is not known would be lost."""
    assert "schema_version" in published()["$defs"]["Results"]["required"]
    plain = results.to_plain(run_results)
    deeper = plain | {"gain": plain["gain"] | {"hoped": 1.0}}
    for changed, words in ((plain | {"loss": 1.0}, "`loss`"), (deeper, r"`hoped` - at `\$.gain`")):
        with pytest.raises(DataError, match=rf"cannot be read \(.*unknown field {words}\).*resume"):
            results.from_plain(changed)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed, published())
    assert plain.pop("schema_version") == results.SCHEMA_VERSION
    with pytest.raises(DataError, match=r"cannot be read \(no schema_version, not 2\); resume"):
        results.from_plain(plain)


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


def test_intervals_of_tasks_make_that_of_their_mean():
    episodes = np.random.default_rng(0).normal([[1.0], [5.0], [-2.0]], [[1.0], [3.0], [0.1]], (3, 400))
    bounds, whole = np.array(summaries.by_task(episodes)), summaries.stratified(episodes)
    np.testing.assert_allclose(bounds.mean(1), episodes.mean(1))
    half = (bounds[:, 1] - bounds[:, 0]) / 2
    np.testing.assert_allclose(half, 1.96 * episodes.std(1, ddof=1) / 20)
    np.testing.assert_allclose(np.sqrt((half**2).sum()) / 3, whole.hi - whole.mean)


def test_groups_of_tasks_that_there_are_not_are_refused(run_results):
    plain = results.to_plain(run_results)
    assert results.from_plain(plain) == run_results
    with pytest.raises(DataError, match="'stranger' is none of its task_names"):
        results.from_plain(plain | {"groups": [["stranger"], *plain["groups"]]})
