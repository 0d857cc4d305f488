"""What results come to: the predicted gain, the verdict, and the advice in words."""

import pytest
from msgspec import structs
from small import with_methods

from pgx_jax import report
from pgx_jax.compare.results import (
    SCHEMA_VERSION,
    Evidence,
    Gain,
    Interval,
    MethodResult,
    PathResult,
    Results,
    UndecidedTask,
)
from pgx_jax.report import conclusion, wording

UP, FLAT, DOWN, ZERO = (2.0, 1.0, 3.0), (0.5, -1.0, 2.0), (-2.0, -3.0, -1.0), (0.0, 0.0, 0.0)


def with_gain(k: int, predicted, realised, penalty=None) -> Results:
    """Results of ten tasks; for k = 1 ``predicted`` is that of the only split, or None if none was judged."""
    path = {"k": [k], "score": [0.3], "stderr": [0.0], "penalty": [penalty]}
    if k == 1 and predicted:
        mean, half = predicted[0], (predicted[-1] - predicted[1]) / 2 if predicted[1:] else None
        error = half and half / 1.96
        path = {"k": [1, 2], "score": [0.3, 0.3 + mean], "stderr": [error, error], "penalty": [None] * 2}
    names = [f"task{i}" for i in range(10)]
    return Results(
        schema_version=SCHEMA_VERSION,
        family="made up",
        seed=0,
        n_tasks=10,
        task_names=names,
        k=k,
        groups=[names],
        methods={
            "policygradex": MethodResult(mean=1.0, metric="return", env_steps=480_000),
            "multitask": MethodResult(mean=1.0, metric="return", env_steps=492_000),
        },
        gain=Gain(measured(predicted if k > 1 else ZERO), measured(realised)),
        path=PathResult(**path, labels=[], difference=[], chosen=0),
    )


def measured(value: tuple | None) -> Interval | None:
    """The interval of (mean,) or (mean, low, high)."""
    return value and Interval(value[0], value[1:] or None)


SMALL = "the gain that is predicted is too small to be worth a split; the predicted gain of the best split"
ONE = "Don't group: train one policy for all 10 tasks, because"
NONE = f"{ONE} no gain by splitting them is shown;"
NOTHING = f"{ONE} nothing is gained by splitting them;"


@pytest.mark.parametrize(
    ("k", "predicted", "realised", "kind", "start", "parts"),
    [
        (3, UP, UP, "gain", "Group: train these 10 tasks in 3 groups;", ["+2.0 [1.0, 3.0] in mean return"]),
        (3, UP, UP, "gain", "Group:", ["evaluation alone: another training seed may", "--seeds 5"]),
        (10, UP, UP, "gain", "Group: train one policy for each of these 10 tasks;", ["at most 492k env"]),
        (3, DOWN, UP, "gain", "Group:", ["predicted gain over one policy for all is -2.0 [-3.0, -1.0]"]),
        (3, UP, FLAT, "not_shown", f"{ONE} no gain by 3 groups is shown;", ["can't be told from zero"]),
        (3, UP, ZERO, "no_gain", f"{ONE} nothing is gained by 3 groups;", ["+0.0 [0.0, 0.0] in mean"]),
        (3, UP, DOWN, "loss", f"{ONE} 3 groups gain nothing and lose something;", ["-2.0 [-3.0, -1.0]"]),
        (10, UP, DOWN, "loss", f"{ONE} one policy per task gain", ["-2.0 [-3.0, -1.0]"]),
        (3, UP, (2.0,), "not_shown", f"{ONE} no gain by 3 groups is measured with", ["+2.00 in mean return"]),
        (3, UP, None, "predicted", "Group:", ["+2.0 [1.0, 3.0]", "the realised gain was not measured"]),
        (3, FLAT, None, "not_shown", f"{ONE} no gain by 3 groups is shown;", ["not measured"]),
        (3, (2.0,), None, "not_shown", f"{ONE} no gain by 3 groups is shown;", ["+2.00 (held-out"]),
        (3, None, None, "not_shown", f"{ONE} no gain by 3 groups", ["was not predicted", "was not measured"]),
        (3, UP, (None, 0, 1), "predicted", "Group:", ["not measured"]),
        (3, UP, (2.0, None, 3.0), "not_shown", ONE, ["not measured with an interval"]),
        # one group was chosen
        (1, FLAT, FLAT, "not_shown", NONE, ["+0.5 [-1.0, 2.0] (held-out"]),
        (1, FLAT, UP, "not_shown", NONE, ["+2.0 [1.0, 3.0]", "a gain of its training)"]),
        (1, FLAT, DOWN, "not_shown", NONE, ["-2.0 [-3.0, -1.0]", "otherwise: a loss of its training)"]),
        (1, FLAT, ZERO, "not_shown", NONE, ["+0.0 [0.0, 0.0] in mean"]),
        (1, UP, ZERO, "too_small", f"{ONE} {SMALL}", ["+0.0 [0.0, 0.0] in mean"]),
        (1, DOWN, FLAT, "no_gain", NOTHING, ["is -2.0 [-3.0, -1.0] (held"]),
        (1, UP, FLAT, "too_small", f"{ONE} {SMALL}", ["+2.0 [1.0, 3.0] (held-out", "trained otherwise)"]),
        (1, UP, DOWN, "too_small", f"{ONE} {SMALL}", ["-2.0 [-3.0, -1.0] in mean", "a loss of its training"]),
        (1, UP, None, "too_small", f"{ONE} {SMALL}", ["while the realised gain was not measured"]),
        (1, (2.0,), FLAT, "not_shown", NONE, ["is +2.00 (held-out"]),
        (1, FLAT, (-0.7,), "not_shown", NONE, ["-0.700 in mean return (not measured with"]),
    ],
)  # fmt: skip
def test_the_advice_says_what_was_found(k, predicted, realised, kind, start, parts):
    results = with_gain(k, predicted, realised)
    sentence = report.advice(results)
    assert report.verdict(results) == kind
    assert sentence.startswith(start) and sentence.endswith(".")
    assert sentence.count(". ") == 0, "one sentence"
    for part in parts:
        assert part in sentence
    assert sentence.startswith("Group") == (kind in ("gain", "predicted"))
    assert ("nothing is gained" in sentence) == (kind == "no_gain")


