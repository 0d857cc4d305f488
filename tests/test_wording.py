"""How results are put into words: the advice, the numbers, the table of the terminal."""

import io

import numpy as np
import pytest
from rich.console import Console

from pgx_jax import report, wording


def with_gain(k: int, predicted, realised) -> dict:
    entry = {"groups": None, "metric": "return", "mean": 1.0, "ci95": None, "env_steps": 480_000}
    gains = {"predicted": predicted, "realised": realised}
    gains = {
        key: value and {"mean": value[0], "ci95": list(value[1:]) or None} for key, value in gains.items()
    }
    return {"k": k, "n_tasks": 10, "methods": {"policygradex": entry}, "gain": gains}


UP, FLAT, DOWN = (2.0, 1.0, 3.0), (0.5, -1.0, 2.0), (-2.0, -3.0, -1.0)


@pytest.mark.parametrize(
    ("k", "predicted", "realised", "kind", "start", "parts"),
    [
        (3, UP, UP, "gain", "Group: train these 10 tasks in 3 groups;", ["+2.0 [1.0, 3.0] in mean return"]),
        (10, UP, UP, "gain", "Group: train one policy for each of these 10 tasks;", ["total of 480k"]),
        (3, DOWN, UP, "gain", "Group:", ["predicted gain over one policy for all is -2.0 [-3.0, -1.0]"]),
        (
            3,
            UP,
            FLAT,
            "no_gain",
            "Don't group:",
            ["nothing is gained by 3 groups", "can't be told from zero"],
        ),
        (3, UP, DOWN, "loss", "Don't group:", ["gain nothing and lose something", "-2.0 [-3.0, -1.0]"]),
        (
            3,
            UP,
            (2.0,),
            "no_gain",
            "Don't group:",
            ["nothing is gained", "+2.00 in mean", "without an interval"],
        ),
        (3, UP, None, "predicted", "Group:", ["+2.0 [1.0, 3.0]", "the realised gain was not measured"]),
        (3, FLAT, None, "not_predicted", "Don't group:", ["no gain by 3 groups is shown", "not measured"]),
        (3, (2.0,), None, "not_predicted", "Don't group:", ["no gain by 3 groups is shown"]),
        (3, None, None, "not_predicted", "Don't group:", ["was not predicted", "was not measured"]),
        (
            1,
            FLAT,
            FLAT,
            "no_gain",
            "Don't group: train one policy for all 10 tasks",
            ["nothing is gained by split"],
        ),
        (1, FLAT, UP, "no_gain", "Don't group:", ["nothing is gained", "+2.0 [1.0, 3.0]", "ours is one"]),
        (1, FLAT, DOWN, "no_gain", "Don't group:", ["nothing is gained", "-2.0 [-3.0, -1.0]"]),
        (1, UP, None, "not_predicted", "Don't group:", ["nothing is gained", "not measured"]),
        (3, UP, (float("nan"), 0, 1), "predicted", "Group:", ["not measured"]),
        (3, UP, (2.0, float("nan"), 3.0), "no_gain", "Don't group:", ["without an interval"]),
    ],
)
def test_the_advice_says_what_was_found(k, predicted, realised, kind, start, parts):
    results = with_gain(k, predicted, realised)
    sentence = report.advice(results)
    assert report.verdict(results) == kind
    assert sentence.startswith(start) and sentence.endswith(".")
    assert sentence.count(". ") == 0, "one sentence"
    for part in parts:
        assert part in sentence
    assert sentence.startswith("Group") == (kind in ("gain", "predicted"))


