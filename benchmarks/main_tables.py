"""The main table as Markdown, from the result file of `main_table.py` alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from aggregates import bootstrap, improvement, interquartile_mean
from main_table import BLOCKS, BUDGETS
from method_search import METHODS, NOISE, Baseline, Factors, chosen
from tables import plural, table

from pgx_jax.compare.results import OURS, SIMILAR, Interval
from pgx_jax.report.wording import steps, with_interval

TITLES = {"hidden": "Task hidden from the policy", "told": "Task told to the policy"}

SHARED = {
    OURS: "PolicyGradEx (ours)",
    f"{OURS}_told": "PolicyGradEx, groups found blind and told then",
    "em": "Clustering on returns (EM), our k",
    "committees": "Groups by task parameters, our k",
    "random": "Random groups of our sizes",
    "multitask_continued": "One policy for all, continuing the meta-policy",
    "true_groups": "True groups, from scratch",
    "true_groups_continued": "True groups, from the meta-policy",
}
"""Methods of every run but similarities, by their names in results; the others are those of the blocks."""

UNKNOWN = ("true_groups", "true_groups_continued")
"""What nobody knows who has the tasks alone."""


class Run(NamedTuple):
    """One training seed of a family of one seed."""

    family_seed: int
    seed: int
    entry: Mapping
    """What `main_table.record` kept of it; in the told block with the groups that were found blind."""


class Part(NamedTuple):
    """A family with one budget and block: all runs."""

    family: str
    budget: int
    block: str
    runs: list[Run]
    factors: Mapping[str, Factors]

    def scores(self, name: str) -> np.ndarray:
        """float [runs, tasks]: means of a method."""
        return np.array([run.entry["methods"][name]["per_task"] for run in self.runs], float)

    def unseen(self, name: str) -> np.ndarray | None:
        """float [runs, 1]: means on unseen tasks; None where there are none."""
        found = [run.entry["unseen"].get(name) for run in self.runs]
        return None if None in found else np.array(found, float)[:, None]

    def has(self, name: str) -> bool:
        """Whether all runs have the method."""
        return all(name in run.entry["methods"] for run in self.runs)

    def names(self) -> dict[str, str]:
        """Labels of the methods that all runs have, by their names in results; of the gradient similarities
        the one that earned most."""
        own = {result_name(key, m): m.label for key, m in BLOCKS[self.block].items()}
        found = {OURS: SHARED[OURS]} | self._similar() | SHARED | own
        return {name: label for name, label in found.items() if self.has(name)}

    def _similar(self) -> dict[str, str]:
        """The gradient similarity that earned most, and TAG's lookahead, each at its best k."""
        names = [x for x in self.runs[0].entry["methods"] if x.startswith(f"{SIMILAR}_") and self.has(x)]
        found = {}
        for label, ahead in (("Gradient similarity at its best", False), ("TAG's lookahead", True)):
            own = [name for name in names if ("lookahead" in name) == ahead]
            if own:
                best = max(own, key=lambda name: self.scores(name).mean())
                kind = best.removeprefix(f"{SIMILAR}_").replace("_our_k", ", our k")
                found[best] = f"{label} ({kind})"
        return found


def result_name(key: str, method: Baseline) -> str:
    """What the results of a run call a method of the blocks (see `main_table.named`)."""
    return f"{'single_task' if method.each else 'multitask'}_{method.policy}_{key}"


def parts(data: Mapping) -> list[Part]:
    """All families, budgets and blocks that have cells, in the order of the table."""
    found = [
        _part(family, budget, block, data["cells"])
        for family, budgets in BUDGETS.items()
        for budget in budgets
        for block in BLOCKS
    ]
    return [part for part in found if part.runs]


def _part(family: str, budget: int, block: str, cells: Sequence[Mapping]) -> Part:
    own = [c for c in cells if (c["cell"]["family"], c["cell"]["steps_per_task"]) == (family, budget)]
    mine = [c for c in own if c["cell"]["block"] == block]
    blind = {_seed(c, r): r for c in own if c["cell"]["block"] == "hidden" for r in c["runs"]}
    runs = [Run(*_seed(c, r), _with_told(r, blind.get(_seed(c, r)), block)) for c in mine for r in c["runs"]]
    factors = {name: Factors(*values) for c in mine[:1] for name, values in c["factors"].items()}
    return Part(family, budget, block, sorted(runs, key=lambda run: run[:2]), factors)


