"""The table of all methods: its statistics, its cells and its words."""

import itertools
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
import main_advice  # noqa: E402
import main_parts  # noqa: E402
import main_table  # noqa: E402
import main_tables  # noqa: E402
import method_search  # noqa: E402

from pgx_jax.compare.results import OURS  # noqa: E402
from pgx_jax.config import Config, config_for, override  # noqa: E402
from pgx_jax.errors import ConfigError  # noqa: E402
from pgx_jax.tasks.registry import make_family  # noqa: E402

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
    found = aggregates.bootstrap(aggregates.interquartile_mean, scores)
    drawn = [aggregates.interquartile_mean(scores[rng.integers(0, 12, 12)]) for _ in range(1000)]
    assert found.mean == pytest.approx(float(aggregates.interquartile_mean(scores)))
    assert found.ci95 == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.08)
    assert aggregates.bootstrap(aggregates.interquartile_mean, scores[:1]).ci95 is None


def test_the_bootstrap_of_several_strata_draws_within_each():
    rng = np.random.default_rng(1)
    strata = [rng.normal(size=8), 3 + rng.normal(size=5), np.array([10.0])]
    found = aggregates.bootstrap(aggregates.mean_of_strata, *strata)
    drawn = [np.mean([x[rng.integers(0, len(x), len(x))].mean() for x in strata]) for _ in range(1000)]
    assert found.mean == pytest.approx(np.mean([x.mean() for x in strata]))
    assert found.ci95 == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.05)


def test_that_all_units_agree_is_no_certainty():
    assert aggregates.bootstrap(aggregates.mean_of_strata, np.full(5, 0.5)).ci95 is None
    assert aggregates.bootstrap(aggregates.ratio_of_means, np.tile([1.0, 2.0], (5, 1))).ci95 is None
    ones, zeros, ties = np.ones(5), np.zeros(5), np.full(5, 0.5)
    assert aggregates.probability(ones).ci95 == pytest.approx((0.025 ** (1 / 5), 1.0))  # it begins at 48%
    assert aggregates.probability(zeros).ci95 == pytest.approx((0.0, 1 - 0.025 ** (1 / 5)))
    assert aggregates.probability(ones, np.ones(9)).ci95 == pytest.approx((0.025 ** (1 / 10), 1.0))
    assert aggregates.probability(ties).ci95 is aggregates.probability(ones, ties).ci95 is None
    some = aggregates.probability(np.array([1.0, 1.0, 0.5]), ties)
    assert some == aggregates.bootstrap(aggregates.mean_of_strata, np.array([1.0, 1.0, 0.5]), ties)


def test_ties_count_half():
    np.testing.assert_array_equal(aggregates.ahead([1, 2, 3, 4], [0, 2, 5, 1]), [1, 0.5, 0, 1])