def test_one_group_that_continues_the_meta_policy_is_ours():
    results = with_gain(1, FLAT, ZERO)
    same = MethodResult(mean=1.0, metric="return", env_steps=480_000, difference=Interval(0.0, (0.0, 0.0)))
    results = structs.replace(results, methods=results.methods | {"multitask_continued": same})
    assert "and ours is that one policy, so that nothing is gained or lost." in report.advice(results)


@pytest.mark.parametrize("realised", [UP, DOWN, ZERO, (0.5,), None])
@pytest.mark.parametrize(
    ("penalty", "given"),
    [(None, "k = 1 was given"), (4.0, "the settings (a trace penalty, or max_groups = 1)")],
)
def test_where_one_group_was_given_splits_were_not_judged(realised, penalty, given):
    results = with_gain(1, None, realised, penalty)
    sentence = report.advice(results)
    assert report.verdict(results) == "not_judged"
    assert conclusion.predicted_gain(results) == Interval()
    assert (
        sentence.startswith(f"One policy for all 10 tasks, as {given}")
        and "splits were not judged" in sentence
    )
    assert "nothing is gained" not in sentence and "of the best split" not in sentence
    shown = {UP: "+2.0 [1.0, 3.0]", DOWN: "-2.0 [-3.0, -1.0]", ZERO: "+0.0 [0.0, 0.0]", (0.5,): "+0.500"}
    assert shown.get(realised, "was not measured") in sentence


def bounds(value):
    return value.mean, value.lo, value.hi


def test_one_group_is_judged_by_the_best_split(ungrouped_results):
    results = ungrouped_results
    assert "predicted gain of the best split over one policy for all is -0.0001 [" in report.advice(results)
    # k = 1 scores best: minus 0.0001, standard error of candidate 3
    best = bounds(conclusion.predicted_gain(results))
    assert best == pytest.approx((-0.0001, -0.0001 - 1.96 * 0.0009, -0.0001 + 1.96 * 0.0009))
    path = structs.replace(results.path, score=[0.0121, 0.0118, 0.0125, 0.0119, 0.0115, 0.0090])
    # a split scores best: plus 0.0004, standard error of k = 1
    best = bounds(conclusion.predicted_gain(structs.replace(results, path=path)))
    assert best == pytest.approx((0.0004, 0.0004 - 1.96 * 0.0011, 0.0004 + 1.96 * 0.0011))
    results = structs.replace(results, path=None)
    # zero, the gain of one group over itself, is no prediction
    assert conclusion.predicted_gain(results) == Interval()
    assert "the gain was not predicted" in report.advice(results)


