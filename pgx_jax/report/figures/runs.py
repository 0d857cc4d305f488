"""The figure of saved runs beside each other: every method with its interval, on every side."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pgx_jax.compare.results import OURS
from pgx_jax.compare.runs import RunsResult
from pgx_jax.report import runs, wording
from pgx_jax.report.figures.canvas import FAINT, canvas, group_colour


def beside(found: RunsResult) -> Figure | None:
    """Mean of every method (rows) on every side (colours) with its interval; hollow outside the rule of equal
    steps."""
    entries = runs.methods(found)
    names = [name for name in entries if any(_mean(side, name) is not None for side in found.sides)]
    if not names:
        return None
    gap = 0.8 / len(found.sides)
    figure, axes = canvas(7.0, 1.2 + (0.2 + 0.14 * len(found.sides)) * len(names))
    for i, side in enumerate(found.sides):
        for row, name in enumerate(names):
            if _mean(side, name) is None:
                continue
            value, colour = side.methods[name].interval, group_colour(i)
            height = row + (i - (len(found.sides) - 1) / 2) * gap
            if value.lo is not None:
                axes.plot([value.lo, value.hi], [height, height], color=colour, lw=2, solid_capstyle="round")
            ticks = np.array(side.methods[name].by_seed, float)
            if len(ticks) > 1:
                axes.plot(ticks, np.full(len(ticks), height), "|", ms=5, color=colour, alpha=0.7)
            face = colour if side.methods[name].equal_steps else "white"
            axes.plot(value.mean, height, "o", ms=6, color=colour, mfc=face)
    axes.set_yticks(range(len(names)), [runs.label(entries, name).removesuffix(" *") for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_weight("bold" if name == OURS else "normal")
    axes.hlines(
        np.arange(len(names) - 1) + 0.5, 0, 1, transform=axes.get_yaxis_transform(), color=FAINT, lw=0.4
    )
    axes.set(xlabel=f"{wording.metric_name(entries)} over all tasks", ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    for i, side in enumerate(found.sides):
        axes.plot([], [], "o-", color=group_colour(i), label=f"{side.name} ({runs.over(side)})")
    figure.legend(loc="outside upper left", ncols=min(3, len(found.sides)), fontsize=9)
    return figure


def _mean(side: runs.Side, name: str) -> float | None:
    return side.methods[name].mean if name in side.methods else None


DRAWERS = {"runs": beside}
"""File name (without ending) -> drawing function."""