def _seed(cell: Mapping, run: Mapping) -> tuple[int, int]:
    return cell["cell"]["settings"]["seed"], run["seed"]


def _with_told(run: Mapping, blind: Mapping | None, block: str) -> Mapping:
    """A run without what belongs to the other block, and with what the other block's run has of its own."""
    told = f"{OURS}_told"
    kept = {name: {k: v for k, v in run[name].items() if k != told} for name in ("methods", "unseen")}
    if block == "told" and blind is not None:
        for name in kept:
            kept[name] |= {k: v for k, v in blind[name].items() if k == told}
    return {**run, **kept}


def first(part: Part, names: Mapping[str, str]) -> tuple[str, list[str]]:
    """The method of most mean return of those that need no truth, and all whose paired difference to it has
    an interval that covers zero (itself included)."""
    known = [name for name in names if name not in UNKNOWN]
    best = max(known, key=lambda name: part.scores(name).mean())
    ties = [name for name in known if _ties(part, best, name)]
    return best, ties


def _ties(part: Part, best: str, name: str) -> bool:
    gap = bootstrap(part.scores(best) - part.scores(name))
    return name == best or (gap.lo is not None and gap.lo <= 0)


def overview(data: Mapping) -> str:
    """A table a block: methods by families and budgets; bold are the first and what ties with it."""
    pieces = []
    for block in BLOCKS:
        known = [part for part in parts(data) if part.block == block]
        if known:
            pieces += [f"**{TITLES[block]}**", _overview(known)]
    pieces += [
        "Mean return; bold: the first of those that need no planted groups, and all whose paired difference "
        "to it has a 95% bootstrap interval that covers zero. In parentheses: on unseen tasks, each of which "
        "finds the best of the method's policies (told: of what they may be told) in a few trial episodes. "
        "Interquartile means, intervals, probabilities of improvement and what every method costs: "
        "[docs/main_table.md](docs/main_table.md).",
        "\n".join(f"- {sentence}" for sentence in sentences(data)),
    ]
    return "\n\n".join(pieces)


def short(label: str) -> str:
    """A label without what stands in parentheses."""
    return label.partition(" (")[0]


def labels(known: Sequence[Part]) -> list[str]:
    """The short labels of all methods."""
    return list(dict.fromkeys(short(label) for part in known for label in part.names().values()))


def _overview(known: Sequence[Part]) -> str:
    names, rows = [part.names() for part in known], []
    for label in labels(known):
        row = [label]
        for part, own in zip(known, names, strict=True):
            name = next((n for n, text in own.items() if short(text) == label), None)
            row.append("–" if name is None else _mean(part, own, name))
        rows.append(row)
    head = [f"{part.family}, {steps(part.budget)}, {plural(len(part.runs), 'run')}" for part in known]
    return table(["", *head], rows)


def _mean(part: Part, names: Mapping[str, str], name: str) -> str:
    value, unseen = f"{part.scores(name).mean():.1f}", part.unseen(name)
    shown = f"**{value}**" if name in first(part, names)[1] else value
    return shown if unseen is None else f"{shown} ({unseen.mean():.1f})"


def sentences(data: Mapping) -> Iterator[str]:
    """What a user should do, one sentence a family, budget and block."""
    for part in parts(data):
        names = part.names()
        best, ties = first(part, names)
        where = f"`{part.family}`, {steps(part.budget)} steps a task, {part.block}"
        others = [names[name] for name in ties if name not in (best, OURS)]
        tied = f" (not told apart from it: {', '.join(others)})" if others else ""
        if OURS in ties:
            ks = {run.entry["k"] for run in part.runs}
            does = "it trains one policy for all" if ks == {1} else f"k = {', '.join(map(str, sorted(ks)))}"
            lead = "earns most" if best == OURS else f"ties with the best, {names[best]}"
            yield f"{where}: take PolicyGradEx, which {lead}{tied}; {does}."
        else:
            gap = bootstrap(part.scores(best) - part.scores(OURS))
            yield f"{where}: take {names[best]}{tied}; PolicyGradEx falls short by {with_interval(gap)}."


