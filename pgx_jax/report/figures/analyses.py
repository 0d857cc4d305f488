"""The figures of a run's analyses (`pgx_jax.analysis`)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pgx_jax.analysis.approximation import ApproximationResult
from pgx_jax.report.figures.canvas import BLUE, FAINT, RC, canvas

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
    panels[0].set(ylabel="relative error (%)")
    panels[0].legend(loc="upper left")
    return figure


def errors_by_distance(axes, distances: list[float], lines: Mapping[str, np.ndarray]) -> None:  # type: ignore[no-untyped-def]
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
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(x, [f"{value:.3g}" for value in x])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.minorticks_off()
    axes.grid(axis="y")