def evidence(kind: str, mean: float = 0.01) -> Evidence:
    around = Interval(mean, (mean - 0.002, mean + 0.002))
    return Evidence(gain=around, z=10.0, needed=1.64, null=0.0021, opposition=Interval(), kind=kind)


@pytest.mark.parametrize("kind", ["conflict", "company", "apart"])
def test_the_evidence_for_a_split_is_told(run_results, kind):
    results = structs.replace(run_results, evidence=evidence(kind))
    words = {"conflict": "harms a task)", "company": "no conflict)", "apart": "nor harms a task)"}
    told = "(held-out surrogate score; 0.0021 for random groups of these sizes; {}"
    assert told.format("what the other groups want") in report.advice(results)
    assert words[kind] in report.advice(results)


def test_one_group_is_judged_by_the_evidence_for_a_split(ungrouped_results):
    results = structs.replace(ungrouped_results, evidence=evidence("company"))
    assert bounds(conclusion.predicted_gain(results)) == pytest.approx((0.01, 0.008, 0.012))
    assert report.verdict(results) == "too_small"
    assert "because what a split adds is little beside what training them together still" in report.advice(
        results
    )
    assert report.verdict(structs.replace(results, evidence=evidence("apart", -0.01))) == "no_gain"


def difference(mean: float, half: float) -> dict:
    return {"difference": Interval(mean, (mean - half, mean + half))}


def test_a_second_sentence_names_the_methods_that_do_better(run_results):
    first = report.advice(run_results)
    assert first.count(". ") == 1 and first.startswith("Group")
    assert (
        "told their task or not, ours earned most at this budget, with this seed: 149.6 [147.3, 151.9]."
        in first
    )
    better = {
        "multitask_conditioned": difference(-4.5, 0.6),
        "multitask": difference(87.7, 4.7),
        "random": difference(-1.0, 1.0),  # an interval that touches zero
        "true_groups_same_steps_per_policy": difference(-3.7, 0.3),  # outside the rule
    }
    results = with_methods(run_results, better)
    short = " At the same total, ours falls short of"
    second = f"{short} one policy for all that is told its task by 4.50 [3.90, 5.10]"
    assert report.advice(results) == f"{first}{second}."
    better["true_groups"] = difference(-1.6, 0.4)
    for name in ("dot", "dot_our_k", "whitened"):
        better[f"gradient_similarity_{name}"] = difference(-21, 14)
    results = with_methods(run_results, better)
    more = "of gradient similarity (dot, whitened) by 21 [7, 35] and of the true groups by 1.60 [1.20, 2.00]"
    assert report.advice(results) == f"{first}{second}, {more}."
    results = with_methods(results, {"policygradex": {"equal_steps": False}})
    assert " Even with the given meta-policy's training not counted, ours falls" in report.advice(results)


def test_one_policy_that_does_better_than_one_policy_is_told_apart(ungrouped_results):
    results = with_methods(ungrouped_results, {"multitask": difference(-2.9, 0.75)})
    end = "ours falls short of one policy for all without meta-training by 2.90 [2.15, 3.65]."
    assert report.advice(results).endswith(end)


def test_undecided_tasks_are_named_where_groups_are_unstable(run_results):
    """The first three of them; with a remark where later looks have changed the groups."""
    names, stable = run_results.task_names, run_results.stability
    assert "Undecided" not in report.advice(run_results)
    one = UndecidedTask(task="x", mates=["a", "b"], own=0.62, others=["c", "d", "e", "f"], elsewhere=0.3)
    alone = UndecidedTask(task="y", mates=[], own=None, others=["c"], elsewhere=0.41)
    told = structs.replace(stable, undecided=[one, alone])
    advice = report.advice(structs.replace(run_results, stability=told))
    assert (
        "Undecided where the trajectories are drawn again: x is with a, b in 62% of the draws and with c, d, "
        "e and 1 more in 30%; y, alone, is with c in 41% of the draws. (Of these trajectories' noise alone:"
    ) in advice
    assert "and 2 more tasks." in wording.undecided(structs.replace(told, undecided=[one] * 5))
    assert "In the first split" not in advice
    later = structs.replace(told, groups=[names[:5], names[5:]])
    advice = report.advice(structs.replace(run_results, stability=later))
    assert "In the first split, k = 2: undecided" in advice
    joined = structs.replace(run_results, k=1, groups=[names], stability=later)
    assert "ndecided" not in report.advice(joined)
