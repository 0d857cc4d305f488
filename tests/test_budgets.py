"""The same family at several budgets: the runs, what they come to in words, and the figure."""

import dataclasses

import numpy as np
import pytest
from small import small

from pgx_jax import ConfigError
from pgx_jax.cli import main as cli
from pgx_jax.compare.results import MethodResult
from pgx_jax.report import budgets
from pgx_jax.report.budgets import Point
from pgx_jax.report.figures import by_budget, png
from pgx_jax.runs import budgets as runs


def point(steps, seed, k=2, nmi=1.0, **means):
    methods = {name: MethodResult(mean=mean, metric="return") for name, mean in means.items()}
    return Point(steps, seed, k, nmi, methods)


POINTS = [
    point(10, 0, k=1, policygradex=1.0, multitask=1.1, single_task=0.0, true_groups=9.0, only_here=1.0),
    point(10, 1, k=1, policygradex=1.2, multitask=1.5, single_task=0.4, true_groups=9.0),
    point(40, 0, policygradex=5.0, multitask=2.0, single_task=4.9, true_groups=9.0),
    point(40, 1, k=3, nmi=0.5, policygradex=5.2, multitask=2.1, single_task=5.3, true_groups=9.0),
]


def test_what_runs_at_several_budgets_come_to():
    assert budgets.budgets(POINTS) == [10, 40]
    assert budgets.compared(POINTS) == [
        "policygradex",
        "multitask",
        "true_groups",
        "single_task",
        "only_here",
    ]
    value = budgets.earned(POINTS, "multitask", 10)
    half = 12.706204736 * np.std([1.1, 1.5], ddof=1) / np.sqrt(2)
    assert value.mean == pytest.approx(1.3) and value.ci95 == pytest.approx((1.3 - half, 1.3 + half))
    assert budgets.earned(POINTS[:1], "multitask", 10).ci95 is None
    assert budgets.earned(POINTS, "only_here", 10).mean is None  # in one of two runs
    assert budgets.best(POINTS, 10) == ["multitask", "policygradex"]  # 0.1 and 0.3 less: may be luck
    assert budgets.best(POINTS, 40)[:2] == ["policygradex", "single_task"]  # the planted groups left out
    assert budgets.best(POINTS[:1], 10) == ["multitask"]
    said = budgets.advice(POINTS)
    assert said.startswith(
        "Earned most (2 runs a budget, planted groups apart): "
        "10 steps a task: One policy for all (1 other not shown to be worse); 40 steps"
    )
    similar = {"gradient_similarity_dot": 1.0, "gradient_similarity_cosine": 3.0}
    assert budgets.drawn([point(10, 0, policygradex=2.0, **similar)]) == [
        "policygradex", "gradient_similarity_cosine",
    ]  # fmt: skip
    head, rows = budgets.cells(POINTS)
    assert head == ["steps a task", "10", "40"] and all(len(row) == 3 for row in rows)
    assert rows[0][0] == "PolicyGradEx (ours)" and rows[-2][1:] == ["1", "2, 3"] and rows[-1][2] == "0.75"


def test_the_figure_names_every_line():
    figure = by_budget(POINTS)
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} >= {"PolicyGradEx (ours)", "One policy per task"}
    (ours,) = [line for line in axes.lines if line.get_linewidth() > 2]
    assert ours.get_xdata().tolist() == [10, 40] and ours.get_ydata() == pytest.approx([1.1, 5.1])
    assert png(figure).startswith(b"\x89PNG")


def test_runs_are_made_once(small_settings, tmp_path, monkeypatch):
    family, config = small(small_settings, k=2, test_tasks=0, looks=1)
    known = (family, config, (3600, 5400), (5, 6), tmp_path)
    first = list(runs.run_budgets(*known))
    assert [(steps, found.seed) for steps, found in first] == [(3600, 5), (3600, 6), (5400, 5), (5400, 6)]
    totals = [results.methods["policygradex"].env_steps for _, results in first]
    assert 3000 * family.n < totals[0] <= 3600 * family.n < totals[2] <= 5400 * family.n
    monkeypatch.setattr(runs, "begin", None)  # nothing is made anew
    again = list(runs.run_budgets(*known))
    assert [results for _, results in again] == [results for _, results in first]
    other = dataclasses.replace(config, episodes=3)
    with pytest.raises(ConfigError, match="steps=3600-seed=5 holds a run with other settings"):
        list(runs.run_budgets(family, other, *known[2:]))
    with pytest.raises(ConfigError, match="at least one budget and one seed"):
        list(runs.run_budgets(family, config, (3600,), (), tmp_path))
    with pytest.raises(ConfigError, match="raise steps_per_task"):
        next(runs.run_budgets(family, config, (5400, 100), (5,), tmp_path))


def test_the_command(small_settings, tmp_path, monkeypatch, capsys):
    asked, by_steps = [], {point.steps_per_task: point for point in POINTS}

    def made(family, config, steps, seeds, out, listener):
        asked.append((family.n, config.seed, steps, list(seeds), out))
        for budget in steps:
            yield budget, by_steps[budget]

    monkeypatch.setattr("pgx_jax.cli.study.run_budgets", made)
    monkeypatch.setattr(budgets.Point, "of", lambda results, steps: results)
    out = tmp_path / "study"
    args = [
        "study",
        "budget",
        "points",
        "--n-tasks",
        "6",
        "--steps",
        "10",
        "40",
        "--seed",
        "3",
        "--seeds",
        "2",
    ]
    assert cli.main([*args, "--out", str(out)]) == 0
    assert asked == [(6, 3, (10, 40), [3, 4], out)]
    assert "Earned most" in capsys.readouterr().out and (out / "budget.png").is_file()
    page = (out / "report.html").read_text()
    assert "Earned most" in page and "<svg" in page and "<a href" not in page  # no runs are there
    assert cli.main(["study", "budgets", "points"]) == 2
    by_default = (5120, 10_240, 20_480, 40_960, 81_920, 163_840)
    by_steps.update((steps, point(steps, 0, policygradex=1.0)) for steps in by_default)
    assert cli.main(["study", "budget", "points", "--out", str(out)]) == 0
    assert asked[-1][2] == by_default
