"""Tables and figures of the ablations, with what a user should set, made from the result file alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import matplotlib
import numpy as np
from tables import counted, over_runs, plural, table

from pgx_jax import grouping
from pgx_jax.compare.results import Interval
from pgx_jax.report.figures.canvas import BLUE, FAINT, INK, RC, canvas, png
from pgx_jax.report.wording import with_interval

ORANGE = "#d9822b"
ENOUGH = 5
"""Runs with conflict that advice needs."""


class Words(NamedTuple):
    """An axis in words."""

    title: str
    setting: str
    """What a user would set."""
    keep: str
    """The advice where nothing is better than the defaults."""
    says: str = ""
    """What its values are, where their names don't tell."""


WORDS = {
    "dim": Words("Projected dimension d", "`estimate.dim`", "Leave `estimate.dim` at 400"),
    "subsets": Words(
        "Number and size of subsets",
        "`estimate.subsets` and `estimate.subset_size`",
        "Leave `estimate.subsets` and `estimate.subset_size` open",
        "m of a size, of ten tasks; by default all triples.",
    ),
    "score": Words(
        "Score of a subset",
        "`estimate.score`",
        "Leave `estimate.score` at surrogate",
        "Roll-outs play 8 episodes of every subset and task, whose steps are not paid for here.",
    ),
    "affinity": Words(
        "Kind of affinity",
        "`estimate.affinity`",
        "Leave `estimate.affinity` open",
        "Alone: without the gradient similarities whose partitions compete with its own "
        "(`estimate.beside`). The paper has the mean of the whole subset's scores.",
    ),
    "ridge": Words(
        "Ridge of the surrogates",
        "`estimate.l2` or `estimate.ridge`",
        "Leave `estimate.l2` at 1",
        "Of the mean: where partitions compete, it is added to the mean of a group's losses, not their sum.",
    ),
    "transitions": Words(
        "Transitions a task",
        "`estimate.steps` and `collect_fraction`",
        "Leave `collect_fraction` as it is",
        "2304 are what the defaults collect at a look at this total; the others are not paid for here.",
    ),
    "lambda": Words(
        "Lambda of the advantages", "`estimate.gae_lambda`", "Leave `estimate.gae_lambda` at the learner's"
    ),
    "cross_fitting": Words(
        "Cross-fitting",
        "how partitions are judged",
        "There is nothing to set: cross-fitting and its test are always on",
        "No test: the best candidate by the same rule, without the nested test of a split. One way: subsets "
        "and candidates are fitted on some parts and judged on one. In sample: judged on what they were "
        "fitted on.",
    ),
    "length": Words(
        "Length of meta-training",
        "`meta_fraction`",
        "Leave `meta_fraction` at .25",
        "In parts of the total; 25% is when the defaults look for the first time.",
    ),
    "entropy": Words("Entropy bonus of meta-training", "`meta_entropy`", "Leave `meta_entropy` at .15"),
    "scales": Words(
        "Reward scales",
        "`ppo.scale_rewards`",
        "Leave `ppo.scale_rewards` on",
        "Factors of the tasks' rewards in turn, with each task's rewards divided by the deviation of its "
        "returns (the default) and not.",
    ),
    "k": Words("Number of groups k", "`k`", "Leave `k` open"),
    "looks": Words("Looks at the meta-policy", "`looks` and `meta_fraction`", "Leave `looks` at 2"),
}


class Runs(NamedTuple):
    """All runs of an axis on a family."""

    truths: list
    """Of every run, the planted groups; None where there are none."""
    values: dict[str, list[Mapping]]
    """Of every value, what each run found."""

    @property
    def conflict(self) -> bool:
        """Whether groups are planted."""
        return self.truths[0] is not None

    def measured(self, value: str, measure: str) -> np.ndarray:
        """float [S]: a measure of every run."""
        return np.array(
            [
                MEASURES[measure](run, truth)
                for run, truth in zip(self.values[value], self.truths, strict=True)
            ]
        )

    def splits(self, value: str) -> int:
        """Runs that found more than one group."""
        return int((self.measured(value, "k") > 1).sum())


def _agreement(agree: Callable, labels: str) -> Callable[[Mapping, list | None], float]:
    """Agreement with the planted groups; none where a run was refused."""

    def of(run: Mapping, truth: list | None) -> float:
        if truth is None:
            return np.nan
        return agree(truth, run[labels]) if labels in run else 0.0

    return of