def test_one_group_is_judged_by_the_best_split(ungrouped_results):
    results = ungrouped_results
    assert "predicted gain of the best split over one policy for all is -0.0001 [" in report.advice(results)
    best = wording.predicted_gain(results)  # k = 1 scores best: minus 0.0001, standard error of candidate 3
    assert best == pytest.approx((-0.0001, -0.0001 - 1.96 * 0.0009, -0.0001 + 1.96 * 0.0009))
    results["path"].update(score=[0.0121, 0.0118, 0.0125, 0.0119, 0.0115, 0.0090])
    best = wording.predicted_gain(results)  # a split scores best: plus 0.0004, standard error of k = 1
    assert best == pytest.approx((0.0004, 0.0004 - 1.96 * 0.0011, 0.0004 + 1.96 * 0.0011))
    results["path"].update(k=[1], score=[0.0121], stderr=[0.0], difference=[0.0])
    assert wording.predicted_gain(results) == wording.estimate(results["gain"]["predicted"])


def test_raw_arrays_read_as_the_numbers_they_hold(run_results):
    results = run_results
    expected = report.advice(results)
    results["gain"]["realised"] = {"mean": np.float32(87.7), "ci95": np.array([83.0, 92.4], np.float32)}
    results["path"] = {key: np.asarray(value) for key, value in results["path"].items()}
    assert report.advice(results) == expected


def test_stages_stand_in_the_order_in_which_they_ran(run_results):
    names = [name for name, _ in wording.stage_seconds(run_results)]
    assert names[:2] == ["meta", "transitions"] and names[-3:] == ["similarity", "comparisons", "evaluation"]
    assert [name for name in names if not wording.belongs_to_method(name)] == names[-3:]
    own = {"timings": {"stages": [["b", 1], ["a", 2.0], ["broken", None]]}}
    assert wording.stage_seconds(own) == [("b", 1.0), ("a", 2.0)]
    assert wording.total_seconds(own) == 3.0 and wording.total_seconds({}) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((149.6, 147.3, 151.9), "149.6 [147.3, 151.9]"),
        ((0.01934, 0.0171, 0.0215), "0.0193 [0.0171, 0.0215]"),
        ((1234.5, 1000.0, 1469.0), "1234 [1000, 1469]"),
        ((0.0, None, None), "0.0"),
        ((5.0, 5.0, 5.0), "5.00 [5.00, 5.00]"),
        ((None, None, None), "–"),
        ((-0.001, -0.9, 0.9), "0.00 [-0.90, 0.90]"),
    ],
)
def test_numbers_are_rounded_to_what_their_interval_supports(value, text):
    assert wording.with_interval(wording.Estimate(*value)) == text


def test_steps_and_durations_are_short():
    assert [wording.steps(x) for x in (None, 999, 480_000, 999_900, 1_228_800, 2e9)] == [
        *("–", "999", "480k", "1M", "1.23M", "2G")
    ]
    assert [wording.duration(x) for x in (0.04, 41.23, 59.99, 125, 4320)] == [
        *("0.04 s", "41.2 s", "60.0 s", "2 min 5 s", "1 h 12 min")
    ]


def test_the_terminal_table_lists_every_method(run_results):
    results = run_results
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.terminal_table(results))
    text = console.export_text()
    rows = [line for line in text.splitlines() if "1.23M" in line or "2.1M" in line]
    assert len(rows) == len(wording.ordered_methods(results)) and "PolicyGradEx (ours)" in rows[0]
    assert "149.6 [147.3, 151.9]" in rows[0] and "same total" in text
    assert sum(" *" in row for row in rows) == 1


def test_methods_with_the_same_groups_stand_once_under_all_their_names(run_results):
    shown = [name for name in wording.ordered_methods(run_results) if "similarity" in name]
    assert shown == ["gradient_similarity_cosine", "gradient_similarity_dot"]
    label = wording.method_label(run_results, "gradient_similarity_dot")
    assert label == "Gradient similarity (dot, whitened)"  # at our k, dot comes to the same as alone
    name = "gradient_similarity_dot_our_k"
    assert name in wording.ordered_methods(run_results, every=True)
    assert wording.method_label(run_results, name, alone=True) == "Gradient similarity (dot at our k)"
