"""The tables and figures of README and docs, which are made from the result files of the benchmarks."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pgx_jax.compare.results import Interval
from pgx_jax.config import Config

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import cost_tables  # noqa: E402
import figures  # noqa: E402
import learning_tables  # noqa: E402
import study  # noqa: E402
import tables  # noqa: E402
import time_tables  # noqa: E402


def test_intervals_over_runs_are_paired_t_intervals():
    rng = np.random.default_rng(0)
    base = rng.normal(60, 20, 8)
    ours = base + rng.normal(5, 1, 8)
    cells = [
        {"methods": {"policygradex": {"mean": a}, "multitask": {"mean": b}}}
        for a, b in zip(ours, base, strict=True)
    ]
    found = tables.paired(cells, "multitask")
    wanted = stats.ttest_rel(ours, base).confidence_interval(0.95)
    assert (found.mean, found.lo, found.hi) == pytest.approx((np.mean(ours - base), wanted.low, wanted.high))
    assert tables.over_runs([3.0]) == Interval(3.0)


def test_intervals_between_libraries_are_welchs():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(5, 1, 5), rng.normal(3, 4, 7)
    found = learning_tables.difference(ours, theirs)
    wanted = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (found.lo, found.hi) == pytest.approx((wanted.low, wanted.high))
    assert learning_tables.difference(np.full(5, 500.0), np.full(5, 500.0)).ci95 == (0, 0)


@pytest.fixture
def made_up(tmp_path, run_results):
    """Results of two made-up runs of `goals`, and a README with markers."""
    file = common.ResultFile(tmp_path / "study_goals.json", name="study_goals", command="")
    for shift, cell in enumerate(study.study_cells("goals", "full")[:2]):
        record = common.plain(study.record(run_results))
        assert record["test_tasks"]["methods"]["multitask"]["mean"] == 58.3 and "labels" not in record["path"]
        record["methods"] = {n: m | {"mean": m["mean"] + shift} for n, m in record["methods"].items()}
        record["timings"]["cpu_seconds"] = 70.0
        file.add(cell, record)
    readme = tmp_path / "README.md"
    begin, end = (mark.format("results") for mark in figures.MARKS)
    output = "\n".join(mark.format("output") for mark in figures.MARKS)
    readme.write_text(f"before\n{output}\n{begin}\nstale words\n{end}\nafter\n")
    return tmp_path, ["--results", str(tmp_path), "--readme", str(readme)]


def test_readme_is_made_from_results_and_checked(made_up):
    folder, args = made_up
    readme = folder / "README.md"
    assert figures.main([*args, "--check"]) == 1 and "stale words" in readme.read_text()
    assert figures.main(args) == 0
    text, pages = readme.read_text(), {name: (folder / "docs" / name).read_text() for name in figures.PAGES}
    assert text.startswith("before\n") and text.endswith("after\n") and "stale words" not in text
    assert all(f"](docs/{name}): " in text for name in pages)
    page = pages["results_returns.md"]
    assert "](../benchmarks/results/study_goals.json)" in page and "2 runs" in page
    assert "+87.7 [87.7, 87.7]" in page
    missing = "Not measured yet: `ppo.json`, made by `python benchmarks/ppo.py`"
    assert missing in pages["results_training.md"]
    for name in ("goals_methods", "goals_affinity"):
        assert f"figures/{name}.png" in page and (folder / "figures" / f"{name}.png").stat().st_size > 5000
    assert figures.main([*args, "--no-figures"]) == 0 and readme.read_text() == text
    assert figures.main([*args, "--check"]) == 0
    data = common.read(folder / "study_goals.json")
    data["cells"][0]["methods"]["multitask"]["mean"] += 10
    (folder / "study_goals.json").write_text(common.text(data))
    assert figures.main([*args, "--check"]) == 1


def test_families_stand_side_by_side_and_missing_ones_say_so(made_up):
    cells = common.read(made_up[0] / "study_goals.json")["cells"]
    text = tables.families({"points": {"cells": cells}, "flip": None})
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "3 | not measured" in lines["k found"] and "2 of 2" in lines["exactly right"]
    assert "+87.7" in lines["realised gain over one policy"]


def test_where_the_told_policy_is_better():
    def run(ours, told, groups=(("t0_calm_1", "t2_calm_2"), ("t1_swift_3",))):
        methods = {
            name: {"per_task": values, "mean": float(np.mean(values))}
            for name, values in (("policygradex", ours), ("multitask_conditioned", told))
        }
        names = ["t0_calm_1", "t1_swift_3", "t2_calm_2"]
        return {"task_names": names, "true_groups": list(map(list, groups)), "methods": methods}

    better = run([1.0, 5.0, 3.0], [1.5, 9.0, 3.5])
    text = tables.told_by_group("roads", [better])
    assert "`roads`" in text and "+0.500 on calm; +4.00 on t1 swift 3." in text
    assert not tables.told_by_group("roads", [run([1.5, 9.0, 3.5], [1.0, 5.0, 3.0])])
    assert not tables.told_by_group("roads", [better, better | {"true_groups": None}])
    nameless = [["t0_calm_1", "t1_swift_3"], ["t2_calm_2"]]
    assert not tables.told_by_group("roads", [better | {"true_groups": nameless}])


def test_cost_tables_show_what_was_measured():
    solver = {"solver": "newton-cg", "dtype": "float32", "gap": 2e-5}
    times = {"ours": [1.0, 1.2, 1.4], "sklearn": [12.0, 13.0, 14.0], "speedup": 10.8}
    one = {"cell": {"l2": 0.01, "platform": "gpu"}, "gap": 3e-5, "sklearn": solver, "timings": times}
    steps = [
        {"iterations": n, "gap": gap, "timings": {"seconds": t}}
        for n, gap, t in ((1, 4e-3, 0.1), (5, 1e-8, 0.3))
    ]
    one |= {"newton": steps}
    text = cost_tables.surrogates({"cells": [one | {"subsets": 200, "rows": 20480, "dim": 400}]})
    assert (
        "| gpu, 0.01 u | 0.10 s | 4.0e-03 | 1.2 s | 3.0e-05 | 13.0 s | 2.0e-05 | newton-cg, float32 | 10.8× |"
        in text
    )
    assert "(`--estimate.iterations 5`) take 0.30 s at 0.01 u and leave a gap of 1.0e-08" in text
    times = {"transitions_per_second": 812.4, "rate": 65e9, "share": 0.71, "peak_memory": 3 << 30}
    cell = {"cell": {"dim": 400, "transitions": 4096, "platform": "gpu"}, "p": 100_123, "timings": times}
    text = cost_tables.features({"cells": [cell]})
    assert "| gpu | 100,123 | 2 | 400 | 4,096 | 812 | 65 | 71% | – | 3.00 GiB |" in text
    measured = cell | {"cell": cell["cell"] | {"layers": 8}, "timings": times | {"compile": 1.25}}
    assert "| 8 | 400 | 4,096 | 812 | 65 | 71% | 1.2 s | 3.00 GiB |" in cost_tables.features(
        {"cells": [measured]}
    )


def test_the_worst_seed_stands_in_the_table_of_precisions():
    def cell(affinity, same):
        own = {"features": 2e-4, "inner_products": 1e-4, "affinity": affinity, "largest_of_range": 3e-4}
        found = {name: own | {"same_groups": same} for name in ("float32", "bf16x3", "tf32")}
        of = {"family": "points", "platform": "cpu", "seed": 0}
        return {"cell": of, "dim": 400, "k": 3, "precisions": found}

    text = cost_tables.precision({"cells": [cell(5e-4, True), cell(7e-4, False)]})
    assert "| cpu, `tf32` | 2.0e-04 | 1.0e-04 | 7.0e-04 | 3.0e-04 | 1 of 2 |" in text
    assert "the largest of all seeds" in text


def test_rows_are_told_apart_by_how_they_were_timed():
    def timed(platform, width, rate, **more):
        cell = {"platform": platform, "lanes": 1, "rows_per_call": width, "updates": 4, **more}
        return {"cell": cell, "timings": {"steps_per_second": rate}}

    cells = [timed("cpu", 1, 5.0), timed("gpu", 1, 6.0, initialising=False), timed("gpu", 64, 7.0)]
    text = cost_tables.rows({"cells": cells})
    assert "| cpu, 1 lane, 4 updates a row and initialising | 5 | – |" in text
    assert "| gpu, 1 lane, 4 updates a row | 6 | – |" in text
    assert "| gpu, 1 lane, 4 updates a row and initialising | – | 7 |" in text
    assert "on the CPU and" in text and "on a TPU is a guess: not measured." in text
    assert "on a TPU are guesses" in cost_tables.rows({"cells": cells[:1]})


def test_a_cells_note_stands_once_at_the_source():
    environment = {"device": "gpu: X", "processor": "Y", "cores": 1, "versions": {"jax": "0"}, "commit": "c"}
    cells = [{"environment": 0, "note": "Alone"}, {"environment": 0, "note": "Alone"}, {"environment": 0}]
    data = {"cells": cells, "environments": [environment], "settings": {}}
    text = figures.source("rows", "run", data)
    assert text.endswith("jax 0, commit c. Alone.</sub>")


def test_what_studies_take_is_told_with_bounds_where_the_processor_was_not_measured():
    def data(*timings):
        cells = [{"cell": {}, "environment": 0, "timings": {"seconds": 3600.0, **x}} for x in timings]
        return {"environments": [{"cores": 2}], "cells": cells}

    told = time_tables.times({
        "truth": data({"cpu": 90.0}, {"cpu_seconds": 30.0, "cpu": 20.0}),
        "ablations": data({}, {"cpu": [1.0], "cpu_seconds": 60.0}),
        "language": None,
    })  # fmt: skip
    assert "| `python benchmarks/truth.py` | 2 | 2 min 0 s | 2 h 0 min | 1 min 0 s |" in told
    assert "| `python benchmarks/ablations.py` | 2 | ≤ 2 h 1 min | 2 h 0 min | ≤ 1 h 0 min |" in told
    assert "at most 2 h 3 min of one core: 1 h 1 min on two" in told and "language" not in told
    assert "In all 2 min 0 s of" in time_tables.times({"truth": data({"cpu": 120.0})})


def test_other_defaults_are_told():
    now = common.plain(Config())
    assert figures.other_defaults({"settings": {"defaults": now}}) == []
    before = {name: value for name, value in now.items() if name != "min_updates"} | {"steps_per_task": 9}
    (said,) = figures.other_defaults({"settings": {"defaults": before}})
    assert said == " Of older code, with other defaults: no min_updates, steps_per_task = 9."


def test_a_study_of_budgets_shows_seeds_that_have_all_of_them():
    def cell(steps, seed, mean):
        config = {"steps_per_task": steps}
        method = {"mean": mean, "metric": "return", "ci95": None}
        where = {"settings": {"seed": 6}, "seed": seed, "config": config}
        return {"cell": where, "k": 2, "agreement": {"nmi": 1.0}, "methods": {"policygradex": method}}

    data = {"cells": [cell(10, 0, 1.0), cell(20, 0, 3.0), cell(10, 1, 99.0)]}
    points = tables.budget_points(data)
    assert [(p.steps_per_task, p.seed) for p in points] == [(10, 0), (20, 0)]
    assert "| PolicyGradEx (ours) | 1.00 | 3.00 |" in tables.by_budget(data)


def test_the_search_shows_what_the_defaults_take():
    where = {"family": "points", "settings": {"seed": 100}, "steps_per_task": 10_240}
    cells = [
        {"cell": where | {"num_envs": width}, "returns": {"one a task": {"0.01": 5.0 * width, "0.05": 1.0}}}
        for width in (40, 1)
    ]
    text = tables.search({"cells": cells})
    assert "| points, one a task, 10.2k | 200.0 | **5.0** | **5.0** | 1.0 |" in text


def test_readme_without_markers_is_refused(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("nothing")
    assert figures.main(["--results", str(tmp_path), "--readme", str(readme)]) == 2
    assert "output:begin" in capsys.readouterr().err and readme.read_text() == "nothing"


def test_the_readme_is_up_to_date():
    if not list(common.RESULTS.glob("*.json")):
        pytest.skip("nothing has been measured")
    assert figures.main(["--check"]) == 0, "run python benchmarks/figures.py"