MEASURES: dict[str, Callable[[Mapping, list | None], float]] = {
    "ari": _agreement(grouping.ari, "labels"),
    "nmi": _agreement(grouping.nmi, "labels"),
    "ari_at_k": _agreement(grouping.ari, "at_k"),
    "auc": lambda run, _: run.get("auc", np.nan),
    "gain": lambda run, _: run.get("gain", np.nan),
    "return": lambda run, _: run.get("return", np.nan),
    "theta": lambda run, _: run.get("theta", np.nan),
    "k": lambda run, _: max(run.get("labels", [0])) + 1,
}
"""Of what a run found, and the planted groups. A run that was refused finds no groups."""


def runs_of(data: Mapping, axis: str) -> dict[str, Runs]:
    """The runs of an axis, by family."""
    found: dict[str, Runs] = {}
    for cell in data["cells"]:
        if cell["cell"]["axis"] != axis:
            continue
        values = [name for name in _axis(axis).values if name in cell["values"]]
        runs = found.setdefault(cell["cell"]["family"], Runs([], {name: [] for name in values}))
        runs.truths.append(cell["truth"])
        for name in values:
            runs.values[name].append(cell["values"][name])
    return {name: found[name] for name in _in_order(found)}


def _in_order(names) -> list[str]:
    from ablations import FAMILIES

    order = [*FAMILIES]
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _axis(name: str):
    from ablations import AXES

    return AXES[name]


def known(data: Mapping) -> list[str]:
    """The axes that something is measured of."""
    found = {cell["cell"]["axis"] for cell in data["cells"]}
    return [name for name in WORDS if name in found]


# In words


def ablation(data: Mapping, axis: str) -> str:
    """What a user should set, and a table of what every value finds."""
    runs = runs_of(data, axis)
    if not runs:
        return "_Not measured yet._"
    return caption(runs, axis) + "\n\n" + _table(runs, axis)


class Against(NamedTuple):
    """A value against the default one."""

    value: str
    difference: Interval
    splits: int
    """Runs without conflict that it splits."""

    @property
    def told(self) -> str:
        """In words."""
        return f"“{self.value}” by {with_interval(self.difference, signed=True)}"


def against_default(runs: Mapping[str, Runs], axis: str, measure: str) -> list[Against]:
    """Every value minus the default, paired by run, over all runs with conflict; returns in per cent of the
    default's mean on a family."""
    default = _axis(axis).default
    planted, free = ([r for r in runs.values() if r.conflict is which] for which in (True, False))
    found = []
    for value in _values(runs):
        differences = []
        for r in planted if value != default else ():
            own, base = (r.measured(x, measure) for x in (value, default))
            unit = abs(np.nanmean(base)) / 100 if measure == "return" else 1.0
            differences += ((own - base) / unit).tolist()
        if known := [x for x in differences if np.isfinite(x)]:
            found.append(Against(value, over_runs(known), sum(r.splits(value) for r in free)))
    return found


def better_and_worse(compared: list[Against]) -> tuple[list[Against], list[Against]]:
    """Values whose interval lies above that of the default, and below it."""
    better = [x for x in compared if x.difference.lo is not None and x.difference.lo > 0]
    return better, [x for x in compared if x.difference.hi is not None and x.difference.hi < 0]


def _values(runs: Mapping[str, Runs]) -> list[str]:
    """All values, in their order."""
    return [*dict.fromkeys(name for r in runs.values() for name in r.values)]


def caption(runs: Mapping[str, Runs], axis: str) -> str:
    """What to set, what tells so, and what the values are."""
    words, default = WORDS[axis], _axis(axis).default
    counts = sum(len(r.truths) for r in runs.values() if r.conflict)
    better, _ = better_and_worse(against_default(runs, axis, measures(axis)[0]))
    own, of, split = _splits(runs, default)
    safe = [x for x in better if x.splits <= own]
    advice = _advice(words, better, safe) if counts >= ENOUGH else "Too few runs yet to say what to set"
    pieces = [f"**{advice}.** {words.says}".strip()]
    pieces += [f"{x}, which has no such setting, is left out." for x in _axis(axis).without]
    pieces.append(comparison(runs, axis))
    pieces += alone(runs, axis)
    if of:
        others = f", by {', by '.join(split)}." if split else " and by no other value."
        pieces.append(
            f"Tasks without conflict are split in {own} of {plural(of, 'run')} by the default{others}"
        )
    return " ".join(pieces)


def measures(axis: str) -> tuple[str, ...]:
    """By which the values of an axis are compared, the one that advice goes by first."""
    return ("return",) if _axis(axis).whole else ("ari", "auc")


def comparison(runs: Mapping[str, Runs], axis: str) -> str:
    """Every value against the default, in a sentence."""
    counts = sum(len(r.truths) for r in runs.values() if r.conflict)
    told = [_compared(name, against_default(runs, axis, name)) for name in measures(axis)]
    return (
        f"Against the default (“{_axis(axis).default}”), paired over {plural(counts, 'run')} with conflict: "
        f"{'; '.join(told)}."
    )


