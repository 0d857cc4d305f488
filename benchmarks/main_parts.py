"""What the main table is made of: all runs of a family with one budget and block, from `main_table.json`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from aggregates import ahead
from main_table import BLOCKS, BUDGETS
from method_search import HIDDEN, TOLD, Baseline, Factors
from tables import over_runs

from pgx_jax.compare.results import OURS, SIMILAR, Interval
from pgx_jax.report import wording

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

UNATTAINABLE = (*wording.UNATTAINABLE, "committees")
"""How the names of methods begin that are given what others are not: planted groups, or what tasks are
described by."""

FROM_HIDDEN = (f"{OURS}_told", "single_task_base_one_a_task")
"""What the told block takes from runs of the hidden one: groups that were found blind, and a policy for each
task, which needs not be told."""


class Run(NamedTuple):
    """One training seed of a family of one seed."""

    family_seed: int
    seed: int
    entry: Mapping
    """What `main_table.record` kept of it, with what its block takes from the other one."""

    def has(self, name: str) -> bool:
        """Whether there are numbers of a method."""
        return None not in self.entry["methods"].get(name, {}).get("per_task", [None])


class Part(NamedTuple):
    """A family with one budget and block: all runs."""

    family: str
    budget: int
    block: str
    runs: list[Run]
    factors: Mapping[str, Factors]
    blind: Mapping[str, Factors]
    """Those of the hidden block, for what the told one takes from it."""

    def _by_unit(self, values: Mapping[tuple[int, int], np.ndarray]) -> np.ndarray:
        """Values of runs, averaged within family seeds; as they are where there is one family seed."""
        several = len({run.family_seed for run in self.runs}) > 1
        units: dict[int, list[np.ndarray]] = {}
        for (family_seed, seed), value in values.items():
            units.setdefault(family_seed if several else seed, []).append(value)
        return np.stack([np.mean(own, axis=0) for own in units.values()])

    def scores(self, *names: str) -> np.ndarray:
        """float [names, units, tasks]: means of methods, over the runs that have all of them. Runs of one
        family seed have more in common than others: units are family seeds."""
        found = {
            run[:2]: np.array([run.entry["methods"][name]["per_task"] for name in names], float)
            for run in self._with(*names)
        }
        return self._by_unit(found).swapaxes(0, 1)

    def _with(self, *names: str) -> list[Run]:
        """The runs that have all of some methods."""
        return [run for run in self.runs if all(run.has(name) for name in names)]

    def mean(self, name: str) -> float:
        """Mean return of a method."""
        return float(self.scores(name).mean())

    def ahead(self, name: str, other: str) -> np.ndarray:
        """float [units, tasks]: what a method earns more than another."""
        one, two = self.scores(name, other)
        return one - two

    def better(self, name: str, other: str) -> np.ndarray:
        """float [units]: part of the runs in which a method earns more than another; ties count half."""
        found = {
            run[:2]: ahead(*(run.entry["methods"][x]["mean"] for x in (name, other)))
            for run in self._with(name, other)
        }
        return self._by_unit(found)

    def unseen(self, *names: str) -> np.ndarray | None:
        """float [names, units]: means on unseen tasks, over the runs that have all of the methods; None where
        there are none."""
        found = {run[:2]: [run.entry["unseen"].get(name) for name in names] for run in self._with(*names)}
        return None if any(None in means for means in found.values()) else self._by_unit(found).T

    def equal(self, name: str, other: str) -> bool:
        """Whether two methods earn the same in every run."""
        means = ([run.entry["methods"][x]["mean"] for x in (name, other)] for run in self._with(name, other))
        return all(one == two for one, two in means)

    def solved(self) -> bool:
        """Whether most methods earn the same as ours in every run: the largest return there is."""
        others = [name for name in self.names() if name != OURS]
        return sum(self.equal(OURS, name) for name in others) > len(others) / 2

    def count(self, name: str) -> int:
        """Runs that have a method."""
        return len(self._with(name))

    def whole(self, name: str) -> bool:
        """Whether all runs have it."""
        return self.count(name) == len(self.runs)

    def names(self) -> dict[str, str]:
        """Labels of the methods that any run has, by their names in results; of the gradient similarities the
        one that earned most."""
        own = {result_name(key, m): m.label for key, m in BLOCKS[self.block].items()}
        alone = {name: HIDDEN["one_a_task"].label for name in FROM_HIDDEN[1:]}
        found = {OURS: SHARED[OURS]} | self._similar() | SHARED | own | alone
        return {name: label for name, label in found.items() if self.count(name)}

    def by_label(self) -> dict[str, str]:
        """The methods by their short labels."""
        return {short(label): name for name, label in self.names().items()}

    def _similar(self) -> dict[str, str]:
        """The gradient similarity that earned most, and TAG's lookahead, each at its best k."""
        names = [x for x in self.runs[0].entry["methods"] if x.startswith(f"{SIMILAR}_") and self.whole(x)]
        found = {}
        for label, tag in (("Gradient similarity at its best", False), ("TAG's lookahead", True)):
            own = [name for name in names if ("lookahead" in name) == tag]
            if own:
                best = max(own, key=self.mean)
                kind = best.removeprefix(f"{SIMILAR}_").replace("_our_k", ", our k")
                found[best] = f"{label} ({kind})"
        return found


