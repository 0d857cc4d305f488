"""Figures of the comparison: learning curves, methods with intervals, tasks one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from msgspec import UNSET

from pgx_jax.compare.results import BY_TASK, OURS, Number, Results
from pgx_jax.report import wording
from pgx_jax.report.figures.canvas import (
    BLUE,
    FAINT,
    INK,
    Line,
    canvas,
    group_colour,
    label_ends,
    method_style,
    task_labels,
)


def curves(results: Results) -> Figure | None:
    """Mean training return of each method's policies over its total environment steps; success in the last
    step as a thinner line beside that in any.

    Methods outside the rule of equal totals are left out: their axis would be another one.
    """
    drawn, ends = [], []
    for name in wording.ordered_methods(results.methods):
        if name not in results.curves or not results.methods[name].equal_steps:
            continue
        curve = results.curves[name]
        drawn += _line(name, curve.steps, curve.returns)
        ends += _line(name, curve.steps, curve.at_end or [None] * len(curve.steps))
    if not drawn:
        return None
    figure, axes = canvas(7.6, 3.9)
    for name, x, y in ends:
        colour, line = method_style(name)
        axes.plot(x, y, line, color=colour, **LAST_STEP)
    for name, x, y in reversed(drawn):
        colour, line = method_style(name)
        axes.plot(
            x, y, line, color=colour, lw=2.4 if name == OURS else 1.5, marker="o" if len(x) == 1 else None
        )
    end = max(x[-1] for _, x, _ in drawn)
    axes.set(xlim=(0, end))
    label_ends(axes, drawn, {name: wording.method_label(results.methods, name) for name, _, _ in drawn})
    axes.set(
        xlabel="environment steps, all of a method's policies",
        ylabel=f"{wording.metric_name(results.methods)} while training",
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.steps(value)))
    axes.grid(axis="y")
    if ends:
        told = (("in any step", {"lw": 1.5}), ("in the last step", LAST_STEP))
        handles = [Line2D([], [], color=INK, label=label, **style) for label, style in told]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    return figure


LAST_STEP: dict[str, Any] = {"lw": 0.9, "alpha": 0.65}
"""How lines of success in the last step look."""


def _line(name: str, steps: Sequence[Number], values: Sequence[Number]) -> list[Line]:
    """The line of what is known, of at most 400 points; none where nothing is."""
    x, y = np.array(steps, float), np.array(values, float)
    keep = np.isfinite(x) & np.isfinite(y)
    thin = np.unique(np.linspace(0, keep.sum() - 1, 400).astype(int))
    return [(name, x[keep][thin], y[keep][thin])] if keep.any() else []


def curves_by_task(results: Results) -> Figure | None:
    """Success of every task (rows, by group) while training, along each method's steps; a panel a method, and
    below it one of success in the last step."""
    tasks, end = results.task_names, 0.0
    shown = {name: results.curves[name] for name in BY_TASK if name in results.curves}
    shown = {name: curve for name, curve in shown.items() if curve.per_task}
    if not shown:
        return None
    found = task_labels(results.groups, tasks)
    order, n = np.argsort(found, kind="stable"), len(tasks)
    labels = [wording.method_label(results.methods, name) for name in shown]
    lines = [*shown.values()]
    parts = [(x.steps, x.per_task, label) for x, label in zip(lines, labels, strict=True)]
    if all(x.per_task_at_end for x in lines):
        parts += [(x.steps, x.per_task_at_end, "in the last step") for x in lines]
    count, rows = len(lines), len(parts) // len(lines)
    figure, panels = canvas(2.6 + 2.6 * count, 1.3 + rows * max(0.17 * n, 1.2), columns=count, rows=rows)
    for axes, (x, values, title) in zip(panels, parts, strict=True):
        steps, rates = np.array(x, float), np.array(values, float)[order]
        first, end = steps[0] - (steps[1:2] - steps[:1]).sum(), max(end, steps[-1])
        extent = (first, steps[-1], n - 0.5, -0.5)
        image = axes.imshow(rates, cmap="cividis", vmin=0, vmax=1, aspect="auto", extent=extent)
        axes.set_title(title)
        axes.set(ylim=(n - 0.5, -0.5), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.steps(value)))
        axes.hlines(np.flatnonzero(np.diff(found[order])) + 0.5, 0, end, color="white", lw=1.2)
    for axes in panels:
        axes.set(xlim=(0, end))
    for axes in panels[::count]:
        axes.set_yticks(range(n), [_short(tasks[j]) for j in order], fontsize=9 if n <= 16 else 7)
        axes.tick_params(axis="y", length=0)
        for label, group in zip(axes.get_yticklabels(), found[order], strict=True):
            label.set_color(group_colour(group))
    figure.supxlabel("environment steps, all of a method's policies", size=9.5)
    bar = figure.colorbar(image, ax=panels, fraction=0.03, pad=0.01)
    bar.outline.set_visible(False)
    bar.set_label(f"{wording.metric_name(results.methods)} while training")
    return figure


def methods(results: Results) -> Figure | None:
    """Mean of every method with its 95% interval; hollow markers stand outside the rule of equal steps. None
    for a single method, which there is nothing to compare with."""
    return intervals(results.methods, {}) if len(wording.ordered_methods(results.methods)) > 1 else None


def intervals(entries: wording.Methods, points: Mapping[str, Sequence[float | None]]) -> Figure | None:
    """The same of any methods, with the means of single runs as faint points."""
    names = [name for name in wording.ordered_methods(entries) if entries[name].mean is not None]
    if not names:
        return None
    figure, axes = canvas(5.8, 1.2 + 0.5 * len(names))
    edge = {"textcoords": "offset points", "xycoords": ("axes fraction", "data")}
    for row, name in enumerate(names):
        entry = entries[name]
        value, fair = entry.interval, entry.equal_steps
        colour, weight = method_style(name)[0], "bold" if name == OURS else None
        if value.lo is not None:
            axes.plot([value.lo, value.hi], [row, row], color=colour, lw=2.4, solid_capstyle="round")
            if name == OURS and len(names) > 1:
                axes.axvspan(value.lo, value.hi, color=BLUE, alpha=0.12, lw=0)
        if single := points.get(name):
            ticks = np.array(single, float)
            axes.plot(ticks, np.full(len(ticks), row + 0.2), "|", ms=6, color=colour, alpha=0.7)
        face = {"mfc": colour} if fair else {"mfc": "white"}
        axes.plot(value.mean, row, "o" if fair else "s", ms=8, color=colour, mew=1.8, **face)
        label = wording.method_label(entries, name) + ("" if fair else f" ({wording.steps(entry.env_steps)})")
        axes.annotate(label, (0, row), (0, 7), va="bottom", weight=weight, **edge)
        axes.annotate(wording.with_interval(value), (1, row), (7, 0), va="center", weight=weight, **edge)
    axes.hlines(range(len(names)), 0, 1, transform=axes.get_yaxis_transform(), color=FAINT, alpha=0.3, lw=0.8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set(xlabel=f"{wording.metric_name(entries)} over all tasks", ylim=(len(names) - 0.6, -0.65))
    axes.margins(x=0.06)
    if any(not entries[name].equal_steps for name in names):
        handles = [
            Line2D([], [], marker="o", ls="", color=FAINT, label="same total of environment steps"),
            Line2D([], [], marker="s", ls="", color=FAINT, mfc="none", label="another total"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def per_task(results: Results) -> Figure | None:
    """Bars for every task, with 95% intervals where they are known: ours, one policy for all, one a task."""
    tasks = results.task_names
    shown = {
        name: np.array(known, float) for name in BY_TASK if (known := results.per_task(name)) is not None
    }
    if not shown:
        return None
    found = task_labels(results.groups, tasks)
    order = np.argsort(found, kind="stable")
    n, width = len(tasks), 0.8 / len(shown)
    ticks = [_short(tasks[j]) for j in order]
    figure, axes = canvas(max(7.6, 0.5 * n), 3.2 + (0.08 if n > 12 else 0.05) * max(map(len, ticks)))
    for i, (name, means) in enumerate(shown.items()):
        left = np.arange(n) + (i - (len(shown) - 1) / 2) * width
        label = wording.method_label(results.methods, name)
        axes.bar(left, means[order], 0.9 * width, color=method_style(name)[0], label=label)
        told = results.methods[name].per_task_ci95
        if told is not UNSET and len(told) == n:
            bounds = np.array(told, float)[order]
            reach = np.abs(bounds.T - means[order])
            axes.errorbar(left, means[order], reach, fmt="none", ecolor=FAINT, elinewidth=1.2, capsize=1.5)
        if ends := results.methods[name].at_end:
            last = "in the last step" if i == len(shown) - 1 else None
            axes.plot(left, np.array(ends, float)[order], "D", ms=4, color=INK, mfc="white", label=last)
    edges = np.flatnonzero(np.diff(found[order])) + 0.5
    for edge in edges:
        axes.axvline(edge, color=FAINT, lw=1, ls=":")
    bounds = np.concatenate([[-0.5], edges, [n - 0.5]])
    for group, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        text = f"group {group + 1}" if end - begin > 1 or n <= 10 else f"{group + 1}"
        axes.text(
            (begin + end) / 2, 1.01, text, transform=axes.get_xaxis_transform(), ha="center", fontsize=8.5
        )
    axes.set_xticks(range(n), ticks, rotation=90 if n > 12 else 30)
    if n <= 12:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    axes.set(ylabel=wording.metric_name(results.methods), xlim=(-0.6, n - 0.4))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left" if n > 15 else "outside upper center", ncols=3, fontsize=9)
    return figure


def _short(name: str, length: int = 28) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
