"""The figures of Meta-World in docs, drawn from the result file of `mt10.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from metaworld_episodes import picture

from pgx_jax.compare.results import Results, from_plain
from pgx_jax.report import wording
from pgx_jax.report.figures.canvas import INK, RC, canvas, group_colour, png, task_labels

TITLES = {
    "mt10_scratch_curves": "Success of every task while one policy for all is trained from scratch",
    "mt10_experts_curves": "Success of every task while a demonstration-initialised policy is trained on",
    "mt10_policies": "Success of every task by one policy for all, from scratch and from experts",
    "mt10_groups": "Success of every task by all methods; strokes of one colour: one policy",
    "mt10_episodes": "Episodes of every task, from left to right",
}
"""What stands for a figure where it isn't seen, by the beginning of its name."""
LINES = ("-", "--", ":", "-.")
SHADES = "cividis"
"""Dark is no success, bright is success: in grey, and to all eyes, the same."""


class Row(NamedTuple):
    """A set of policies in a heat map."""

    label: str
    any_step: Sequence[float]
    """[n]."""
    last_step: Sequence[float]
    """[n]; empty where it isn't known."""
    groups: np.ndarray | None = None
    """int [n]: the policy of every task; None for one policy for all, or one a task."""


def by_part(data: Mapping) -> dict[str, list[Mapping]]:
    """The cells of every part."""
    found: dict[str, list[Mapping]] = defaultdict(list)
    for cell in data["cells"]:
        found[cell["cell"]["part"]].append(cell)
    return found


def run_name(cell: Mapping) -> str:
    """A cell of the groups in words."""
    return f"{cell['network']}, {wording.steps(cell['steps_per_task'])} a task, seed {cell['seed']}"


def title(name: str) -> str:
    """What a figure shows."""
    return TITLES[max((known for known in TITLES if name.startswith(known)), key=len)]


def names(data: Mapping) -> dict[str, str]:
    """All figures, and the parts under which they stand."""
    parts, found = by_part(data), {}
    found |= {f"mt10_{part}_curves": part for part in ("scratch", "experts") if parts[part]}
    if parts["scratch"] or parts["experts"]:
        found["mt10_policies"] = "experts" if parts["experts"] else "scratch"
    found |= {f"mt10_groups_{i}": "groups" for i in range(len(parts["groups"]))}
    return found | {picture(cell["cell"]): "episodes" for cell in parts["episodes"]}


def draw(data: Mapping) -> dict[str, bytes]:
    """Every figure but the pictures of episodes, which the benchmark itself has drawn: name -> PNG."""
    parts, found = by_part(data), {}
    with matplotlib.rc_context(RC):
        for name, part in names(data).items():
            if name.endswith("_curves"):
                others = parts["engines"] if part == "scratch" else []
                found[name] = png(curves([*parts[part], *others], tasks(data)))
            elif part == "groups":
                results = from_plain(parts[part][int(name.rpartition("_")[2])]["results"])
                found[name] = png(heat_map(of_run(results), results.task_names))
            elif name == "mt10_policies":
                found[name] = png(heat_map(one_policy(parts), tasks(data)))
    return found


def tasks(data: Mapping) -> list[str]:
    """The tasks' names, as some cell has them, or else numbers."""
    parts = by_part(data)
    known = [cell["tasks"] for cell in parts["hot_spots"]]
    known += [cell["results"]["task_names"] for cell in parts["groups"]]
    return known[0] if known else [f"task {i}" for i in range(10)]


