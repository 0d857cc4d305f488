"""The figures of a run.

Every drawing function takes the results and returns a matplotlib figure, or None where the results
lack what it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pgx_jax.report.figures.budgets import by_budget
from pgx_jax.report.figures.canvas import RC, png, svg
from pgx_jax.report.figures.comparison import curves, curves_by_task, methods, per_task
from pgx_jax.report.figures.method import affinity, affinity_of, path, pipeline, stability
from pgx_jax.report.figures.runs import DRAWERS as OF_RUNS
from pgx_jax.report.figures.seeds import DRAWERS as OF_SEEDS
from pgx_jax.report.figures.tree import looks

__all__ = [
    "DRAWERS",
    "OF_RUNS",
    "OF_SEEDS",
    "affinity",
    "affinity_of",
    "by_budget",
    "curves",
    "curves_by_task",
    "draw_all",
    "looks",
    "methods",
    "path",
    "per_task",
    "pipeline",
    "png",
    "stability",
    "svg",
]

DRAWERS = {
    "pipeline": pipeline,
    "looks": looks,
    "affinity": affinity,
    "stability": stability,
    "path": path,
    "methods": methods,
    "per_task": per_task,
    "curves": curves,
    "curves_by_task": curves_by_task,
}
"""File name (without ending) -> drawing function."""


Drawer = Callable[[Any], Figure | None]


def draw_all(results: Any, drawers: Mapping[str, Drawer] = DRAWERS) -> dict[str, Figure]:
    """Every figure that the results have the numbers for, by file name (without ending)."""
    with matplotlib.rc_context(RC):
        drawn = {name: figure for name, draw in drawers.items() if (figure := draw(results)) is not None}
        for figure in drawn.values():
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the layout is settled: PNG and SVG need not find it again
    return drawn