def alone(runs: Mapping[str, Runs], axis: str) -> list[str]:
    """A sentence of the families on which, by themselves, a value is better than the default; or none."""
    name, told = measures(axis)[0], []
    families = {family: r for family, r in runs.items() if r.conflict and len(r.truths) >= ENOUGH}
    for family, r in families.items():
        if len(families) > 1:
            better, _ = better_and_worse(against_default({family: r}, axis, name))
            told += [f"on {family} {', '.join(x.told for x in better)}"] if better else []
    return [f"On a single family, {COMPARED[name]}, better {'; '.join(told)}."] if told else []


COMPARED = {
    "ari": "in the adjusted Rand index of the chosen groups",
    "auc": "in the area under the curve of the affinity",
    "return": "in return, in % of the default's",
}


def _compared(measure: str, compared: list[Against]) -> str:
    listed = [", ".join(x.told for x in some) or "none" for some in better_and_worse(compared)]
    return f"{COMPARED[measure]} better {listed[0]}, worse {listed[1]}"


def _splits(runs: Mapping[str, Runs], default: str) -> tuple[int, int, list[str]]:
    """Runs without conflict that the default splits, of how many, and in how many each other value does."""
    free = [r for r in runs.values() if not r.conflict]
    count = {value: sum(r.splits(value) for r in free) for value in (_values(runs) if free else ())}
    own = count.pop(default, 0)
    return own, sum(len(r.truths) for r in free), [f"“{v}” in {c}" for v, c in count.items() if c]


def _advice(words: Words, better: list[Against], safe: list[Against]) -> str:
    if safe:
        best = max(safe, key=lambda x: x.difference.mean)
        return f"Here another value than the default is better: {words.setting}, “{best.value}”"
    if better:
        return f"{words.keep}: what is better with conflict splits tasks without it more often"
    return words.keep


def _table(runs: Mapping[str, Runs], axis: str) -> str:
    default, whole, trains = _axis(axis).default, _axis(axis).whole, _axis(axis).trains
    rows = []
    for value in _values(runs):
        cells = [_cell(r, value, whole, trains) for r in runs.values()]
        rows.append([f"**{value}**" if value == default else value, *cells])
    head = [f"{name}, {plural(len(r.truths), 'seed')}" for name, r in runs.items()]
    first = "value (default bold)"
    return table([first, *head], rows)


def _cell(runs: Runs, value: str, whole: bool, trains: bool) -> str:
    """NMI, ARI (at the planted k) and k; or the return."""
    mean = lambda name: f"{np.nanmean(runs.measured(value, name)):.2f}"  # noqa: E731
    k = f"k {counted(runs.measured(value, 'k').tolist())}"
    pieces = [f"{with_interval(over_runs(runs.measured(value, 'return')))}"] if whole else []
    if runs.conflict:
        at_k = "" if whole else f" ({mean('ari_at_k')})"
        pieces += [f"{mean('nmi')}, {mean('ari')}{at_k}"]
    pieces.append(k)
    if trains:
        pieces.append(f"θ* {mean('theta')}")
    refused = sum("refused" in run for run in runs.values[value])
    return "; ".join([*pieces, *([f"refused {refused}"] if refused else [])])


def introduction(data: Mapping) -> str:
    """How to read the figures."""
    seeds = sorted({cell["cell"]["family_seed"] for cell in data["cells"]})
    refused = sorted({
        value["refused"] for cell in data["cells"] for value in cell["values"].values() if "refused" in value
    })  # fmt: skip
    told = f" Refused: {' '.join(refused)}" if refused else ""
    compared = sum(len(_values(runs_of(data, axis))) - 1 for axis in known(data))
    return (
        f"One setting is varied at a time, at 30,720 steps a task; all others are the defaults. Family "
        f"seeds: {', '.join(map(str, seeds))}, on which nothing was tuned; means and 95% t-intervals over "
        f"them. Where training is not what is varied, one θ* for each family and seed, at the defaults' "
        f"first look (a quarter of the steps), is asked with every value, so that values are paired. The "
        f"default is shaded in the figures. First row: adjusted Rand index of the chosen groups with the "
        f"planted ones (filled) and at the planted number of groups (hollow), and how well the affinity "
        f"tells pairs that are planted together from others (area under the curve, ×); where there is no "
        f"conflict, the number of groups found, which should be 1. Second row: what splitting is predicted "
        f"to gain, in standardised advantage a step. Of whole runs: mean return, and agreement or number of "
        f"groups. Tables: normalised mutual information and adjusted Rand index of the chosen groups (the "
        f"latter at the planted k), k as found, and θ*'s mean return while training where it differs. So few "
        f"seeds tell large differences alone, and of {compared} comparisons with the default (and as many on "
        f"every family by itself) one in twenty would look different by chance.{told}"
    )