def test_the_search_takes_what_earned_most_over_its_seeds():
    Factors, chosen = method_search.Factors, method_search.chosen
    grid = [Factors(), Factors(5.0, 2.0), Factors(1.0, 1.0, 0.1)]

    def cell(seed, returns, method="pcgrad", tried=grid):
        factors = [list(x) for x in tried]
        of = {"family": "points", "method": method, "settings": {"seed": seed}, "factors": factors}
        return {"cell": of, "returns": returns}

    data = {"cells": [cell(100, [1.0, 3.0, 2.0]), cell(101, [1.0, 2.0, 2.5]), cell(100, [9, 1, 1], "paco")]}
    near = {"cells": [cell(100, [-10.0, -9.81, -9.9])]}
    assert chosen(near, "points", "pcgrad") == Factors()
    near["cells"][0]["returns"][1] = -9.79
    assert chosen(near, "points", "pcgrad") == Factors(5.0, 2.0)
    assert chosen(data, "points", "pcgrad") == Factors(5.0, 2.0)
    for known in (None, data):
        assert chosen(known, "cartpole-goals", "pcgrad") == Factors()
    text = main_tables.searched(data)
    assert "| points, One policy for all, PCGrad, hidden | 1.0 | 2.2 | **2.5** |" in text

    last = [Factors(5.0, final_entropy=0.0)]
    data["cells"].append(cell(100, [99.0], tried=last))
    assert chosen(data, "points", "pcgrad") == Factors(5.0, 2.0)  # the other seed lacks it
    data["cells"].append(cell(101, [9.0], tried=last))
    assert chosen(data, "points", "pcgrad") == last[0]
    text = main_tables.searched(data)
    assert "| 1.0 | 2.2 | **54.0** | 2.5 |" in text and "| **9.0** | 1.0 | – | 1.0 |" in text
    assert "| entropy ×5, last entropy ×0 |" in text

    data["cells"] += [cell(seed, [float("nan")], tried=[Factors(25.0, 2.0)]) for seed in (100, 101)]
    assert chosen(data, "points", "pcgrad") == last[0]

    own = Config().ppo
    learner = method_search.scaled(own, Factors(5.0, 2.0, 0.1, 0.5))
    assert (learner.entropy, learner.learning_rate) == (5 * own.entropy, 2 * own.learning_rate)
    assert (learner.final_learning_rate, learner.final_entropy) == (0.1, 0.5)
    assert method_search.scaled(own, Factors()) == own
    silent = own.replace(entropy=0.0)
    assert method_search.scaled(silent, Factors(entropy=5.0)).entropy == 0.05


def test_the_search_goes_on_beyond_its_ends_for_as_long_as_that_is_best():
    Factors, further = method_search.Factors, method_search.further
    grid = {Factors(e, rate): -abs(rate - 5) - abs(e - 1) for e in (1.0, 5.0) for rate in (0.5, 1.0, 2.0)}
    asked = []
    while more := further(grid):
        asked += more
        grid |= {tried: -abs(tried.learning_rate - 5) - abs(tried.entropy - 1) for tried in more}
    assert asked == [Factors(1.0, 4.0), Factors(1.0, 8.0)]
    assert further({Factors(): 1.0, Factors(learning_rate=0.5): 2.0}) == [Factors(learning_rate=0.25)]
    assert further({Factors(): 1.0, Factors(5.0, 2.0): 2.0}) == [Factors(25.0, 2.0), Factors(5.0, 4.0)]
    assert not further({Factors(): 1.0, Factors(learning_rate=2.0): float("nan")})
    assert not further({Factors(): 1.0, Factors(learning_rate=1024.0): 2.0})

    # Ours is also tried with less and with more meta-training, beside what else was best.
    less, more = Factors(5.0, meta_fraction=0.5), Factors(5.0, meta_fraction=2.0)
    best = {Factors(): 1.0, Factors(5.0): 3.0, Factors(25.0): 2.0}
    assert not further(best) and further(best, ours=True) == [less, more]
    assert not further(best | {less: 2.0, more: 2.5}, ours=True)
    assert further(best | {less: 4.0, more: 2.5}, ours=True)[-1] == less._replace(meta_fraction=0.25)
    config = Config(meta_fraction=0.3)
    assert method_search.ours_scaled(config, more) == {
        "ppo": method_search.scaled(config.ppo, more), "meta_fraction": 0.6,
    }  # fmt: skip

    settings = method_search.Settings(families=("points-hard",), methods=("told",), seeds=(100, 101))
    data = {"cells": []}
    value = {0.5: 1.0, 1.0: 2.0, 2.0: 3.0, 4.0: 2.5}
    every = itertools.chain(method_search.cells(settings), method_search.beyond(settings, data))
    for cell in every:
        returns = [value[rate] - (e != 1) for e, rate, *_ in cell["factors"]]
        data["cells"].append({"cell": cell, "returns": returns})
    assert [c["cell"]["factors"] for c in data["cells"][4:]] == [[list(Factors(learning_rate=4.0))]] * 2


