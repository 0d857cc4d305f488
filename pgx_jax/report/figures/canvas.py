"""What all figures share: sizes, colours, and the way to PNG and SVG.

Colours are told apart by people with the usual colour-vision deficiencies (after Okabe and Ito) and
stand out on white and on black; ink follows the page's own colour (:func:`svg`). Nothing touches
pyplot or its global figures.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pgx_jax.compare.results import OURS, Groups

INK, FAINT = "#1b2231", "#8d95a5"
BLUE = "#1f7fd0"
GROUP_COLOURS = ("#1f7fd0", "#d9822b", "#159a73", "#c0609a", "#b3a012", "#46b4d8", "#8a6fd1", "#9a6a4a")
_METHOD_STYLE = {
    OURS: (BLUE, "-"),
    f"{OURS}_told": (BLUE, "--"),
    f"{OURS}_blind": (BLUE, "--"),
    "multitask_conditioned": ("#d29a00", "--"),
    "multitask": ("#d55e00", "-"),
    "multitask_continued": ("#d55e00", ":"),
    "gradient_similarity": ("#159a73", "-."),
    "em": ("#46b4d8", "-."),
    "committees": ("#9a6a4a", "-."),
    "random": ("#8d95a5", ":"),
    "true_groups": ("#c0609a", "--"),
    "true_groups_continued": ("#c0609a", ":"),
    "oracle": ("#b3a012", ":"),
    "single_task": ("#8a6fd1", "-"),
}
RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "axes.unicode_minus": True,
}


@contextmanager
def _whatever_letters() -> Iterator[None]:
    """Say nothing of letters that the font lacks: the report's tables, in the reader's fonts, have them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG file on white."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC), _whatever_letters():
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element for a page: ink in the page's own colour, ids of its own."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**RC, "svg.hashsalt": name}), _whatever_letters():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = text.replace(INK, "currentColor").replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    text = re.sub(
        r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1 xmlns:xlink='http://www.w3.org/1999/xlink'>", text
    )
    return re.sub(r'((?:\bid="|href="#|url\(#))', rf"\g<1>{name}-", text)


def canvas(width: float, height: float, columns: int | None = None, rows: int = 1) -> tuple[Figure, Any]:
    """A figure of width x height inches, with one or several axes side by side (and row after row)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns or 1, squeeze=False).ravel()
    return figure, axes if columns else axes[0]


def method_style(name: str) -> tuple[str, str]:
    """Colour and line style of a method, by the beginning of its name."""
    known = max((key for key in _METHOD_STYLE if name.startswith(key)), key=len, default="")
    return _METHOD_STYLE.get(known, ("#9a6a4a", "--"))


def group_colour(group: int) -> str:
    """Colour of a group, the same in all figures and on the page."""
    return GROUP_COLOURS[group % len(GROUP_COLOURS)]


def task_labels(groups: Groups, names: list[str]) -> np.ndarray:
    """Group of every task, int [n]; tasks that no group names come last, together."""
    member = {name: i for i, group in enumerate(groups) for name in group}
    return np.array([member.get(name, len(groups)) for name in names])


Line = tuple[str, np.ndarray, np.ndarray]
"""(name of a method, x, y)"""


def label_ends(axes: Any, drawn: Sequence[Line], labels: Mapping[str, str]) -> None:
    """Name every line at its right end, outside the axes, the names moved apart."""
    low, high = axes.get_ylim()
    heights = _spread(np.array([y[-1] for _, _, y in drawn]), 0.058 * (high - low))
    for (name, x, y), height in zip(drawn, heights, strict=True):
        colour, weight = method_style(name)[0], "bold" if name == OURS else None
        line = {"arrowstyle": "-", "color": colour, "lw": 0.7, "alpha": 0.7, "relpos": (0, 0.5)}
        axes.annotate(
            labels[name], (x[-1], y[-1]), (1.03, height), textcoords=("axes fraction", "data"), va="center",
            color=colour, weight=weight, arrowprops=line, annotation_clip=False,
        )  # fmt: skip
    axes.set(ylim=(low, high))


def _spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Move heights apart to at least ``gap``, keeping their order and their middle."""
    order = np.argsort(heights)
    moved = heights[order].astype(float)
    for _ in range(200):
        lack = gap - np.diff(moved)
        if (lack <= 1e-9 * gap).all():
            break
        push = np.maximum(lack, 0) / 2
        moved[:-1] -= push
        moved[1:] += push
    placed = np.empty_like(moved)
    placed[order] = moved
    return placed
