"""The figure of return against budget."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pgx_jax.compare.results import OURS
from pgx_jax.report import wording
from pgx_jax.report.budgets import Point, budgets, compared, earned
from pgx_jax.report.figures.canvas import RC, Line, canvas, label_ends, method_style


@matplotlib.rc_context(RC)
def by_budget(points: Sequence[Point]) -> Figure:
    """Mean of every method by steps a task, with 95% intervals over runs where there are several."""
    sizes = budgets(points)
    drawn: list[Line] = []
    figure, axes = canvas(7.6, 4.2)
    for name in reversed(compared(points)):
        values = [earned(points, name, size) for size in sizes]
        colour, line = method_style(name)
        means = np.array([value.mean for value in values], float)
        axes.plot(sizes, means, line, marker="o", ms=4, color=colour, lw=2.4 if name == OURS else 1.4)
        if all(value.lo is not None for value in values):
            low, high = ([getattr(value, side) for value in values] for side in ("lo", "hi"))
            axes.fill_between(sizes, low, high, color=colour, alpha=0.1, lw=0)
        drawn.insert(0, (name, np.array(sizes), means))
    methods = points[0].methods
    axes.set_xscale("log")
    axes.set(xlim=(0.95 * min(sizes), 1.05 * max(sizes)))
    axes.set_xticks(sizes, [wording.steps(size) for size in sizes])
    axes.minorticks_off()
    label_ends(axes, drawn, {name: wording.method_label(methods, name, alone=True) for name, _, _ in drawn})
    axes.set(xlabel="environment steps a task, all that a method needs", ylabel=wording.metric_name(methods))
    axes.grid(axis="y")
    return figure
