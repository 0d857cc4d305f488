"""The figure of return against budget."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pgx_jax.compare.results import OURS
from pgx_jax.report import wording
from pgx_jax.report.budgets import Point, budgets, drawn, earned, known_methods
from pgx_jax.report.figures.canvas import RC, Line, canvas, label_ends, method_style


@matplotlib.rc_context(RC)
def by_budget(points: Sequence[Point]) -> Figure:
    """Mean of every method by steps a task; faint dots are single runs of ours."""
    sizes, methods = budgets(points), known_methods(points)
    lines: list[Line] = []
    figure, axes = canvas(7.6, 4.2)
    for name in drawn(points):
        means = np.array([earned(points, name, size).mean for size in sizes], float)
        known = np.isfinite(means)
        if known.any():
            colour, line = method_style(name)
            x, y, width = np.array(sizes)[known], means[known], 2.4 if name == OURS else 1.4
            axes.plot(x, y, line, marker="o", ms=4, color=colour, lw=width)
            lines.append((name, x, y))
    runs = [(point.steps_per_task, point.methods[OURS].mean) for point in points]
    axes.plot(*zip(*runs, strict=True), "o", ms=3.5, color=method_style(OURS)[0], alpha=0.35, mew=0)
    axes.set_xscale("log")
    axes.set(xlim=(0.95 * min(sizes), 1.05 * max(sizes)))
    axes.set_xticks(sizes, [wording.steps(size) for size in sizes])
    axes.minorticks_off()
    label_ends(axes, lines, {name: wording.method_label(methods, name, alone=True) for name, _, _ in lines})
    axes.set(xlabel="environment steps a task, all that a method needs", ylabel=wording.metric_name(methods))
    axes.grid(axis="y")
    return figure
