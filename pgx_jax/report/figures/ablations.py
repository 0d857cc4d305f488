"""The figure of what other settings would have done to the groups of a run."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pgx_jax.analysis.ablations import AblatedAxis, AblatedValue, AblationsResult
from pgx_jax.report.ablations import label_of
from pgx_jax.report.figures.canvas import BLUE, FAINT, INK, RC, canvas

OWN = {"marker": "o", "ms": 6, "color": BLUE, "label": "NMI with the groups of the run's own settings"}
HOLLOW = {"marker": "s", "ms": 5.5, "mfc": "none", "mew": 1.3}
PLANTED = {**HOLLOW, "color": "#d55e00", "label": "NMI with planted groups"}
AUC = {"marker": "x", "ms": 5.5, "color": INK, "mew": 1.2, "label": "AUC of planted pairs"}
ERROR = {"marker": "v", "ms": 4.5, "color": "#159a73", "label": "error of the inner products"}
APART = 0.16
"""Between points of one value."""


@matplotlib.rc_context(RC)
def ablations(found: AblationsResult) -> Figure:
    """Two panels an axis: agreement of the groups, and the predicted gain of splitting with its 95% interval,
    where there is one; the run's own settings are shaded."""
    across = min(2, len(found.axes))
    rows = math.ceil(len(found.axes) / across)
    figure, panels = canvas(5.2 * across, 2.3 * rows + 0.5, columns=2 * across, rows=rows)
    for i, axis in enumerate(found.axes):
        left, right = panels[2 * i : 2 * i + 2]
        _agreement(left, axis)
        _gain(right, axis)
        left.set_title(label_of(axis))
        for axes in (left, right):
            _places(axes, axis)
    for axes in panels[2 * len(found.axes) :]:
        axes.remove()
    pairs = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    known = {label: handle for handle, label in pairs}
    known |= {"the run's own settings": matplotlib.patches.Patch(color=FAINT, alpha=0.3, lw=0)}
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=across + 1, fontsize=8)
    return figure


def values_of(axis: AblatedAxis) -> list[str]:
    """Its values, each once."""
    return list(dict.fromkeys(x.value for x in axis.values))


def _x(axis: AblatedAxis, value: AblatedValue, shift: float = 0.0) -> float:
    """Where a value stands; draws of it side by side."""
    draws = sum(x.value == value.value for x in axis.values)
    return values_of(axis).index(value.value) + shift + 0.5 * APART * (value.draw - (draws - 1) / 2)


def _agreement(axes: Any, axis: AblatedAxis) -> None:
    known = [x for x in axis.values if not x.refused]
    planted = any(x.planted_nmi is not None for x in known)
    shown = {"nmi": (-APART if planted else 0.0, OWN)}
    shown |= {"planted_nmi": (APART, PLANTED), "auc": (0.0, AUC)} if planted else {}
    projected = any(x.error is not None for x in known)
    shown |= {"error": (0.0, ERROR)} if projected else {}
    for name, (shift, style) in shown.items():
        y = [getattr(x, name) for x in known]
        axes.plot([_x(axis, x, shift) for x in known], np.array(y, float), ls="", **style)
    for x in axis.values:
        if x.refused:
            axes.text(_x(axis, x), 0.03, "refused", rotation=90, color=FAINT, fontsize=8, ha="center")
    axes.set(ylim=(-0.06, 1.08), ylabel="agreement, error" if projected else "agreement")


def _gain(axes: Any, axis: AblatedAxis) -> None:
    for x in axis.values:
        if x.gain is None:
            continue
        at = _x(axis, x)
        if x.gain_ci95 is not None:
            axes.vlines(at, *x.gain_ci95, color=BLUE, lw=1.6, alpha=0.55, label="95% interval of the gain")
        axes.plot(at, x.gain, "o", ms=5, color=BLUE)
    axes.axhline(0, color=FAINT, lw=0.8)
    axes.set(ylabel="predicted gain\n(advantage a step)")


def _places(axes: Any, axis: AblatedAxis) -> None:
    """The values along the x axis, the run's own shaded."""
    values = values_of(axis)
    at = values.index(axis.own.value)
    axes.axvspan(at - 0.45, at + 0.45, color=FAINT, alpha=0.18, lw=0)
    labels = [value.replace(", ", ",\n") for value in values]
    turned = max(map(len, values)) > 4
    turn = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axes.set_xticks(range(len(values)), labels, fontsize=8, **turn)
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
