"""Saved runs beside each other: what is a side, what is paired, what is refused, and what is written."""

import csv
import json
import shutil
from importlib import resources

import jsonschema
import numpy as np
import pytest
from conftest import example_results
from msgspec import structs
from scipy import stats
from small import with_methods
from test_cli import call

from pgx_jax import DataError, compare_runs
from pgx_jax.compare.results import schema, to_plain
from pgx_jax.compare.runs import Given, RunsResult, compare, from_plain
from pgx_jax.errors import FolderError
from pgx_jax.report import runs as words
from pgx_jax.runs.serial import dumps
from pgx_jax.runs.store import RunStore


def earning(more, seed):
    """Made-up results, in which our groups earn so much more than elsewhere."""
    found = example_results(seed)
    return with_methods(found, {"policygradex": {"mean": found.methods["policygradex"].mean + more}})


def saved(path, results, **config):
    """A run folder with results."""
    record = {
        "config": {"seed": results.seed, "k": None} | config, "family": results.family,
        "family_settings": results.family_settings,
        "environment": {"device": "cpu: cpu", "commit": "abc", "versions": {"jax": "0.10.2"}},
    }  # fmt: skip
    store = RunStore.create(path, record)
    store.write_json("results.json", to_plain(results))
    return path


@pytest.fixture
def folders(tmp_path):
    """Two folders of seeds, of which the second has the seeds 1 to 3 and earns more with each."""
    for seed in range(3):
        saved(tmp_path / "plain" / f"seed-{seed}", example_results(seed))
        saved(tmp_path / "better" / f"seed-{seed + 1}", earning(10.0 + seed, seed + 1), k=4)
    return tmp_path / "plain", tmp_path / "better"


def test_seeds_that_both_have_are_paired(folders):
    found = compare_runs(*folders)
    plain, better = found.sides
    assert (plain.name, better.name) == ("plain", "better") and (plain.seeds, better.seeds) == (
        [0, 1, 2],
        [1, 2, 3],
    )
    own = better.paired["policygradex"]
    assert own.pairs == 2 and not plain.paired  # seeds 1 and 2: 10 and 11 more
    half = stats.t.ppf(0.975, 1) * np.std([10.0, 11.0], ddof=1) / np.sqrt(2)
    assert own.difference.mean == pytest.approx(10.5)
    assert own.difference.ci95 == pytest.approx((10.5 - half, 10.5 + half))
    assert better.paired["multitask"].difference.mean == pytest.approx(0)
    means = [example_results(seed).methods["multitask"].mean for seed in range(3)]
    assert plain.methods["multitask"].mean == pytest.approx(np.mean(means))
    assert found.settings == {"k": ["–", "4"]}


def test_a_single_run_has_the_interval_of_its_evaluation(folders, tmp_path):
    alone = folders[0] / "seed-1"
    found = compare_runs(alone, folders[1])
    single = found.sides[0]
    assert (single.name, single.seeds) == ("seed-1", [1])
    assert single.methods["multitask"].ci95 == example_results(1).methods["multitask"].ci95
    own = found.sides[1].paired["policygradex"]
    assert (own.pairs, own.difference.ci95) == (1, None) and own.difference.mean == pytest.approx(10)
    assert "has no interval" in words.advice(found) and "one evaluation alone" in words.left_out(found)


def test_other_tasks_and_other_seeds_are_not_paired():
    runs = [
        example_results(0),
        example_results(1),
        structs.replace(example_results(0), family_settings={"seed": 9}),
    ]
    given = [Given(name, name, [run], {}) for name, run in zip("abc", runs, strict=True)]
    found = compare(given)
    assert not any(side.paired for side in found.sides)
    said = words.advice(found)
    assert "b and a have no pairs: no seed is the same" in said and "c and a have no pairs: the tasks" in said
    head, rows = words.cells(found)
    assert len(head) == 4 and all(len(cells) == 4 for _, cells in rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"family": "points"}, "different families can't be compared .a: cartpole-goals, b: points."),
        ({"metric": "success"}, "different metrics can't be compared .a: return, b: success."),
    ],
)
def test_what_cannot_be_compared(change, said):
    other = example_results(0)
    if "metric" in change:
        other = with_methods(other, {name: change for name in other.methods})
    else:
        other = structs.replace(other, **change)
    with pytest.raises(DataError, match=said):
        compare([Given("a", "a", [example_results(0)], {}), Given("b", "b", [other], {})])


def test_folders_that_are_refused(folders, tmp_path):
    with pytest.raises(DataError, match="give another to compare it with"):
        compare_runs(folders[0])
    with pytest.raises(FolderError, match="is given twice"):
        compare_runs(folders[0], folders[0].parent / "better" / ".." / "plain")
    with pytest.raises(FolderError, match="holds no run"):
        compare_runs(folders[0], tmp_path / "nowhere")
    (folders[1] / "seed-2" / "results.json").unlink()
    with pytest.raises(DataError, match="seed-2 is not finished; `pgx-jax resume"):
        compare_runs(*folders)
    (folders[1] / "seed-2" / "results.json").write_text('{"schema_version": 1}')
    with pytest.raises(DataError, match="seed-2.results.json is damaged"):
        compare_runs(*folders)


def test_a_sweep_has_a_side_for_every_part(folders, tmp_path):
    found = compare_runs(tmp_path)
    assert [side.name for side in found.sides] == ["better", "plain"]  # in order of their names
    shutil.copytree(folders[0], tmp_path / "more" / "plain")
    found = compare_runs(folders[0], tmp_path / "more" / "plain")
    assert [side.name.split("/")[-2:] for side in found.sides] == [
        [tmp_path.name, "plain"], ["more", "plain"],
    ]  # fmt: skip


def test_what_is_written(folders, tmp_path, drawn):
    out = tmp_path / "out"
    with drawn():
        found = compare_runs(*folders, out=out)
    assert {path.name for path in out.rglob("*") if path.is_file()} == {
        "compare.json", "compare.csv", "report.html", "runs.png",
    }  # fmt: skip
    published = json.loads((resources.files("pgx_jax.compare") / "compare.schema.json").read_text())
    assert published == schema(RunsResult)
    values = json.loads((out / "compare.json").read_text())
    jsonschema.validate(values, published)
    assert dumps(to_plain(from_plain(values))) == dumps(to_plain(found))
    rows = list(csv.DictReader((out / "compare.csv").open()))
    (own,) = (row for row in rows if (row["run"], row["method"]) == ("better", "policygradex"))
    assert float(own["difference"]) == pytest.approx(10.5) and own["pairs"] == "2" and own["seeds"] == "1 2 3"
    page = (out / "report.html").read_text()
    assert "better minus plain" in page and "<svg" in page and "What else differs" in page
    compare_runs(*folders, out=out)  # in place of the earlier one
    with pytest.raises(FolderError, match="no comparison"):
        compare_runs(*folders, out=folders[0])


def test_the_command(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = call(capsys, "compare", *folders)
    assert (
        not status
        and " minus" in out  # plain, which may stand in another line
        and "earns +10.5 [" in out
        and "over 2 pairs of seeds: more." in out
        and "what else differs" in out
    )
    assert (tmp_path / "runs/compare-plain-better/report.html").is_file()
    status, _, err = call(capsys, "compare", folders[0], tmp_path / "nowhere")
    assert status == 2 and "holds no run" in err