def result_name(key: str, method: Baseline) -> str:
    """What the results of a run call a method of the blocks (see `main_table.named`)."""
    return method.named(key).key


SIMPLEST = {
    "hidden": tuple(result_name(name, HIDDEN[name]) for name in ("one_for_all", "one_a_task")),
    "told": (result_name("told", TOLD["told"]), FROM_HIDDEN[1]),
}
"""What is the simplest to do, by blocks: one policy for all from scratch, or else one for each task."""


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
    runs = [Run(*_seed(c, r), _joined(r, blind.get(_seed(c, r)), block)) for c in mine for r in c["runs"]]
    hidden = [c for c in own if c["cell"]["block"] == "hidden"]
    factors, given = (
        {name: Factors(*values) for c in cells[:1] for name, values in c["factors"].items()}
        for cells in (mine, hidden)
    )
    return Part(family, budget, block, sorted(runs, key=lambda run: run[:2]), factors, given)


def _seed(cell: Mapping, run: Mapping) -> tuple[int, int]:
    return cell["cell"]["settings"]["seed"], run["seed"]


def _joined(run: Mapping, blind: Mapping | None, block: str) -> Mapping:
    """A run with what its block takes from the other block's run of the same seeds, and without groups told
    then where nothing is told."""
    given = {"methods": {}, "unseen": {}} if block == "hidden" or blind is None else blind
    joined = {
        name: {k: v for k, v in run[name].items() if k != f"{OURS}_told"}
        | {k: v for k, v in given[name].items() if k in FROM_HIDDEN}
        for name in ("methods", "unseen")
    }
    return {**run, **joined}


def over_units(values: np.ndarray) -> Interval:
    """Mean and 95% t-interval over units [units] or [units, tasks]."""
    return over_runs(values.reshape(len(values), -1).mean(1).tolist())


def first(part: Part, names: Collection[str]) -> tuple[str, list[str]]:
    """The method of most mean return of those that all runs have and that are given no more than others, and
    all whose paired difference to it has a t-interval that covers zero (itself included)."""
    known = [name for name in names if not name.startswith(UNATTAINABLE) and part.whole(name)]
    best = max(known, key=part.mean)
    return best, as_good(part, best, known)


def as_good(part: Part, best: str, known: Sequence[str]) -> list[str]:
    """Of some methods those that the ``best`` is not ahead of by an interval above zero, itself included."""
    return [name for name in known if name == best or not over_units(part.ahead(best, name)).above_zero]


def short(label: str) -> str:
    """A label without what stands in parentheses."""
    return label.partition(" (")[0]


def labels(known: Sequence[Part]) -> list[str]:
    """The short labels of all methods."""
    return list(dict.fromkeys(short(label) for part in known for label in part.names().values()))
