"""Return against budget: what runs at several totals of steps come to, as a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pgx_jax.compare.results import OURS, SIMILAR, Interval, MethodResult, Results
from pgx_jax.compare.summaries import over_runs, unbeaten
from pgx_jax.report import wording

if TYPE_CHECKING:
    from rich.table import Table


class Point(NamedTuple):
    """One run at one budget."""

    steps_per_task: int
    seed: int
    k: int
    nmi: float | None
    """With the planted groups; None where there are none."""
    methods: wording.Methods

    @classmethod
    def of(cls, results: Results, steps_per_task: int) -> Point:
        """The results of a run with so many steps a task."""
        nmi = results.agreement.nmi if results.agreement else None
        return cls(steps_per_task, results.seed, results.k, nmi, results.methods)


def budgets(points: Sequence[Point]) -> list[int]:
    """The budgets, in order."""
    return sorted({point.steps_per_task for point in points})


def at(points: Sequence[Point], steps_per_task: int) -> list[Point]:
    """The runs of one budget."""
    return [point for point in points if point.steps_per_task == steps_per_task]


def known_methods(points: Sequence[Point]) -> dict[str, MethodResult]:
    """Every method that some run has, with its entry in one of them."""
    return {name: entry for point in points for name, entry in point.methods.items()}


def compared(points: Sequence[Point]) -> list[str]:
    """Names of the methods that keep the rule in all runs that have them, ours first; of the gradient
    similarities those at their own k."""
    unfair = {name for point in points for name, entry in point.methods.items() if not entry.equal_steps}
    return [
        name
        for name in wording.ordered_methods(known_methods(points), every=True)
        if name not in unfair and not (name.startswith(SIMILAR) and name.endswith("_our_k"))
    ]


def drawn(points: Sequence[Point]) -> list[str]:
    """Those of them that a figure shows: of the gradient similarities the one with the largest mean."""
    names = compared(points)
    similar = [name for name in names if name.startswith(SIMILAR)]

    def whole(name: str) -> float:
        known = [point.methods[name].mean for point in points if name in point.methods]
        return float(np.nanmean(np.array(known, float)))

    kept = max(similar, key=whole, default="")
    return [name for name in names if name not in similar or name == kept]


def earned(points: Sequence[Point], name: str, steps_per_task: int) -> Interval:
    """Mean of a method over the runs of one budget, with its 95% t-interval if there are several; none where
    not all runs have the method, since others would be compared with other runs."""
    some = [point.methods for point in at(points, steps_per_task)]
    return over_runs([methods[name].mean if name in methods else None for methods in some])


def best(points: Sequence[Point], steps_per_task: int) -> list[str]:
    """The methods, planted groups apart, that no other one is shown to be better than at one budget."""
    some = at(points, steps_per_task)
    return unbeaten(
        {
            name: np.array([p.methods[name].mean for p in some], float).tolist()
            for name in compared(points)
            if not name.startswith(wording.UNATTAINABLE) and all(name in p.methods for p in some)
        }
    )


def advice(points: Sequence[Point]) -> str:
    """What earned most at every budget, in words, and how many others are not shown to earn less."""
    parts, methods = [], known_methods(points)
    for budget in budgets(points):
        first, *others = best(points, budget)
        label = wording.method_label(methods, first, alone=True)
        ties = f" ({len(others)} other{'s' if others[1:] else ''} not shown to be worse)" if others else ""
        parts.append(f"{wording.steps(budget)} steps a task: {label}{ties}")
    runs = max(len(at(points, budget)) for budget in budgets(points))
    counted = f"{runs} run{'s' if runs > 1 else ''} a budget, planted groups apart"
    return f"Earned most ({counted}): {'; '.join(parts)}."


def cells(points: Sequence[Point]) -> tuple[list[str], list[list[str]]]:
    """The table: its head, and a row a method; mean return (or success) by budget, and the k of ours."""
    sizes, methods = budgets(points), known_methods(points)
    rows = [
        [wording.method_label(methods, name, alone=True)]
        + [wording.with_interval(earned(points, name, budget)) for budget in sizes]
        for name in compared(points)
    ]
    found = [at(points, budget) for budget in sizes]
    rows.append(["k of ours", *(", ".join(str(k) for k in sorted({p.k for p in some})) for some in found)])
    if points[0].nmi is not None:
        nmi = [np.mean([p.nmi for p in some if p.nmi is not None]) for some in found]
        rows.append(["NMI of ours with the planted groups", *(f"{x:.2f}" for x in nmi)])
    return ["steps a task", *(wording.steps(budget) for budget in sizes)], rows


def terminal_table(points: Sequence[Point], family: str) -> Table:
    """The table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    head, rows = cells(points)
    table = Table(title=Text(f"{family}: {wording.metric_name(points[0].methods)} by budget"))
    for i, column in enumerate(head):
        table.add_column(column, justify="right" if i else "left")
    ours = wording.method_label(points[0].methods, OURS)
    for row in rows:
        table.add_row(*map(Text, row), style="bold" if row[0] == ours else None)
    return table