def test_the_table_covers_what_it_promises():
    cells = main_table.cells(main_table.Settings())
    runs = {}
    for c in cells:
        key = c["family"], c["block"], c["steps_per_task"]
        runs[key] = runs.get(key, 0) + c["seeds"]
    counts = {"lunarlander": 5, "cartpole-goals": 20}
    assert len(runs) == 7 * 2 * 2
    assert all(count == counts.get(name, 10) for (name, *_), count in runs.items())
    used = {c["settings"]["seed"] for c in cells}
    assert not used & {*method_search.SEEDS}
    some = main_table.cells(main_table.Settings(seeds=1))
    assert len(some) == 7 * 2 * 2 and set(main_table.BLOCKS["told"]) <= set(some[1]["methods"])


def run(seed, k=2, **methods):
    """A run: means of two tasks by the names of methods."""
    entries = {
        NAMES.get(name, name): {"mean": np.mean(m) if None not in m else None, "per_task": m, "env_steps": 9}
        for name, m in methods.items()
    }
    unseen = {name: entry["per_task"][0] for name, entry in entries.items()}
    agreement = {"nmi": 0.5, "ari": 0.4, "exact": False}
    return {"seed": seed, "k": k, "methods": entries, "unseen": unseen, "agreement": agreement}


NAMES = {
    "ours": OURS, "then": f"{OURS}_told", "one": "multitask_base_one_for_all", "told": "multitask_told_told",
    "alone": "single_task_base_one_a_task", "true": "true_groups", "dot": "gradient_similarity_dot",
    "cosine": "gradient_similarity_cosine_our_k",
}  # fmt: skip


def made(seed, *runs, block="hidden", **factors):
    known = {"family": "points-hard", "block": block, "steps_per_task": 30_720, "settings": {"seed": seed}}
    return {
        "cell": known,
        "runs": list(runs),
        "factors": {OURS: [1, 1, 1], "one_for_all": [1, 2, 1]} | factors,
    }


HIDDEN = {
    "cells": [
        made(6 + i, *(
            run(seed, ours=[5 + 0.5 * i, 7 + 0.1 * i], one=[1.0, 2 + i], then=[8, 8], alone=[3 + i, 4],
                dot=[1, 2], cosine=[5 + 0.5 * i, 7], true=[99, 99])
            for seed in range(2)
        ))
        for i in range(3)
    ]
}  # fmt: skip


def test_the_table_names_the_first_what_ties_and_what_falls_short():
    (part,) = main_parts.parts(HIDDEN)
    names = part.names()
    assert "Gradient similarity at its best (cosine, our k)" in names.values()
    assert f"{OURS}_told" not in names and "multitask_base_one_for_all" in names
    assert main_parts.first(part, names) == (OURS, [OURS, "gradient_similarity_cosine_our_k"])
    (sentence,) = main_advice.sentences(HIDDEN)
    assert sentence == (
        "`points-hard`, hidden: at 30.7k steps a task take PolicyGradEx (k = 2); as good is Gradient "
        "similarity at its best (cosine, our k)."
    )
    text = main_tables.whole(HIDDEN)
    assert "6 runs of 3 family seeds; k found: 2, 2, 2, 2, 2, 2; mean NMI with the planted groups" in text
    assert "| step size ×2 |" in text and "| 100% [29%, 100%] |" in text
    assert "| One policy for all | 1 | 100% [29%, 100%] |" in text  # of one family and budget
    assert "an earlier search" not in text
    searched = main_tables.whole(HIDDEN, {"cells": []})
    assert "an earlier search than is shown below: One policy for all." in searched
    assert "Ours earns 6% [6%, 7%] of the true groups, from scratch (which have our" in text
    (row,) = (x for x in text.splitlines() if x.startswith("| One policy for all | 2.0 "))
    assert "| 1.00 [1.00, 1.00] | +4.5 [3.3, 5.7] |" in row  # on unseen tasks
    text = main_tables.overview(HIDDEN, {"cells": []})
    assert (
        "an earlier search than the committed one" in text
        and "docs/main_table.md): points-hard, 30.7k" in text
    )
    assert "an earlier search" not in main_tables.overview(HIDDEN)
    row = next(x for x in text.splitlines() if x.startswith("| PolicyGradEx "))
    assert row == "| PolicyGradEx | **6.3** (5.5) |"


