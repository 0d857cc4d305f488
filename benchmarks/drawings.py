"""The README's figures, drawn from result files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import ablation_tables
import approximation_tables
import generalisation_tables
import language_tables
import main_parts
import matplotlib
import meta_tables
import numpy as np
import truth_tables
from learning_tables import by_environment
from tables import best_similarity, budget_points, has, means, methods_of, over_runs, paired

from pgx_jax.compare.results import OURS, SIMILAR, AffinityResult
from pgx_jax.report import figures
from pgx_jax.report.figures.canvas import BLUE, FAINT, INK, RC, canvas, method_style, png
from pgx_jax.report.wording import method_label, ordered_methods, with_interval

BUDGETS = {
    "budget_goals": "cartpole-goals",
    "budget_goals_5": "cartpole-goals with 5 groups",
    "budget_goals_30": "cartpole-goals with 30 tasks",
    "budget_points_hard": "points-hard",
    "budget_physics": "cartpole-physics",
    "budget_reacher": "reacher-targets",
    "budget_highway_objectives": "highway-objectives",
}
"""Studies of budgets, and the families in words."""

TITLES = {
    "goals_methods": "Every method on cartpole-goals, with paired intervals over runs",
    "goals_affinity": "Affinity of the tasks of cartpole-goals, ordered by the groups that were found",
    "ppo_curves": "Learning curves of PPO on stock environments",
    "main_table_hidden": "Every method, policies not told their task, with intervals over family seeds",
    "main_table_told": "Every method, policies told their task, with intervals over family seeds",
    "peer_curves": "Learning curves of our PPO and of rejax's at equal steps",
    "meta_rl": "Return on unseen tasks by steps of adaptation",
    "approximation": "Relative error of first order by distance from θ*, kinds of directions and depth",
    "generalisation": "Losses of fitted policies on old and fresh data, and their bounds, by depth",
    "truth": "What every estimate of true training comes to, at its cost in environment steps",
    "truth_calibration": "True gains against those that the surrogates predict, by family and horizon",
    "language": "Held-out preference accuracy of every method, with intervals over seeds",
} | {name: f"What every method earns on {family}, by steps a task" for name, family in BUDGETS.items()}
TITLES |= {
    f"ablation_{axis}": f"What the groups owe to: {words.title}"
    for axis, words in ablation_tables.WORDS.items()
}


def of_source(source: str, data: Mapping) -> list[str]:
    """Names of the figures that a result file has the numbers for."""
    if source == "study_goals":
        return ["goals_affinity", "goals_methods"] if has(data["cells"], "multitask") else ["goals_affinity"]
    if source == "truth":
        return ["truth", "truth_calibration"]
    if source == "main_table":
        return list(dict.fromkeys(f"main_table_{part.block}" for part in main_parts.parts(data)))
    if source == "ablations":
        return [f"ablation_{axis}" for axis in ablation_tables.known(data)]
    own = {"ppo": "ppo_curves", "curves": "peer_curves"}.get(source, source.removeprefix("study_"))
    return [own] if own in DRAWERS else []


def goals_methods(data: Mapping) -> bytes:
    """Left: mean return of every run and its mean; right: ours minus each method, paired by run."""
    cells = data["cells"]
    methods = methods_of(cells[0])
    names = [name for name in ordered_methods(methods, every=True) if has(cells, name)]
    names = [name for name in names if not name.startswith(SIMILAR) or name in best_similarity(cells)]
    with matplotlib.rc_context(RC):
        figure, (left, right) = canvas(9.2, 1.2 + 0.42 * len(names), columns=2)
        for row, name in enumerate(names):
            colour, weight = method_style(name)[0], "bold" if name == OURS else None
            values, estimate = means(cells, name), over_runs(means(cells, name))
            jitter = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
            left.plot(values, row + jitter, "o", ms=3, color=colour, alpha=0.45, mew=0)
            _interval(left, row, estimate, colour)
            text = {"textcoords": "offset points", "xycoords": ("axes fraction", "data"), "va": "center"}
            left.annotate(
                method_label(methods, name, alone=True), (0, row), (-8, 0), ha="right", weight=weight, **text
            )
            if name != OURS:
                difference = paired(cells, name)
                gains = means(cells, OURS) - values
                right.plot(gains, row + jitter, "o", ms=3, color=colour, alpha=0.45, mew=0)
                _interval(right, row, difference, colour)
                right.annotate(with_interval(difference, signed=True), (1, row), (6, 0), **text)
        right.axvline(0, color=FAINT, lw=1)
        left.set(xlabel="mean return over all tasks")
        right.set(xlabel="ours minus it, paired by run")
        for axes in (left, right):
            axes.set(ylim=(len(names) - 0.5, -0.5), yticks=[])
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x")
            axes.set_axisbelow(True)
        return png(figure)


def _interval(axes, row: int, estimate, colour: str) -> None:
    if estimate.lo is not None:
        axes.plot(
            [estimate.lo, estimate.hi], [row, row], color=colour, lw=5, alpha=0.55, solid_capstyle="butt"
        )
    axes.plot(estimate.mean, row, "|", ms=13, color=colour, mew=2.4)


def goals_affinity(data: Mapping) -> bytes:
    """Affinity heat map of the first run."""
    first = data["cells"][0]
    matrix = AffinityResult(first["affinity"]["matrix"], None)
    with matplotlib.rc_context(RC):
        return png(figures.affinity_of(matrix, first["task_names"], first["groups"], first["true_groups"]))


def ppo_curves(data: Mapping) -> bytes:
    """Mean return while training, a line a seed, an environment a panel."""
    cells = data["cells"]
    with matplotlib.rc_context(RC):
        figure, panels = canvas(3.2 * len(cells), 2.7, columns=len(cells))
        for axes, cell in zip(panels, cells, strict=True):
            for curve, total in zip(cell["curves"], cell["env_steps"], strict=True):
                values = np.array(curve, float)
                axes.plot((np.arange(len(values)) + 1) / len(values) * total / 1e3, values, lw=1.2, alpha=0.8)
            axes.axhline(cell["solved_at"], color=FAINT, ls="--", lw=1)
            text = {"textcoords": "offset points", "xycoords": ("axes fraction", "data"), "va": "top"}
            axes.annotate("solved", (1, cell["solved_at"]), (0, -3), ha="right", color=FAINT, **text)
            axes.set(title=cell["cell"]["env"], xlabel="thousand environment steps")
            axes.grid(axis="y")
        panels[0].set(ylabel="mean return while training")
        return png(figure)


def peer_curves(data: Mapping) -> bytes:
    """Mean return over seeds along the steps, ours and the peer's, with its range; an environment a panel."""
    from peers import OURS as OWN

    found = by_environment(data)
    with matplotlib.rc_context(RC):
        figure, panels = canvas(3.2 * len(found), 2.7, columns=len(found))
        for axes, (env, pair) in zip(panels, found.items(), strict=True):
            for name, cell in pair.items():
                values, total = np.array(cell["returns"]), cell["cell"]["steps"]
                at = (np.arange(values.shape[1]) + 1) / values.shape[1] * total / 1e3
                colour = method_style(OURS if name == OWN else "multitask")[0]
                axes.fill_between(at, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
                axes.plot(at, values.mean(0), color=colour, lw=1.6, label=name)
            axes.set(title=env, xlabel="thousand environment steps")
            axes.grid(axis="y")
        panels[0].set(ylabel="mean return")
        panels[0].legend(frameon=False)
        return png(figure)


def by_budget(data: Mapping) -> bytes:
    """Return against budget."""
    return png(figures.by_budget(budget_points(data)))


def main_table(data: Mapping, block: str) -> bytes:
    """Mean return of every method with its interval over family seeds, a panel a family. Methods that some
    runs lack are left out there: what the others earn is of other family seeds."""
    known = [part for part in main_parts.parts(data) if part.block == block]
    families = list(dict.fromkeys(part.family for part in known))
    labels = main_parts.labels(known)
    with matplotlib.rc_context(RC):
        figure, panels = canvas(2.6 + 2.1 * len(families), 1.0 + 0.3 * len(labels), columns=len(families))
        for axes, family in zip(panels, families, strict=True):
            for part in [part for part in known if part.family == family]:
                scarce = part.budget == main_parts.BUDGETS[family][0]
                _methods_of(axes, part, labels, scarce)
            axes.set(title=family, ylim=(len(labels) - 0.4, -0.6), yticks=range(len(labels)), yticklabels=[])
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="both")
            axes.set_axisbelow(True)
        panels[0].set_yticklabels(labels)
        panels[0].get_yticklabels()[0].set_fontweight("bold")
        figure.supxlabel("mean return: filled where data are scarce, hollow where they are not", size=9.5)
        return png(figure)


