"""The table of all methods: its statistics, its cells and its words."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import aggregates  # noqa: E402
import common  # noqa: E402
import main_table  # noqa: E402
import main_tables  # noqa: E402
import method_search  # noqa: E402

from pgx_jax.compare.results import OURS  # noqa: E402
from pgx_jax.config import Config  # noqa: E402

NUMBERS = st.floats(-100, 100, width=32)


@settings(deadline=None, max_examples=30)
@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=NUMBERS))
def test_the_interquartile_mean_drops_a_quarter_on_each_side(scores):
    values = np.sort(scores.ravel())
    cut = len(values) // 4
    kept = values[cut : len(values) - cut]
    assert aggregates.interquartile_mean(scores) == pytest.approx(kept.mean(), abs=1e-9)


def test_the_bootstrap_equals_a_loop_over_resamples():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(12, 4)) + rng.normal(size=(12, 1))
    found = aggregates.bootstrap(scores)
    drawn = [scores[rng.integers(0, 12, 12)].mean() for _ in range(20_000)]
    assert found.mean == pytest.approx(scores.mean())
    assert found.ci95 == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.05)
    assert aggregates.bootstrap(scores[:1]).ci95 is None


def test_strata_keep_their_runs():
    """Without spread within families nothing is left to draw; without strata there is."""
    scores = np.repeat([[0.0], [10.0]], 5, axis=0)
    assert aggregates.bootstrap(scores, strata=[0] * 5 + [1] * 5).ci95 == (5.0, 5.0)
    low, high = aggregates.bootstrap(scores).ci95
    assert low < 4 and high > 6


def test_improvement_counts_pairs_and_halves_ties():
    assert aggregates.improvement([1, 2, 3, 4], [0, 2, 5, 1]).mean == (1 + 0.5 + 0 + 1) / 4


def test_the_search_takes_what_earned_most_over_its_seeds():
    def cell(seed, returns, method="pcgrad"):
        tried = [[1.0, 1.0, 1.0], [5.0, 2.0, 1.0], [1.0, 1.0, 0.1]]
        of = {"family": "points", "method": method, "settings": {"seed": seed}, "factors": tried}
        return {"cell": of, "returns": returns}

    data = {"cells": [cell(100, [1.0, 3.0, 2.0]), cell(101, [1.0, 2.0, 2.5]), cell(100, [9, 1, 1], "paco")]}
    near = {"cells": [cell(100, [-10.0, -9.81, -9.9])]}
    assert method_search.chosen(near, "points", "pcgrad") == (1.0, 1.0, 1.0)
    near["cells"][0]["returns"][1] = -9.79
    assert method_search.chosen(near, "points", "pcgrad") == (5.0, 2.0, 1.0)
    assert method_search.chosen(data, "points", "pcgrad") == (5.0, 2.0, 1.0)
    for known in (None, data):
        assert method_search.chosen(known, "cartpole-goals", "pcgrad") == (1.0, 1.0, 1.0)
    own = Config().ppo
    learner = method_search.scaled(own, method_search.Factors(5.0, 2.0, 0.1))
    assert (learner.entropy, learner.learning_rate) == (5 * own.entropy, 2 * own.learning_rate)
    assert learner.final_learning_rate == 0.1 and method_search.scaled(own, method_search.Factors()) == own
    silent = own.replace(entropy=0.0)
    assert method_search.scaled(silent, method_search.Factors(entropy=5.0)).entropy == 0.05
    text = main_tables.searched(data)
    assert "| points, One policy for all, PCGrad | 1.0 | **2.5** | 2.2 |" in text


def test_the_table_covers_what_it_promises():
    cells = main_table.cells(main_table.Settings())
    runs = {}
    for c in cells:
        key = c["family"], c["block"], c["steps_per_task"]
        runs[key] = runs.get(key, 0) + c["seeds"]
    assert len(runs) == 7 * 2 * 2 and {
        count for (name, *_), count in runs.items() if name != "lunarlander"
    } == {10}
    assert runs["lunarlander", "told", 204_800] == 5
    used = {c["settings"]["seed"] for c in cells}
    assert not used & {*method_search.SEEDS}
    some = main_table.cells(main_table.Settings(seeds=1))
    assert len(some) == 7 * 2 * 2 and set(main_table.BLOCKS["told"]) <= set(some[1]["methods"])


def run(seed, ours, one, told, k):
    """A run of the hidden block."""

    def entry(values):
        return {"mean": float(np.mean(values)), "per_task": values, "env_steps": 100, "equal_steps": True}

    methods = {
        OURS: entry(ours), f"{OURS}_told": entry(told), "multitask_base_one_for_all": entry(one),
        "gradient_similarity_dot": entry(one), "gradient_similarity_cosine_our_k": entry(ours),
        "true_groups": entry([99.0, 99.0]),
    }  # fmt: skip
    unseen = {OURS: ours[0], "multitask_base_one_for_all": one[0]}
    agreement = {"nmi": 0.5, "ari": 0.4, "exact": False}
    return {"seed": seed, "k": k, "methods": methods, "unseen": unseen, "agreement": agreement}


def made(*runs, block="hidden"):
    known = {"family": "points-hard", "block": block, "steps_per_task": 30_720, "settings": {"seed": 6}}
    return {"cell": known, "runs": list(runs), "factors": {OURS: [1, 1, 1], "one_for_all": [1, 2, 1]}}


def test_the_table_names_the_first_what_ties_and_what_falls_short():
    hidden = [run(0, [5.0, 7.0], [1.0, 2.0], [4.0, 4.0], 2), run(1, [6.0, 7.0], [1.5, 2.0], [4.0, 5.0], 2)]
    data = {"cells": [made(*hidden)]}
    (part,) = main_tables.parts(data)
    names = part.names()
    assert "Gradient similarity at its best (cosine, our k)" in names.values()
    assert f"{OURS}_told" not in names and "multitask_base_one_for_all" in names
    assert main_tables.first(part, names) == (OURS, [OURS, "gradient_similarity_cosine_our_k"])
    (sentence,) = main_tables.sentences(data)
    assert "take PolicyGradEx, which earns most (not told apart from it: Gradient similarity" in sentence
    assert sentence.endswith("k = 2.")
    text = main_tables.whole(data)
    assert "| One policy for all | 1.62 [1.50, 1.75] |" in text and "| step size ×2 |" in text
    assert "2 runs of 1 family seed; k found: 2, 2; mean NMI with the planted groups 0.500." in text
    row = next(line for line in main_tables.overview(data).splitlines() if line.startswith("| PolicyGradEx "))
    assert row == "| PolicyGradEx | **6.2** (5.5) |"


def test_what_was_found_blind_and_told_then_stands_in_the_told_block():
    hidden = [
        run(0, [5.0, 7.0], [1.0, 2.0], [14.0, 14.0], 2),
        run(1, [5.0, 7.0], [1.0, 2.0], [15.0, 15.0], 2),
    ]
    told = [run(0, [8.0, 8.0], [9.0, 9.0], [0.0, 0.0], 1), run(1, [8.0, 8.0], [9.0, 9.0], [0.0, 0.0], 1)]
    data = {"cells": [made(*told, block="told"), made(*hidden)]}
    blind, part = main_tables.parts(data)
    assert (blind.block, part.block) == ("hidden", "told")
    assert not blind.has(f"{OURS}_told") and part.scores(f"{OURS}_told").mean() == 14.5
    *_, sentence = main_tables.sentences(data)
    assert "take PolicyGradEx, groups found blind and told then; PolicyGradEx falls short by 6.5" in sentence


def test_the_quick_table_runs_and_resumes(tmp_path, capsys):
    out = tmp_path / "main_table.json"
    args = ["--preset", "quick", "--out", str(out), "--only", "block=hidden"]
    assert main_table.main(args) == 0
    (cell,) = common.read(out)["cells"]
    first, second = cell["runs"]
    assert (first["seed"], second["seed"]) == (0, 1)
    names = {"multitask_base_pcgrad", "single_task_base_one_a_task", OURS, "true_groups"}
    for entry in (first, second):
        assert names <= set(entry["methods"]) and names <= set(entry["unseen"])
        assert {len(m["per_task"]) for m in entry["methods"].values()} == {4}
    assert main_table.main(args) == 0 and common.read(out)["cells"] == [cell]
    capsys.readouterr()
    assert main_table.main(["--list", "--seeds", "1", "--only", "family=lunarlander", "--only", "told"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