def advised(block="hidden", k=2, **methods):
    """The sentence of five family seeds, each with a run of these means (given by seed and task)."""
    told = [
        made(6 + i, run(0, k, **{name: means(i) for name, means in methods.items()}), block=block)
        for i in range(5)
    ]
    (sentence,) = main_advice.sentences({"cells": told})
    return sentence.partition(" a task ")[2]


def test_what_was_picked_after_looking_is_never_what_to_take():
    known = {"ours": lambda i: [5.0, 7.0], "one": lambda i: [1.0, 2.0], "alone": lambda i: [3.0, 4.0]}
    said = advised(**known, dot=lambda i: [5.0 + 2 * (i - 1), 7.0], cosine=lambda i: [1.0, 1.0])
    assert said == "take PolicyGradEx (k = 2); as good is Gradient similarity at its best (dot)."
    said = advised(**known, dot=lambda i: [8.0, 7.0 + i])
    assert said == (
        "take PolicyGradEx (k = 2); Gradient similarity at its best (dot), picked on these very runs, earns "
        "2.50 [1.52, 3.48] more."
    )


def test_of_what_is_as_good_the_simplest_is_named_first():
    noise = [-2.0, 1.0, 2.0, -1.0, 0.0]
    ours, same = (lambda i: [9.0, 9.0]), (lambda i: [9.0 + noise[i], 8.9])
    low = lambda i: [1.0, 2.0]  # noqa: E731
    assert advised(ours=ours, one=same, alone=same, em=same) == (
        "take One policy for all, the simplest; as good are PolicyGradEx (k = 2), Clustering on returns and "
        "1 other."
    )
    said = advised(ours=ours, one=low, alone=same)
    assert said == "take One policy per task, the simplest; as good is PolicyGradEx (k = 2)."
    said = advised(ours=low, one=low, alone=ours, em=same)
    assert said.startswith("take One policy per task, the simplest; as good is Clustering on returns; Policy")
    assert said.endswith("PolicyGradEx falls short of the first by 7.50 [7.50, 7.50].")


def test_one_group_is_called_one_policy_for_all():
    continued = {"multitask_continued": lambda i: [9.0, 9.0 + i]}
    said = advised("told", 1, ours=lambda i: [9.0, 9.0 + i], told=lambda i: [1.0, 2.0], **continued)
    assert said == "take PolicyGradEx (k = 1: one policy for all, going on from the meta-policy)."


def test_seeds_that_were_added_are_also_shown_by_themselves():
    first = main_table.ADDED["cartpole-goals"]
    runs = {
        seed: run(0, ours=[5, 7], dot=[1 if seed < first else 99, 7], cosine=[5, 6], one=[2, 2])
        for seed in (first - 2, first - 1, first + 4, first + 5)
    }
    cells = [made(seed, one) for seed, one in runs.items()]
    assert not main_advice.halves({"cells": cells})  # of another family
    cells = [{**c, "cell": c["cell"] | {"family": "cartpole-goals"}} for c in cells]
    assert not main_advice.halves({"cells": cells[:2]})
    text = main_advice.halves({"cells": cells})
    assert text.endswith(
        "hidden, 30.7k steps a task, against Gradient similarity at its best (cosine, our k), +0.500 [0.500, "
        f"0.500] on family seeds {first - 2} to {first - 1} and +0.500 [0.500, 0.500] on family seeds "
        f"{first + 4} to {first + 5}."
    )
    for shown in (main_tables.overview({"cells": cells}), main_tables.whole({"cells": cells})):
        assert text in shown