# In figures


def draw(data: Mapping, axis: str) -> bytes:
    """A column a family, a row a measure."""
    runs, whole = runs_of(data, axis), _axis(axis).whole
    rows = ("return", "found") if whole else ("found", "gain")
    with matplotlib.rc_context(RC):
        width, height = max(8.0, 2.5 * len(runs) + 0.6), 5.4 if _long(_values(runs)) else 4.6
        figure, panels = canvas(width, height, columns=len(runs), rows=2)
        for j, (family, r) in enumerate(runs.items()):
            for i, row in enumerate(rows):
                axes = panels[i * len(runs) + j]
                _shade(axes, [*r.values], _axis(axis).default)
                label = _PANELS[row](axes, r, whole)
                axes.set_ylabel(label if j == 0 or not r.conflict and row == "found" else "", fontsize=8.5)
                _ticks(axes, [*r.values], bottom=i == 1)
            panels[j].set_title(family.replace(", ", ",\n"), fontsize=9)
        if not whole:
            _share(panels[len(runs) :])
        figure.supxlabel(WORDS[axis].title, fontsize=9.5)
        figure.legend(handles=_legend(whole), loc="outside upper left", ncols=4, fontsize=8)
        return png(figure)


def _share(panels) -> None:
    """One scale for all of a row."""
    low, high = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(low), max(high))


def _shade(axes, values: list[str], default: str) -> None:
    if default in values:
        at = values.index(default)
        axes.axvspan(at - 0.4, at + 0.4, color=FAINT, alpha=0.18, lw=0)


def _ticks(axes, values: list[str], bottom: bool) -> None:
    labels = [value.replace(", ", ",\n").replace(" (", "\n(") for value in values]
    turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if _long(values) else {}
    axes.set_xticks(range(len(values)), labels if bottom else [""] * len(values), fontsize=8, **turn)
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _long(values: list[str]) -> bool:
    """Whether there is no room for the values side by side."""
    return max(map(len, values)) * len(values) > 28 or max(map(len, values)) > 6


def _points(axes, runs: Runs, measure: str, shift: float = 0.0, **style) -> None:
    """Means over runs with their intervals."""
    for at, value in enumerate(runs.values):
        known = runs.measured(value, measure)
        known = known[np.isfinite(known)]
        if not len(known):
            continue
        told, colour = over_runs(known), style["color"]
        if told.lo is not None:
            axes.plot([at + shift] * 2, [told.lo, told.hi], color=colour, lw=1.6, alpha=0.55)
        axes.plot(at + shift, told.mean, ls="", **style)


def _found(axes, runs: Runs, whole: bool) -> str:
    if not runs.conflict:
        _points(axes, runs, "k", **CHOSEN)
        axes.set_ylim(0.5, max(3.5, axes.get_ylim()[1]))
        return "groups found"
    _points(axes, runs, "ari", -0.15 if not whole else 0.0, **CHOSEN)
    if not whole:
        _points(axes, runs, "ari_at_k", 0.15, **AT_K)
        _points(axes, runs, "auc", 0.0, **AUC)
    axes.set_ylim(-0.25, 1.1)
    return "agreement with\nplanted groups"


def _gain(axes, runs: Runs, whole: bool) -> str:
    _points(axes, runs, "gain", **CHOSEN)
    axes.axhline(0, color=FAINT, lw=0.8)
    return "predicted gain\n(advantage a step)"


def _return(axes, runs: Runs, whole: bool) -> str:
    for at, value in enumerate(runs.values):
        known = runs.measured(value, "return")
        jitter = np.linspace(-0.18, 0.18, len(known)) if len(known) > 1 else np.zeros(len(known))
        axes.plot(at + jitter, known, "o", ms=2.5, color=INK, alpha=0.4, mew=0)
    _points(axes, runs, "return", **CHOSEN)
    return "mean return"


_PANELS: dict[str, Callable] = {"found": _found, "gain": _gain, "return": _return}
CHOSEN = {"marker": "o", "ms": 5, "color": BLUE}
AT_K = {"marker": "s", "ms": 4.5, "color": ORANGE, "mfc": "white", "mew": 1.2}
AUC = {"marker": "x", "ms": 5, "color": INK, "mew": 1.2}


def _legend(whole: bool) -> list:
    kinds = {"as chosen (mean, 95% interval)": CHOSEN}
    kinds |= {} if whole else {"ARI at the planted k": AT_K, "AUC of the affinity over pairs": AUC}
    lines = [matplotlib.lines.Line2D([], [], ls="", label=text, **style) for text, style in kinds.items()]
    return [*lines, matplotlib.patches.Patch(color=FAINT, alpha=0.3, lw=0, label="default")]