ADAPTING = {
    OURS: BLUE, "multitask": INK, "meta": "#c98a2b", "fresh": FAINT,
    "true_groups": "#c0609a", "multitask_base_maml": "#3a8f5c", "multitask_gru_rl2": "#7a5bb5",
    f"{OURS}_base_group_maml": "#46a5c4",
}  # fmt: skip
"""Methods of the figure of unseen tasks, and their colours."""


def meta_rl(data: Mapping) -> bytes:
    """Mean return on unseen tasks against adaptation steps, a panel a family."""
    known = meta_tables.parts(data)
    with matplotlib.rc_context(RC):
        figure, panels = canvas(2.4 + 3.0 * len(known), 3.2, columns=len(known))
        for axes, part in zip(panels, known, strict=True):
            at = np.arange(len(part.budgets))
            for name, found in meta_tables.curves(part, list(ADAPTING)).items():
                colour, mean = ADAPTING[name], [x.mean for x in found]
                axes.plot(at, mean, "o-", ms=4, lw=1.6, color=colour, label=meta_tables.LABELS[name])
                if all(x.lo is not None for x in found):
                    low, high = [x.lo for x in found], [x.hi for x in found]
                    axes.fill_between(at, low, high, color=colour, alpha=0.12, lw=0)
            axes.set(title=part.family, xlabel="adaptation steps", xticks=at)
            axes.set_xticklabels([f"{b:,}" for b in part.budgets])
            axes.grid(axis="y")
        panels[0].set(ylabel="mean return on unseen tasks")
        lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
        figure.legend(handles=list(lines.values()), loc="outside right center", fontsize=7.5)
        return png(figure)