def test_of_negative_returns_the_gain_is_held_against_that_of_the_true_groups():
    """A gain of 3 of 4."""
    runs = [run(0, ours=[-7, -7], one=[-10, -10 - i], true=[-6, -6]) for i in range(5)]
    (part,) = main_parts.parts({"cells": [made(6 + i, one) for i, one in enumerate(runs)]})
    gains = np.array([[3 + i / 2, 4 + i / 2] for i in range(5)])
    expected = main_tables._share(aggregates.bootstrap(aggregates.ratio_of_means, gains))
    assert expected.startswith("80% [77%, 8")
    said = main_tables.reached(part)
    assert f"Ours earns {expected} of the true groups, from scratch, of what they earn more than one" in said
    worse = [run(0, ours=[-7, -7], one=[-5, -6 - i], true=[-6, -6]) for i in range(5)]
    (part,) = main_parts.parts({"cells": [made(6 + i, one) for i, one in enumerate(worse)]})
    assert not main_tables.reached(part)  # true groups gain nothing


def test_where_most_methods_reach_the_top_nothing_is_compared():
    """Of two budgets one has the same return for all but one method."""
    low = [made(6 + i, run(0, ours=[5, 7], one=[1, 2], alone=[3, 4], em=[6, 6])) for i in range(2)]
    high = [made(6 + i, run(0, ours=[9, 9], one=[9, 9], alone=[8, 9], em=[9, 9])) for i in range(2)]
    high = [{**c, "cell": c["cell"] | {"steps_per_task": 81_920}} for c in high]
    text = main_tables.whole({"cells": low + high})
    assert "| One policy for all | 1 | 100% [16%, 100%] |" in text
    assert "| Clustering on returns | 1 | 50% |" in text
    assert "the largest return: points-hard at 81.9k steps a task." in text
    assert "Left out" not in main_tables.whole({"cells": low})


def test_a_sentence_has_both_budgets():
    cells = HIDDEN["cells"]
    large = [{**c, "cell": c["cell"] | {"steps_per_task": 81_920}} for c in cells]
    (sentence,) = main_advice.sentences({"cells": cells + large})
    assert sentence.startswith("`points-hard`, hidden: at 30.7k and 81.9k steps a task take PolicyGradEx")


def test_intervals_are_over_family_seeds():
    """Two training seeds of one family seed are no two runs."""
    (part,) = main_parts.parts(HIDDEN)
    (scores,) = part.scores("multitask_base_one_for_all")
    np.testing.assert_array_equal(scores, [[1, 2], [1, 3], [1, 4]])
    found = main_parts.over_units(scores)
    assert found.mean == 2.0 and found.ci95 == pytest.approx((2 - 1.2421, 2 + 1.2421), abs=1e-3)
    alone = {"cells": HIDDEN["cells"][:1]}
    assert len(main_parts.parts(alone)[0].scores(OURS)[0]) == 2  # of one family, its training seeds


def test_the_told_block_takes_what_needs_no_telling_from_the_hidden_one_by_seeds():
    told = [
        made(6 + i, *(run(seed, 1, ours=[8, 8], told=[9, 9], then=[0, 0]) for seed in range(2)), block="told")
        for i in range(3)
    ]
    blind, part = main_parts.parts({"cells": told[::-1] + HIDDEN["cells"]})
    assert (blind.block, part.block) == ("hidden", "told") and not blind.count(f"{OURS}_told")
    assert part.mean(f"{OURS}_told") == 8
    (alone,) = part.scores("single_task_base_one_a_task")
    np.testing.assert_array_equal(alone, [[3, 4], [4, 4], [5, 4]])
    *_, sentence = main_advice.sentences({"cells": told + HIDDEN["cells"]})
    assert "a task take One policy for all; PolicyGradEx falls short of the first by 1.0" in sentence