def whole(data: Mapping, search: Mapping | None = None) -> str:
    """Every statistic of every method, and the search of their settings."""
    pieces = [
        "# Every method on every family\n\n"
        "Generated by `python benchmarks/figures.py` from `benchmarks/results/main_table.json` "
        "(`python benchmarks/main_table.py`). All methods have the same total of environment steps. Brackets "
        "are 95% intervals of a bootstrap over runs (training seeds of several family seeds); they leave out "
        "other families. The interquartile mean is of the middle half of all runs on all tasks. *Ours is "
        "better* is the part of the runs, of the same family and seed, in which ours earns more. *Settings* "
        "are what differs from the family's: what earned most in the search below, where that was made "
        "(those of groupings are ours)."
    ]
    for part in parts(data):
        title = f"{part.family}, {steps(part.budget)} steps a task: {TITLES[part.block].lower()}"
        pieces += [f"## {title}", _whole(part)]
    if search is not None:
        pieces += ["## The search of settings", searched(search)]
    return "\n\n".join(pieces) + "\n"


def searched(data: Mapping) -> str:
    """Mean returns of every method by factors of its settings."""
    found: dict[tuple[str, str], list[Mapping]] = {}
    for cell in data["cells"]:
        found.setdefault((cell["cell"]["family"], cell["cell"]["method"]), []).append(cell)
    tried = [Factors(*factors) for factors in data["cells"][0]["cell"]["factors"]]
    rows = []
    for (family, method), cells in found.items():
        mean, best = np.mean([c["returns"] for c in cells], axis=0), chosen(data, family, method)
        shown = [
            f"**{value:.1f}**" if factors == best else f"{value:.1f}"
            for factors, value in zip(tried, mean, strict=True)
        ]
        rows.append([f"{family}, {SHARED.get(method) or METHODS[method].label}", *shown])
    head = ["", *("the family's settings" if f == Factors() else _words(f) for f in tried)]
    seeds = sorted({str(c["cell"]["settings"]["seed"]) for c in data["cells"]})
    facts = (
        f"`python benchmarks/method_search.py`: mean returns at the family's budget, over family seeds that "
        f"no table uses ({', '.join(seeds)}); bold: taken. Other settings than the family's must earn "
        f"{NOISE:.0%} more, and families that were not searched keep theirs, for all methods alike. How long "
        f"ours meta-trains before its first look comes from "
        f"`python benchmarks/study.py looks`, on the same seeds."
    )
    return f"{facts}\n\n{table(head, rows)}"


def _whole(part: Part) -> str:
    names, ours, rows = part.names(), part.scores(OURS), []
    for name, label in names.items():
        own, unseen = part.scores(name), part.unseen(name)
        mine = part.unseen(OURS)
        apart = ["", ""]
        if name != OURS:
            better = improvement(ours.mean(1).tolist(), own.mean(1).tolist())
            apart = [with_interval(bootstrap(ours - own), signed=True), _percent(better)]
        ahead = "" if unseen is None or mine is None else with_interval(bootstrap(unseen))
        cost = np.mean([run.entry["methods"][name]["env_steps"] for run in part.runs])
        rows.append(
            [
                label, with_interval(bootstrap(own)), with_interval(bootstrap(own, interquartile_mean)),
                *apart, ahead, steps(cost), _factors(part, name),
            ]
        )  # fmt: skip
    head = [
        "method", "mean", "interquartile mean", "ours minus it", "ours is better", "unseen tasks", "steps",
        "settings",
    ]  # fmt: skip
    known = [run.entry["agreement"] for run in part.runs if run.entry.get("agreement")]
    nmi = f"; mean NMI with the planted groups {np.mean([a['nmi'] for a in known]):.3f}" if known else ""
    seeds = len({run.family_seed for run in part.runs})
    ks = ", ".join(str(run.entry["k"]) for run in part.runs)
    facts = f"{plural(len(part.runs), 'run')} of {plural(seeds, 'family seed')}; k found: {ks}{nmi}."
    return f"{facts}\n\n{table(head, rows)}"


def _percent(value: Interval) -> str:
    if value.mean is None or value.lo is None or value.hi is None:
        return "–"
    return f"{value.mean:.0%} [{value.lo:.0%}, {value.hi:.0%}]"


def _factors(part: Part, name: str) -> str:
    """What a method's settings were multiplied by; of those of runs, what ours' were."""
    own = next((key for key, m in BLOCKS[part.block].items() if result_name(key, m) == name), OURS)
    return _words(part.factors.get(own, Factors()))


def _words(factors: Factors) -> str:
    """Factors other than 1."""
    words = {"entropy": "entropy", "learning_rate": "step size", "final_learning_rate": "last step size"}
    return ", ".join(f"{words[k]} ×{v:g}" for k, v in factors._asdict().items() if v != 1)