def language(data: Mapping) -> bytes:
    """Held-out preference accuracy of every method, seed by seed and with its interval over seeds; a panel a
    set of objectives."""
    known, names = language_tables.by_family(data), list(language_tables.LABELS)
    with matplotlib.rc_context(RC):
        figure, panels = canvas(3.2 + 2.2 * len(known), 1.0 + 0.32 * len(names), columns=len(known))
        for axes, (family, cells) in zip(panels, known.items(), strict=True):
            for row, name in enumerate(names):
                values = language_tables.values(cells, name)
                ours = name.startswith(language_tables.OURS)
                colour = BLUE if ours else "#c0609a" if name == "true" else INK
                axes.plot(values, np.full(len(values), row), "o", ms=3, color=colour, alpha=0.4, mew=0)
                _interval(axes, row, over_runs(values), colour)
            axes.set(title=family, ylim=(len(names) - 0.4, -0.6), yticks=range(len(names)), yticklabels=[])
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x")
            axes.set_axisbelow(True)
        panels[0].set_yticklabels(list(language_tables.LABELS.values()))
        figure.supxlabel("held-out preference accuracy, mean over readers", size=9.5)
        return png(figure)


def _methods_of(axes, part: main_parts.Part, labels: Sequence[str], scarce: bool) -> None:
    for name, label in part.names().items():
        if not part.whole(name):
            continue
        row = labels.index(main_parts.short(label)) + (-0.16 if scarce else 0.16)
        found = main_parts.over_units(part.scores(name)[0])
        given = name.startswith(main_parts.UNATTAINABLE)
        colour = BLUE if name.startswith(OURS) else "#c0609a" if given else INK
        if found.lo is not None:
            axes.plot([found.lo, found.hi], [row, row], color=colour, lw=2, alpha=0.5, solid_capstyle="butt")
        axes.plot(found.mean, row, "o", ms=4.5, color=colour, mfc=colour if scarce else "white", mew=1.2)


DRAWERS = {
    "goals_methods": goals_methods,
    "goals_affinity": goals_affinity,
    "ppo_curves": ppo_curves,
    "main_table_hidden": partial(main_table, block="hidden"),
    "main_table_told": partial(main_table, block="told"),
    "peer_curves": peer_curves,
    "meta_rl": meta_rl,
    "approximation": approximation_tables.draw,
    "generalisation": generalisation_tables.draw,
    "language": language,
    "truth": truth_tables.draw,
    "truth_calibration": truth_tables.draw_calibration,
} | dict.fromkeys(BUDGETS, by_budget)
DRAWERS |= {f"ablation_{axis}": partial(ablation_tables.draw, axis=axis) for axis in ablation_tables.WORDS}
"""Name of the figure -> drawing function."""