def test_what_the_told_block_takes_from_the_hidden_one_had_its_settings():
    own, blind = {OURS: [1, 0.5, 1], "told": [5, 1, 1]}, {OURS: [5, 1, 1], "one_a_task": [1, 2, 1]}
    hidden = made(6, run(0, ours=[5, 7], then=[8, 8], alone=[3, 4], one=[1, 2]), **blind)
    told = made(6, run(0, 1, ours=[8, 8], told=[9, 9]), block="told", **own)
    _, part = main_parts.parts({"cells": [hidden, told]})
    text = main_tables.whole({"cells": [hidden, told]}).partition(": task told")[2]
    rows = {line.split(" | ")[0][2:]: line.split(" | ")[-1][:-2] for line in text.splitlines() if "|" in line}
    assert rows["PolicyGradEx (ours)"] == "step size ×0.5" and rows["One policy for all"] == "entropy ×5"
    assert rows["PolicyGradEx, groups found blind and told then"] == "entropy ×5"
    assert rows["One policy per task"] == "step size ×2"


def test_what_some_runs_lack_is_said_and_never_first():
    some = [run(0, ours=[5, 7], alone=[1, 2], em=[50, 50]), run(1, ours=[5, 6], alone=[None, 2])]
    data = {"cells": [made(6, *some)]}
    (part,) = main_parts.parts(data)
    assert part.count("em") == part.count("single_task_base_one_a_task") == 1
    assert main_parts.first(part, part.names()) == (OURS, [OURS])
    assert "50.0 (50.0), 1 of 2 runs" in main_tables.overview(data)
    assert "Clustering on returns (EM), our k, 1 of 2 runs |" in main_tables.whole(data)


def test_cells_of_another_search_are_not_mixed(monkeypatch):
    cell = HIDDEN["cells"][0]
    cell = {**cell, "cell": cell["cell"] | {"methods": ["one_for_all"]}}
    monkeypatch.setattr(main_table, "results", lambda: None)
    with pytest.raises(ConfigError, match="other settings than the table's cell family=points-hard .*--out"):
        main_table.check_factors([cell])
    main_table.check_factors([cell | {"factors": {OURS: [1, 1, 1], "one_for_all": [1, 1, 1]}}])


def test_the_quick_table_runs_and_resumes(tmp_path, capsys):
    out = tmp_path / "main_table.json"
    args = ["--preset", "quick", "--out", str(out)]
    assert main_table.main(args) == 0
    cells = common.read(out)["cells"]
    own = {"multitask_base_pcgrad", "single_task_base_one_a_task"}, {"multitask_paco_paco"}
    for cell, more in zip(cells, own, strict=True):
        first, second = cell["runs"]
        assert (first["seed"], second["seed"]) == (0, 1)
        names = {OURS, "true_groups", *more}
        for entry in (first, second):
            assert names <= set(entry["methods"]) and names <= set(entry["unseen"])
            assert {len(m["per_task"]) for m in entry["methods"].values()} == {4}
    assert main_table.main(args) == 0 and common.read(out)["cells"] == cells
    asked = cells[0]["cell"]
    family = make_family(asked["family"], **common.tuples(asked["settings"]))
    config = override(config_for(family), {"steps_per_task": asked["steps_per_task"], **asked["config"]})
    baseline = method_search.METHODS["one_a_task"]
    (mean,) = method_search.trained(family, config, baseline, [method_search.Factors()])
    found = cells[0]["runs"][0]["methods"]["single_task_base_one_a_task"]
    assert mean == pytest.approx(found["mean"], rel=1e-5)  # of the search, and of the table
    capsys.readouterr()
    assert main_table.main(["--list", "--seeds", "1", "--only", "family=lunarlander", "--only", "told"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