def curves(cells: Sequence[Mapping], names: Sequence[str]) -> Figure:
    """Success in any step while training, along the steps: the mean, and a panel a task of the cells that
    know it; a line a cell."""
    shown = ["mean of all tasks", *(names if any("curves" in cell for cell in cells) else [])]
    figure, panels = canvas(9.6, 5.6, columns=4, rows=3) if shown[1:] else canvas(6.4, 2.4, columns=2)
    drawn = dict(zip(shown, panels, strict=False))
    for i, cell in enumerate(cells):
        total, mean = cell["cell"]["steps"], np.array(cell["curve"], float)
        where = " in EnvPool" if cell["cell"].get("engine") == "envpool" else ""
        label = f"{wording.steps(total)} steps{where}, seed {cell['cell']['seed']}"
        own = np.array(cell.get("curves", np.zeros((len(mean), 0))), float)
        at = (np.arange(len(mean)) + 1) / len(mean) * total
        for axes, y in zip(panels, [mean, *own.T], strict=False):
            axes.plot(at, y, LINES[i % len(LINES)], color=group_colour(i), lw=1.5, label=label)
    end = max(cell["cell"]["steps"] for cell in cells)
    for name, axes in drawn.items():
        axes.set(title=name, ylim=(-0.03, 1.03), xlim=(0, 1.02 * end))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.steps(value)))
        axes.grid(axis="y")
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center")
    figure.supylabel("success in any step", size=9.5)
    figure.supxlabel("environment steps of training", size=9.5)
    return figure


def one_policy(parts: Mapping[str, Sequence[Mapping]]) -> list[Row]:
    """One policy for all: from scratch, trained in EnvPool, cloned, and trained on."""
    found = []
    for part, label in (("scratch", "from scratch"), ("engines", "trained in EnvPool")):
        found += [_row(f"{label}, {wording.steps(c['cell']['steps'])}", c) for c in parts[part]]
    for cell in parts["experts"]:
        found.append(Row("experts themselves (noisy)", cell["experts"], []))
        found.append(_row("demonstration-initialised: cloned", cell["cloned"]))
        found.append(_row("demonstration-initialised, then PPO", cell))
    return found


def _row(label: str, found: Mapping) -> Row:
    return Row(label, found["any_step"]["per_task"], found["last_step"]["per_task"])


def of_run(results: Results) -> list[Row]:
    """Every method of a run."""
    found = []
    for name in wording.ordered_methods(results.methods):
        entry, label = results.methods[name], wording.method_label(results.methods, name)
        groups = task_labels(entry.groups, results.task_names) if entry.groups else None
        several = groups is not None and 1 < len(entry.groups or ()) < results.n_tasks
        found.append(Row(label, entry.per_task or [], entry.at_end or [], groups if several else None))
    return [row for row in found if len(row.any_step)]


def heat_map(rows: Sequence[Row], names: Sequence[str]) -> Figure:
    """Success of every set of policies (rows) on every task, in any step of an episode and in the last one;
    tasks in the order of the first row's groups."""
    first = rows[0].groups
    order = np.arange(len(names)) if first is None else np.argsort(first, kind="stable")
    figure, panels = canvas(3.2 + 1.0 * len(names), 1.9 + 0.34 * len(rows), columns=2)
    for axes, kind in zip(panels, ("any_step", "last_step"), strict=True):
        values = np.full((len(rows), len(names)), np.nan)
        for i, row in enumerate(rows):
            known = np.array(getattr(row, kind), float)
            values[i] = known[order] if len(known) else np.nan
        axes.imshow(values, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                text = f"{value:.2f}".replace("0.", ".")
                axes.text(j, i - 0.06, text, ha="center", va="center", fontsize=8, color=_ink(value))
        axes.set(title=f"success in {'any' if kind == 'any_step' else 'the last'} step")
        axes.set_xticks(range(len(names)), [names[j] for j in order], rotation=90)
        axes.set_yticks(range(len(rows)), [row.label for row in rows] if kind == "any_step" else [])
        axes.hlines(np.arange(1, len(rows)) - 0.5, -0.5, len(names) - 0.5, color="white", lw=2)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for i, row in enumerate(rows):
            _mark(axes, i, row.groups, order)
    return figure


def _ink(value: float) -> str:
    return "white" if value < 0.55 else INK


def _mark(axes: Any, i: int, groups: np.ndarray | None, order: np.ndarray) -> None:
    """Strokes under the cells of a row, of one colour where one policy serves them."""
    for j, task in enumerate(order if groups is not None else []):
        colour = group_colour(int(groups[task]))
        axes.plot([j - 0.42, j + 0.42], [i + 0.4, i + 0.4], color=colour, lw=3, solid_capstyle="butt")
