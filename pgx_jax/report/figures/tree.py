"""The tree of looks: when which policy was asked whether a split pays, and who trained with whom."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from pgx_jax.compare.results import OURS, Groups, LookResult, Results
from pgx_jax.report import wording
from pgx_jax.report.figures.canvas import FAINT, INK, canvas, group_colour

KINDS = {
    (False, True): ("a look that split", "D", INK),
    (False, False): ("a look that found no split worth it", "D", "white"),
    (True, False): ("two groups that became one", "s", INK),
    (True, True): ("two groups that were left apart", "s", "white"),
}
"""(Whether groups might join, whether they are apart) -> text, marker and filling of a look."""

ASIDE = 0.02
"""How far beside the looks for splits those stand that ask pairs, in parts of all steps."""


def looks(results: Results) -> Figure | None:
    """Every task's policy along the steps of our method, and the looks; None for results without looks, and
    where all tasks had one policy all the time."""
    ours = results.methods.get(OURS)
    if not results.looks or ours is None or ours.env_steps is None:
        return None
    times, partitions = _segments(results)
    if max(map(len, partitions)) == 1:
        return None
    ends = [*times[1:], ours.env_steps]
    rows = {name: row for row, name in enumerate(ordered_tasks(partitions))}
    n = len(rows)
    figure, axes = canvas(7.6, float(np.clip(0.9 + 0.24 * n, 2.2, 9)))
    for i, (begin, end, groups) in enumerate(zip(times, ends, partitions, strict=True)):
        last = i == len(times) - 1
        for number, group in enumerate(groups):
            colour = group_colour(number) if last else FAINT
            _bars(axes, begin, end, sorted(rows[task] for task in group), colour)
    when = {look.look: look.env_steps for look in results.looks}  # the last of several at a time
    kinds = [(bool(look.joining), len(look.groups) > 1) for look in results.looks]
    for look, kind in zip(results.looks, kinds, strict=True):
        _, marker, filling = KINDS[kind]
        sides = [look.tasks]
        if look.joining:
            sides = [look.joining, [task for task in look.tasks if task not in look.joining]]
        at = when[look.look] + bool(look.joining) * ASIDE * ours.env_steps
        middles = [float(np.mean([rows[task] for task in side])) for side in sides]
        axes.plot([at] * len(middles), middles, "-", marker=marker, ms=8, c=INK, lw=1, mfc=filling, zorder=3)
    names = list(rows) if n <= 40 else []
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlim=(0, ours.env_steps), ylim=(n - 0.5, -0.5), xlabel="environment steps of our method")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.steps(value)))
    handles = [
        Line2D([], [], ls="", marker=marker, mec=INK, mfc=filling, label=text)
        for kind, (text, marker, filling) in KINDS.items()
        if kind in kinds
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=9)
    return figure


def _segments(results: Results) -> tuple[list[int], list[Groups]]:
    """When training with another partition began, and these partitions."""
    times, partitions = [0], [[list(results.task_names)]]
    for number in sorted({look.look for look in results.looks}):
        of_time = [look for look in results.looks if look.look == number]
        after = _after(partitions[-1], of_time)
        if sorted(map(sorted, after)) != sorted(map(sorted, partitions[-1])):
            times.append(max(look.env_steps for look in of_time))
            partitions.append(after)
    partitions[-1] = results.groups
    return times, partitions


def _after(groups: Groups, found: list[LookResult]) -> Groups:
    """The groups after some of them were split, and some of these joined."""
    for look in found:
        asked = set(look.tasks)
        place = next(i for i, group in enumerate(groups) if asked & set(group))
        others = [group for group in groups if not asked & set(group)]
        groups = [*others[:place], *look.groups, *others[place:]]
    return groups


def ordered_tasks(partitions: list[Groups]) -> list[str]:
    """The tasks so that those of a group stand together, in each of the partitions as far as can be."""
    place = [{task: i for i, group in enumerate(groups) for task in group} for groups in partitions]
    return sorted(place[0], key=lambda task: [of.get(task, len(of)) for of in place])


def _bars(axes: Axes, begin: float, end: float, rows: list[int], colour: str) -> None:
    """A bar over each stretch of neighbouring rows."""
    for stretch in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
        corner, height = (begin, stretch[0] - 0.42), len(stretch) - 0.16
        axes.add_patch(Rectangle(corner, end - begin, height, fc=colour, ec="none", alpha=0.55))
