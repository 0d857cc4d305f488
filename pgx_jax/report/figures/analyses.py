"""The figures of a run's analyses (`pgx_jax.analysis`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pgx_jax.analysis.approximation import ApproximationResult
from pgx_jax.analysis.cost import ONE_AFTER_ANOTHER, SIDE_BY_SIDE, CostResult
from pgx_jax.analysis.generalisation import GeneralisationResult, SubsetGeneralisation
from pgx_jax.report.cost import amount, duration, times
from pgx_jax.report.figures.canvas import BLUE, FAINT, INK, RC, canvas

KIND_STYLE = {
    "finetuning": ("#d55e00", "-", "o"),
    "surrogate": (BLUE, "--", "s"),
    "random": (FAINT, ":", "^"),
}
"""Colour, line and marker of every kind of direction."""

KIND_LABELS = {"finetuning": "fine-tuning", "surrogate": "surrogates", "random": "random"}

MEASURE_TITLES = {
    "ratio": "ratio, mean of |r − (1 + g·Δ)| / r",
    "log_ratio": "log-ratio, |log r − g·Δ| / |log r|",
}
"""What the panels show."""


@matplotlib.rc_context(RC)
def approximation(found: ApproximationResult) -> Figure:
    """Errors against distance, a panel a measure; thin lines are single directions."""
    figure, panels = canvas(8.6, 3.7, columns=len(MEASURE_TITLES))
    for axes, (measure, title) in zip(panels, MEASURE_TITLES.items(), strict=True):
        lines = {kind: found.of_kind(kind, measure) for kind in KIND_STYLE}
        errors_by_distance(axes, found.distances, lines)
        own, _ = found.own("surrogate", measure)
        if np.isfinite(own):
            axes.axvline(100 * own, color=BLUE, lw=0.8, alpha=0.6)
            text = {"textcoords": "offset points", "xycoords": ("data", "axes fraction")}
            axes.annotate("surrogates' own", (100 * own, 0), (3, 4), color=BLUE, fontsize=8, **text)
        axes.set(title=title, xlabel="distance |θ − θ*| / |θ*| (%)")
    panels[0].set(ylabel=f"relative error (%), up to {MOST:,}")
    panels[0].legend(loc="upper left")
    return figure


def errors_by_distance(axes: Any, distances: list[float], lines: Mapping[str, np.ndarray]) -> None:
    """Errors [D, S] by kind, in per cent, on logarithmic axes, with a line at 10%."""
    x = 100 * np.array(distances)
    for kind, errors in lines.items():
        if not len(errors):
            continue
        colour, line, marker = KIND_STYLE[kind]
        for row in errors:
            axes.plot(x, 100 * row, line, color=colour, lw=0.7, alpha=0.35)
        label = KIND_LABELS[kind]
        axes.plot(x, 100 * np.mean(errors, 0), line, marker=marker, ms=4, color=colour, lw=2, label=label)
    axes.axhline(10, color=FAINT, lw=0.8, ls=(0, (4, 3)))
    logarithmic(axes, distances)


MOST = 1000
"""Per cent at which axes of errors end: what is beyond tells nothing more."""


def logarithmic(axes: Any, distances: list[float]) -> None:
    """Axes of errors by distance, both in per cent."""
    x = 100 * np.array(distances)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(x, [f"{value:.3g}" for value in x])
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    axes.set_ylim(drawn.min() / 2, min(2 * drawn.max(), MOST))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}" if value < MOST else f"{value:,.0f}")
    axes.minorticks_off()
    axes.grid(axis="y")


LOSSES = {
    "fitted": (BLUE, "o", "trajectories that were fitted"),
    "fresh": ("#d55e00", "s", "fresh trajectories"),
    "unseen": ("#159a73", "^", "unseen tasks"),
    "bound": (INK, "|", "PAC-Bayes bound"),
    "bound_by_trace": (FAINT, "|", "bound by the trace"),
}
"""Colour, marker and label of what is shown of every subset."""


@matplotlib.rc_context(RC)
def generalisation(found: GeneralisationResult) -> Figure:
    """Left: losses, a row a subset; right: the same with the bounds and the largest value of the loss."""
    count = len(found.subsets)
    figure, (left, right) = canvas(9.2, 1.7 + 0.4 * count, columns=2)
    measured = [name for name in LOSSES if not name.startswith("bound")]
    for row, subset in enumerate(found.subsets):
        _losses(left, row, subset, measured)
        _losses(right, row, subset, list(LOSSES))
    right.axvline(found.largest, color=FAINT, lw=0.8, ls=(0, (4, 3)))
    for axes in (left, right):
        axes.axvline(0, color=FAINT, lw=1)
        axes.set(ylim=(count - 0.5, -0.5), yticks=range(count), yticklabels=[])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel("loss (standardised advantage a step; θ* has 0)")
    left.set_yticklabels([_tasks(subset.tasks) for subset in found.subsets])
    left.set_title("measured")
    right.set_title("with bounds; dashed: the largest possible loss")
    handles, labels = right.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=len(known), fontsize=8)
    return figure


def _losses(axes: Any, row: int, subset: SubsetGeneralisation, names: list[str]) -> None:
    for name in names:
        colour, marker, label = LOSSES[name]
        value = getattr(subset, name)
        if value is not None:
            axes.plot(value, row, marker, ms=13 if marker == "|" else 6, mew=2, color=colour, label=label)


def _tasks(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"


@matplotlib.rc_context(RC)
def cost(found: CostResult) -> Figure:
    """What the estimate and training take, in time and (where they are known) in operations; beside every
    training how many times the estimate that is, without and with what comes before."""
    panels = [("seconds", "time", duration), ("operations", "operations", amount)]
    if not np.isfinite(found.train_all().operations):
        panels = panels[:1]
    figure, several = canvas(1.2 + 4.2 * len(panels), 2.3, columns=len(panels))
    for axes, (what, title, told) in zip(several, panels, strict=True):
        _costs(axes, found, what, told)
        axes.set_title(f"{title} (logarithmic)")
    for axes in several[1:]:
        axes.set_yticklabels([])
    return figure


LONGEST = 0.5
"""Part of the width that the longest bar takes; the rest is for what is written beside it."""


def _costs(axes: Any, found: CostResult, what: str, told: Callable[[float], str]) -> None:
    ups = found.speed_ups()
    bars = {"estimate": (found.estimate(), BLUE), "before it": (found.before(), FAINT)}
    ways = {f"all policies, {way}": way for way in (SIDE_BY_SIDE, ONE_AFTER_ANOTHER)}
    bars |= {label: (found.train_all(way), "#d55e00") for label, way in ways.items()}
    values = [getattr(value, what) for value, _ in bars.values()]
    known = [value for value in values if np.isfinite(value) and value > 0]
    for row, (label, (_, colour)) in enumerate(bars.items()):
        value = values[row]
        if not np.isfinite(value):
            continue
        axes.barh(row, value, color=colour, height=0.6)
        text = told(value)
        if label in ways:
            ratio = ups[ways[label] if what == "seconds" else what]
            text += f": {times(ratio.alone)}, {times(ratio.with_meta)} with meta"
        axes.annotate(text, (value, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    least = min(known) / 3
    most = least * (max(known) / least) ** (1 / LONGEST)
    axes.set(xscale="log", xlim=(least, most), ylim=(len(bars) - 0.5, -0.5))
    axes.minorticks_off()
    axes.set_xticks([])
    axes.set_yticks(range(len(bars)), list(bars))
    axes.tick_params(axis="y", length=0)
