"""Figures of the method itself: its stages, the affinity, and the choice of the partition."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from pgx_jax.compare.results import AffinityResult, Groups, Results
from pgx_jax.report import wording
from pgx_jax.report.figures.canvas import BLUE, FAINT, canvas, group_colour, task_labels


def pipeline(results: Results) -> Figure | None:
    """Waterfall of the stages: when each ran and for how long."""
    stages = wording.stage_seconds(results.timings)
    if len(stages) < 2:
        return None
    seconds = np.array([max(value, 0.0) for _, value in stages])
    start, total = np.cumsum(seconds) - seconds, max(seconds.sum(), 1e-9)
    own = [wording.belongs_to_method(name) for name, _ in stages]
    figure, axes = canvas(7.6, 0.9 + 0.29 * len(stages))
    rows = np.arange(len(stages))
    colours = [BLUE if mine else FAINT for mine in own]
    axes.barh(rows, np.maximum(seconds, 0.004 * total), left=start, height=0.62, color=colours)
    for row, (begin, length) in enumerate(zip(start, seconds, strict=True)):
        left = (begin + length) / total > 0.72
        x, side, pad = (begin, "right", -5) if left else (begin + max(length, 0.004 * total), "left", 5)
        axes.annotate(
            wording.duration(length), (x, row), (pad, 0), textcoords="offset points", ha=side, va="center"
        )
    axes.set_yticks(rows, [name.replace("_", " ") for name, _ in stages])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlabel="seconds since the start", xlim=(0, total * 1.02), ylim=(len(stages) - 0.5, -0.5))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    if len(set(own)) == 2:
        handles = [Patch(color=BLUE, label="the method"), Patch(color=FAINT, label="judging it")]
        place = "lower left" if start[-1] > 0.4 * total else "upper right"
        axes.legend(handles=handles, loc=place, fontsize=9)
    return figure


def affinity(results: Results) -> Figure | None:
    """Affinity of every pair, ordered by group, with the number of subsets behind it if there are any; None
    of two tasks, which are one pair."""
    if results.affinity is None or results.n_tasks < 3:
        return None
    return affinity_of(results.affinity, results.task_names, results.groups, results.true_groups)


def stability(results: Results) -> Figure | None:
    """How often every pair is in one group where trajectories are drawn again; None where there is but one
    partition into as many groups."""
    found = results.stability
    if found is None or not 1 < len(found.groups) < results.n_tasks:
        return None
    percent = (100 * np.array(found.together, float)).tolist()
    return affinity_of(
        AffinityResult(percent, None), results.task_names, found.groups, results.true_groups,
        title="together in % of the draws", limits=(0.0, 100.0), written=True,
    )  # fmt: skip


def affinity_of(
    entry: AffinityResult,
    names: list[str],
    groups: Groups,
    true_groups: Groups | None = None,
    *,
    title: str = "affinity",
    limits: tuple[float, float] | None = None,
    written: bool = False,
) -> Figure:
    """The same of an affinity alone; without coverage its panel is left out. Of up to 16 tasks the values can
    be ``written`` as well, as whole numbers."""
    found = task_labels(groups, names)
    true = task_labels(true_groups, names) if true_groups else None
    order = np.argsort(found, kind="stable")
    n = len(names)
    matrix = np.array(entry.matrix, dtype=float)[np.ix_(order, order)]
    matrix[np.eye(n, dtype=bool)] = np.nan
    panels = [(title, matrix, "cividis")]
    if entry.coverage:
        coverage = np.array(entry.coverage, dtype=float)[np.ix_(order, order)]
        coverage[np.eye(n, dtype=bool)] = np.nan
        panels.append(("subsets that contain both", coverage, "GnBu"))
    side = float(np.clip(0.26 * n, 3.0, 6.5))
    figure, grid = canvas(1.4 + len(panels) * (side + 0.7), side + 0.9, columns=len(panels))
    for i, (axes, (title, values, colours)) in enumerate(zip(grid, panels, strict=True)):
        low, high = limits if limits and i == 0 else _limits(values)
        image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        level = np.unique(values[np.isfinite(values)])
        if len(level) > 1:
            bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03, shrink=0.86)
            bar.outline.set_visible(False)
            bar.locator = MaxNLocator(5, integer=i == 1)
            bar.update_ticks()
        elif i == 1 and len(level):
            title = f"{title}: {level[0]:g} for every pair"
        axes.set_title(title)
        if written and n <= _FEW:
            _write(axes, values)
        _mark_groups(axes, found[order], None if true is None or i else true[order])
        ticks = [names[j] for j in order] if n <= 40 else []
        axes.set_xticks(range(len(ticks)), ticks, rotation=90)
        axes.set_yticks(range(len(ticks)) if i == 0 else [], ticks if i == 0 else [])
        axes.tick_params(length=0, labelsize=_tick_size(n))
        axes.tick_params(axis="y", pad=24 if true is not None else 13)
        axes.spines[:].set_visible(False)
    return figure


def path(results: Results) -> Figure | None:
    """Held-out score of every candidate partition over its k, and the one that was chosen.

    None for a single candidate, among which there is nothing to choose.
    """
    entry = results.path
    if entry is None or len(entry.k) < 2 or all(score is None for score in entry.score):
        return None
    k, score = np.array(entry.k, float), np.array(entry.score, float)
    error, difference = np.nan_to_num(np.array(entry.stderr, float)), np.array(entry.difference, float)
    factor, best = 2.0, np.nanmax(score)
    within = np.nan_to_num(np.abs(difference), nan=np.inf) <= factor * error + 1e-12
    within = within if entry.equal is None else np.array(entry.equal, bool)
    x = k + _jitter(k)
    figure, axes = canvas(7.6, 3.5)
    axes.axhline(best, color=FAINT, ls="--", lw=1)
    for inside, face in ((True, BLUE), (False, "none")):
        rows = within == inside
        axes.errorbar(
            x[rows], score[rows], factor * error[rows], fmt="o", ms=6, color=BLUE, mfc=face, elinewidth=1.1
        )
    chosen = entry.chosen
    ring: dict[str, Any] = {"marker": "o", "ls": "", "mfc": "none", "mec": "#d55e00", "mew": 2}
    axes.plot(x[chosen], score[chosen], ms=15, **ring)
    handles = [
        Line2D([], [], ms=10, **ring, label=f"chosen: k = {int(k[chosen])}"),
        Line2D([], [], marker="o", ls="", color=BLUE, label="as good as the best"),
        Line2D([], [], marker="o", ls="", color=BLUE, mfc="none", label="worse than that"),
        Line2D([], [], color=FAINT, ls="--", label="best score"),
    ]
    axes.set(xlabel="number of groups k", ylabel="held-out score of the partition")
    axes.set_xlim(k.min() - 0.6, k.max() + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=9)
    return figure


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    return low - (low == high), high + (low == high)


def _mark_groups(axes: Any, found: np.ndarray, true: np.ndarray | None) -> None:
    """Outline the blocks of the groups, with strips of their colours beside the rows."""
    n = len(found)
    for group in np.unique(found):
        rows = np.flatnonzero(found == group)
        corner, size = rows[0] - 0.5, len(rows)
        axes.add_patch(
            Rectangle((corner, corner), size, size, fill=False, ec="#e8590c", lw=1.6, clip_on=False)
        )
    thickness = 0.028 * n
    for strip, (labels, title) in enumerate(((found, "found"), (true, "true"))):
        if labels is None:
            continue
        x = -0.5 - (strip + 1) * (thickness * 1.5)
        for row, label in enumerate(labels):
            colour = group_colour(label)
            patch = Rectangle((x, row - 0.5), thickness, 1, fc=colour, ec=colour, lw=0.4, clip_on=False)
            axes.add_patch(patch)
        if true is not None:
            small = _tick_size(n) - 1
            axes.text(x + thickness / 2, n - 0.4, title, rotation=90, ha="center", va="top", fontsize=small)


_FEW = 16
"""Tasks whose values have room to be written."""


def _write(axes: Any, values: np.ndarray) -> None:
    """Write values into their cells, in ink that stands out."""
    middle = sum(axes.images[0].get_clim()) / 2
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "black" if value > middle else "white"
            axes.text(j, i, f"{value:.0f}", color=ink, ha="center", va="center", fontsize=7.5)


def _tick_size(n: int) -> float:
    return 9 if n <= _FEW else 7


def _jitter(k: np.ndarray) -> np.ndarray:
    """Offsets that keep candidates of the same k apart, float like ``k``."""
    offset = np.zeros(len(k))
    for value in np.unique(k):
        rows = np.flatnonzero(k == value)
        offset[rows] = (np.arange(len(rows)) - (len(rows) - 1) / 2) * min(0.12, 0.7 / len(rows))
    return offset
