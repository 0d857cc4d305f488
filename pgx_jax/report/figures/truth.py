"""The figures of estimates against true training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy import stats

from pgx_jax.analysis.truth import TruthResult
from pgx_jax.report.figures.canvas import BLUE, FAINT, INK, RC, canvas
from pgx_jax.report.truth import LABELS, ceiling, kind_of, training
from pgx_jax.report.wording import steps

STYLE = {
    "surrogate": (BLUE, "o"),
    "chosen": (BLUE, "*"),
    "dot": ("#d55e00", "s"),
    "cosine": ("#d29a00", "D"),
    "importance": ("#159a73", "^"),
    "offline": ("#159a73", "v"),
    "rollouts": ("#c0609a", "P"),
    "kernel": ("#8a6fd1", "X"),
    "training": (INK, "h"),
}
"""Colour and marker of every kind of estimate; markers tell them apart without colour."""

APART = 1.06
"""Factor between the places of kinds of estimates that cost the same."""
BINS = 10
PREDICTED = "predicted gain f̂ (standardised advantage a step)"
TRUE = "true gain (in reward scales)"


class Point(NamedTuple):
    """What an estimate came to, at its cost."""

    steps: float
    value: float
    low: float
    high: float


def by_steps(axes: Any, points: Mapping[str, Point]) -> None:
    """What every estimate came to against its environment steps; those of one kind are joined. Kinds stand a
    little apart, where several cost the same."""
    for place, (kind, (colour, marker)) in enumerate(STYLE.items()):
        own = sorted(point for name, point in points.items() if kind_of(name).kind == kind)
        if not own:
            continue
        x, y, low, high = np.array(own, float).T
        x = x * APART ** (place - len(STYLE) // 2)
        size, label = 8 if marker == "*" else 5.5, LABELS[kind].partition(", {}")[0]
        axes.plot(x, y, marker=marker, ms=size, color=colour, lw=1.1, mec="white", mew=0.6, label=label)
        axes.vlines(x, low, high, color=colour, lw=1.1, alpha=0.6)
    axes.set(xscale="log", ylim=(min(0, axes.get_ylim()[0]), 1.04))
    axes.xaxis.set_major_formatter(lambda value, _: steps(value))
    axes.minorticks_off()
    axes.grid(axis="y")


def mark(axes: Any, height: float, text: str, style: str = "--") -> None:
    """A line across with its name at the left."""
    if np.isfinite(height):
        axes.axhline(height, color=FAINT, lw=1, ls=style)
        at = {"textcoords": "offset points", "xycoords": ("axes fraction", "data")}
        axes.annotate(text, (0, height), (2, 2), color=FAINT, fontsize=7, **at)


def calibrated(axes: Any, x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> None:
    """True against predicted gains: single pairs, and the means of tenths with 95% t-intervals."""
    axes.plot(x, y, ".", ms=4, color=BLUE, alpha=0.4, mew=0)
    for part in np.array_split(np.argsort(x), min(BINS, max(1, len(x) // 3))):
        mean, count = y[part].mean(), len(part)
        half = stats.t.ppf(0.975, count - 1) * y[part].std(ddof=1) / np.sqrt(count) if count > 1 else 0.0
        axes.errorbar(x[part].mean(), mean, half, fmt="o", ms=4, color="#d55e00", lw=1.3, capsize=2)
    axes.axhline(0, color=FAINT, lw=0.8)
    axes.axvline(0, color=FAINT, lw=0.8)
    axes.grid(axis="both")


def pairs_of(found: TruthResult, horizon: str, estimate: str = "surrogate") -> tuple[np.ndarray, np.ndarray]:
    """(predicted [N], true [N]) of all pairs of a subset and its tasks."""
    member = found.member
    return np.array(found.estimates[estimate], float)[member], found.truth(horizon).mean(0)[member]


@matplotlib.rc_context(RC)
def truth(found: TruthResult) -> Figure:
    """Calibration of f-hat, and the Spearman correlation within tasks of every estimate by its steps; a row a
    horizon."""
    figure, panels = canvas(9.2, 3.1 * len(found.horizons), columns=2, rows=len(found.horizons))
    for row, horizon in enumerate(found.horizons):
        left, right = panels[2 * row : 2 * row + 2]
        calibrated(left, *pairs_of(found, horizon.name))
        left.set(title=training(horizon.name), ylabel=TRUE)
        by_steps(right, within_tasks([found], horizon.name))
        mark(right, ceiling(horizon.reliability["within"]["spearman"]), "ceiling")
        right.set(ylabel="Spearman within tasks")
    panels[-2].set(xlabel=PREDICTED)
    panels[-1].set(xlabel="environment steps beside those of θ*")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def within_tasks(records: Sequence[TruthResult], horizon: str) -> dict[str, Point]:
    """Mean Spearman within tasks, with a 95% t-interval over the tasks of all records."""
    found = {}
    for name in dict.fromkeys(x.estimate for record in records for x in record.agreements):
        known = [x for record in records if (x := record.agreement(name, horizon)) is not None]
        values = np.array([v for x in known for v in x.spearman_by_task if v is not None], float)
        if kind_of(name).kind == "chosen" or len(values) < 2:
            continue
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        spent = float(np.mean([float(x.steps or 0) for x in known]))
        found[name] = Point(spent, values.mean(), values.mean() - half, values.mean() + half)
    return found
