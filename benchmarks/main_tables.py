"""The main table as Markdown, from the result file of `main_table.py` alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import method_search
import numpy as np
from aggregates import ahead, bootstrap, interquartile_mean, probability, ratio_of_means
from main_table import ADDED, BLOCKS, BUDGETS, factors_of
from method_search import HIDDEN, METHODS, NOISE, TOLD, TOLD_OURS, Baseline, Factors
from tables import over_runs, plural, table

from pgx_jax.compare.results import OURS, SIMILAR, Interval
from pgx_jax.report import wording
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


def overview(data: Mapping, search: Mapping | None = None) -> str:
    """A table a block: methods by families and budgets; bold are the first and what ties with it."""
    pieces = []
    for block in BLOCKS:
        known = [part for part in parts(data) if part.block == block]
        if known:
            pieces += [f"**{TITLES[block]}**", _overview(known)]
    pieces += [
        "Mean return; bold: the first, and all whose paired difference to it has a 95% t-interval over "
        "family seeds that covers zero. That says what is not told apart, not what to take: the gradient "
        "similarity and k that earned most on these very runs is shown, which nobody knows beforehand, so "
        "that the sentences below never tell to take it; and of what is as good they name the simplest "
        "first. True groups and groups by task parameters are given what no other method is, and are left "
        "out of both. In parentheses: on unseen tasks, each of which finds the best of the method's "
        "policies (told: of what they may be told) in a few trial episodes; of random groups the first "
        "draw is tried. Interquartile means, intervals, in how many runs ours is better, and what every "
        "method costs: [docs/main_table.md](docs/main_table.md).",
        "\n".join(f"- {sentence}" for sentence in sentences(data)),
        halves(data),
        alone(data),
        _changed(data, search),
    ]
    return "\n\n".join(filter(None, pieces))


HEADLINE = (
    OURS,
    "Gradient similarity at its best",
    "Random groups of our sizes",
    "One policy for all, continuing the meta-policy",
    "One policy for all",
    "One policy per task",
)
"""What the README shows of the block that is not told its task; of the other one policy for all alone."""


def headline(data: Mapping) -> str:
    """The README's table: a few methods by families and budgets."""
    known = parts(data)
    hidden = [part for part in known if part.block == "hidden"]
    told = {(part.family, part.budget): _means(part) for part in known if part.block == "told"}
    columns = [_means(part) for part in hidden]
    names = [short(SHARED.get(name, name)) for name in HEADLINE]
    rows = [[name, *(column.get(name, "–") for column in columns)] for name in names]
    all_told = (told.get((part.family, part.budget), {}).get("One policy for all", "–") for part in hidden)
    rows.append(["One policy for all, told its task", *(value.replace("**", "") for value in all_told)])
    head = [f"{part.family}, {steps(part.budget)}, {plural(len(part.runs), 'run')}" for part in hidden]
    note = (
        "Mean return, by family and environment steps a task, of policies that don't see which task they "
        "are on; in parentheses on unseen tasks. Bold: the first of all methods of [the whole "
        "table](docs/main_table.md), and those not told apart from it (of gradient similarities the one "
        "that earned most on these very runs is shown, which nobody knows beforehand). The last row is told "
        "its task, and stands outside that. Several methods that are not shown do as well: [every "
        "method](docs/results_returns.md#every-method-on-every-family), told its task as well."
    )
    return f"{table(['', *head], rows)}\n\n{note}"


def _changed(data: Mapping, search: Mapping | None) -> str:
    """Where the search tells other settings now."""
    other = [part for part in parts(data) if earlier(part, search)]
    where = "; ".join(f"{part.family}, {steps(part.budget)}, {part.block}" for part in other)
    told = "of which methods, and what it tells now: docs/main_table.md"
    return f"With settings of an earlier search than the committed one ({told}): {where}." if where else ""


def halves(data: Mapping) -> str:
    """Family seeds that were added once others had been looked at, apart from these."""
    pieces = []
    for family, seed in ADDED.items():
        words = list(filter(None, (_halved(part, seed) for part in parts(data) if part.family == family)))
        if words:
            pieces.append(
                f"Family seeds {seed} and up of {family} were added because those before had shown ours, "
                "with hidden tasks, behind a gradient similarity, mostly with equal groups. So the numbers "
                "over all of them were not planned. Each half by itself, ours minus what was the best other "
                f"method in the first: {'; '.join(words)}."
            )
    return "\n\n".join(pieces)


def _halved(part: Part, seed: int) -> str:
    """Ours minus the first of the family seeds below some, on these and on the others; nothing where there
    are no others."""
    early, late = (
        part._replace(runs=[run for run in part.runs if (run.family_seed >= seed) == added])
        for added in (False, True)
    )
    if not early.runs or not late.runs:
        return ""
    names = early.names()
    best, _ = first(early, [name for name in names if name != OURS])
    gaps = (
        f"{with_interval(over_units(half.ahead(OURS, best)), signed=True)} on family seeds "
        f"{half.runs[0].family_seed} to {half.runs[-1].family_seed}"
        for half in (early, late)
    )
    where = f"{part.block}, {steps(part.budget)} steps a task, against {names[best]}"
    return f"{where}, {' and '.join(gaps)}"


def alone(data: Mapping) -> str:
    """What other settings mean for one policy per task, which the other tables train with the family's."""
    words = [
        f"{part.mean('single_task'):.1f} on {part.family} at {steps(part.budget)} steps a task, in place of "
        f"{part.mean(FROM_HIDDEN[1]):.1f}"
        for part in parts(data)
        if part.block == "hidden" and part.factors.get("one_a_task", Factors()) != Factors()
    ]
    if not words:
        return ""
    return (
        "One policy per task has settings here that serve it best; with the family's, as in all other "
        f"tables, it earns {'; '.join(words)}."
    )


def short(label: str) -> str:
    """A label without what stands in parentheses."""
    return label.partition(" (")[0]


def labels(known: Sequence[Part]) -> list[str]:
    """The short labels of all methods."""
    return list(dict.fromkeys(short(label) for part in known for label in part.names().values()))


def _overview(known: Sequence[Part]) -> str:
    columns = [_means(part) for part in known]
    rows = [[label, *(column.get(label, "–") for column in columns)] for label in labels(known)]
    head = [f"{part.family}, {steps(part.budget)}, {plural(len(part.runs), 'run')}" for part in known]
    return table(["", *head], rows)


def _means(part: Part) -> dict[str, str]:
    """Mean returns of all methods of a part, by their short labels."""
    ties = first(part, part.names())[1]
    return {label: _mean(part, name, name in ties) for label, name in part.by_label().items()}


def _mean(part: Part, name: str, bold: bool) -> str:
    value, unseen = f"{part.mean(name):.1f}", part.unseen(name)
    shown = f"**{value}**" if bold else value
    shown = shown if unseen is None else f"{shown} ({unseen.mean():.1f})"
    return shown if part.whole(name) else f"{shown}, {part.count(name)} of {len(part.runs)} runs"


SIMPLEST = {
    "hidden": tuple(result_name(name, HIDDEN[name]) for name in ("one_for_all", "one_a_task")),
    "told": (result_name("told", TOLD["told"]), FROM_HIDDEN[1]),
}
"""What is the simplest to do, by blocks: one policy for all from scratch, or else one for each task."""
MOST_NAMED = 3
"""Methods that a sentence names."""


def sentences(data: Mapping) -> Iterator[str]:
    """What a user should do, one sentence a family and block."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for part in parts(data):
        said = found.setdefault((part.family, part.block), {})
        said.setdefault(_advice(part), []).append(steps(part.budget))
    for (family, block), said in found.items():
        words = (f"at {' and '.join(sizes)} steps a task {advice}" for advice, sizes in said.items())
        yield f"`{family}`, {block}: {'; '.join(words)}."


def _advice(part: Part) -> str:
    """What a user should do with a part's tasks: the simplest of what is as good as the first.

    Which gradient similarity is the best is told by these very runs: it may be as good, and is never what to
    take.
    """
    said = _said(part)
    best = max((name for name in said if not name.startswith(SIMILAR)), key=part.mean)
    gaps = {name: over_units(part.ahead(name, best)) for name in said if name.startswith(SIMILAR)}
    above = [name for name, gap in gaps.items() if gap.above_zero]
    ties = [name for name in as_good(part, best, list(said)) if name not in above]
    simple = next((name for name in SIMPLEST[part.block] if name in ties), None)
    taken = simple or best
    others = sorted(
        (name for name in ties if name != taken), key=lambda name: (name != OURS, -part.mean(name))
    )
    words = [f"take {said[taken]}" + ", the simplest" * (simple is not None and len(ties) > 1)]
    if others:
        words.append(
            f"as good {'is' if len(others) == 1 else 'are'} {_listed([said[name] for name in others])}"
        )
    if OURS not in ties:
        gap = over_units(part.ahead(best, OURS))
        words.append(f"PolicyGradEx falls short of the first by {with_interval(gap)}")
    words += [
        f"{said[name]}, picked on these very runs, earns {with_interval(gaps[name])} more" for name in above
    ]
    return "; ".join(words)


def _listed(names: Sequence[str]) -> str:
    """The first of some methods, and how many there are besides."""
    shown, more = list(names[: MOST_NAMED - 1]), len(names[MOST_NAMED - 1 :])
    last = plural(more, "other") if more else shown.pop()
    return " and ".join(filter(None, (", ".join(shown), last)))


def _said(part: Part) -> dict[str, str]:
    """What sentences call the methods that all runs have and that are given no more than others."""
    ks = sorted({run.entry["k"] for run in part.runs})
    found = {
        name: label if name.startswith(SIMILAR) else short(label)
        for name, label in part.names().items()
        if not name.startswith(UNATTAINABLE) and part.whole(name)
    }
    if ks == [1]:
        for name in [name for name in found if name.startswith(("multitask_continued", SIMILAR))]:
            if not part.ahead(OURS, name).any():  # the same policy
                del found[name]
        found[OURS] = f"{short(SHARED[OURS])} (k = 1: one policy for all, going on from the meta-policy)"
    else:
        found[OURS] = f"{short(SHARED[OURS])} (k = {', '.join(map(str, ks))})"
    return found


def whole(data: Mapping, search: Mapping | None = None) -> str:
    """Every statistic of every method, and the search of their settings."""
    pieces = [
        "# Every method on every family\n\nGenerated by `python benchmarks/figures.py` from "
        "`benchmarks/results/main_table.json` (`python benchmarks/main_table.py`). All methods have the "
        "same total of environment steps. Several training seeds of one family seed are averaged first, "
        "since they have more in common than others (of a family with one seed the training seeds count): "
        "brackets are 95% t-intervals over family seeds; those of interquartile means (the middle half of "
        "all family seeds on all tasks), of *ours is better* and of what is earned of the true groups are "
        "of a bootstrap over them, which is too narrow for so few, and not shown where all of them agree "
        "(where ours is better in all runs, or in none, the exact binomial interval of so many family seeds "
        "is: 5 of 5 begins at 48%). They leave out other families. *Ours is better* is the part of the runs "
        "in which ours earns more than the other with the same seeds, ties count half; *there* is on unseen "
        "tasks. *Settings* are what differs from the family's: what earned most in the search below, where "
        "that was made, at one of the two budgets and for both. Those of groupings (random and true groups "
        "among them) are ours, and were not searched for them. The entropy bonuses of the meta-policy "
        "(`--meta-entropy`) and of policies from scratch that several but not all tasks share "
        "(`--group-entropy`: true and random groups, those by task parameters, EM's) are the run's, and are "
        "not multiplied: an entropy ×5 is of lone tasks' policies, of one for all, and of what goes on from "
        "the meta-policy for good."
    ]
    for block in BLOCKS:
        known = [part for part in parts(data) if part.block == block]
        if known:
            pieces += [f"## All families: {TITLES[block].lower()}", _all(known)]
    if added := halves(data):
        pieces += ["## Family seeds that were added", added]
    for part in parts(data):
        title = f"{part.family}, {steps(part.budget)} steps a task: {TITLES[part.block].lower()}"
        pieces += [f"## {title}", _whole(part), *earlier(part, search)]
    if search is not None:
        pieces += ["## The search of settings", searched(search)]
    return "\n\n".join(pieces) + "\n"


def searched(data: Mapping) -> str:
    """Mean returns of every method by factors of its settings."""
    cells = [done["cell"] for done in data["cells"]]
    tried = [*dict.fromkeys(Factors(*factors) for cell in cells for factors in cell["factors"])]
    rows = []
    for family, method in dict.fromkeys((cell["family"], cell["method"]) for cell in cells):
        means = method_search.searched(data, family, method)
        best, shown = method_search.chosen(data, family, method), {k: f"{v:.1f}" for k, v in means.items()}
        shown[best] = f"**{shown[best]}**"
        told = "told" if method in (*TOLD, TOLD_OURS) else "hidden"
        label = METHODS[method].label if method in METHODS else SHARED[OURS]
        rows.append([f"{family}, {label}, {told}", *(shown.get(factors, "–") for factors in tried)])
    head = ["", *("the family's settings" if f == Factors() else _words(f) for f in tried)]
    seeds = sorted({str(cell["settings"]["seed"]) for cell in cells})
    facts = (
        "`python benchmarks/method_search.py`: mean returns at the family's own budget (its default "
        "`--steps-per-task`, one of the two above; what is taken is taken at both), over family seeds "
        f"that no table of methods uses ({', '.join(seeds)}), one training seed each; bold: taken. Other "
        f"settings than the family's must earn {NOISE:.0%} more (so few runs can't tell smaller gains from "
        "luck, and not all larger ones), and families that were not searched keep theirs, for all methods "
        "alike. How long ours meta-trains before its first look comes from `python benchmarks/study.py "
        "looks`, on the same seeds."
    )
    return f"{facts}\n\n{table(head, rows)}"


def _share(value: Interval) -> str:
    """A part of the runs, or of another's return, with its interval."""
    bounds = "" if value.ci95 is None else f" [{value.lo:.0%}, {value.hi:.0%}]"
    return f"{value.mean:.0%}{bounds}"


def _all(known: Sequence[Part]) -> str:
    """How often ours is better than every other method, over families and budgets."""
    solved = [f"{part.family} at {steps(part.budget)} steps a task" for part in known if part.solved()]
    known = [part for part in known if not part.solved()]
    rows, places = [], [(part, part.by_label()) for part in known]
    for label in labels(known)[1:]:
        own = [(part, name) for part, names in places if (name := names.get(label)) and part.whole(name)]
        if own:
            found = probability(*(part.better(OURS, name) for part, name in own))
            rows.append([label, str(len(own)), _share(found)])
    facts = (
        "The probability that ours earns more, ties counting half: the mean over families and budgets, which "
        "count the same, with a stratified bootstrap interval (family seeds are drawn again within each "
        "family and budget; where ours is better in all runs, or in none, the exact binomial one of as many "
        "family seeds). A method counts where all runs have it."
    )
    if solved:
        facts += (
            f" Left out, since most methods earn the same there, the largest return: {'; '.join(solved)}."
        )
    return f"{facts}\n\n{table(['method', 'families and budgets', 'ours is better'], rows)}"


UNSEARCHED = " (which have our settings, and no search of their own)"
"""What is said of true groups wherever ours is held against them."""


def reached(part: Part) -> str:
    """What ours earns of the true groups' return, or (where returns may be negative) of what true groups earn
    more than one policy for all, if that is more."""
    one, words, gains = SIMPLEST[part.block][0], [], []
    for name in ("true_groups", "true_groups_continued"):
        if not part.count(name):
            continue
        label = SHARED[name].lower()
        if (part.scores(OURS, name).mean((1, 2)) > 0).all():
            pairs = part.scores(OURS, name).mean(2).T
            words.append(f"{_share(bootstrap(ratio_of_means, pairs))} of the {label}")
        elif part.count(one) and over_units(part.ahead(name, one)).above_zero:
            ours, true, base = part.scores(OURS, name, one).mean(2)
            found = bootstrap(ratio_of_means, np.stack([ours - base, true - base], 1))
            gains.append(f"{_share(found)} of the {label}")
    said = f" Ours earns {' and '.join(words)}{UNSEARCHED}." if words else ""
    more = "of what they earn more than one policy for all, as returns are negative"
    return said + (f" Ours earns {' and '.join(gains)}, {more}{UNSEARCHED}." if gains else "")


def earlier(part: Part, search: Mapping | None) -> list[str]:
    """Which methods had other settings than the search tells now, if any; nothing where there is none."""
    if search is None:
        return []
    own = [name for name in part.factors if name != OURS]
    now = factors_of({"family": part.family, "block": part.block, "methods": own}, search)
    other = [name for name, factors in part.factors.items() if factors != now[name]]
    shown = "; ".join(SHARED[OURS] if name == OURS else METHODS[name].label for name in other)
    return [f"With settings of an earlier search than is shown below: {shown}."] if other else []


def _whole(part: Part) -> str:
    names = part.names()
    rows = [_row(part, name, label) for name, label in names.items()]
    head = [
        "method", "mean", "interquartile mean", "ours minus it", "ours is better", "unseen tasks",
        "ours minus it there", "steps", "settings",
    ]  # fmt: skip
    known = [run.entry["agreement"] for run in part.runs if run.entry.get("agreement")]
    nmi = f"; mean NMI with the planted groups {np.mean([a['nmi'] for a in known]):.3f}" if known else ""
    seeds = len({run.family_seed for run in part.runs})
    ks = ", ".join(str(run.entry["k"]) for run in part.runs)
    facts = f"{plural(len(part.runs), 'run')} of {plural(seeds, 'family seed')}; k found: {ks}{nmi}."
    facts += reached(part)
    return f"{facts}\n\n{table(head, rows)}"


def _row(part: Part, name: str, label: str) -> list[str]:
    (own,), unseen, both, apart = part.scores(name), part.unseen(name), part.unseen(OURS, name), ["", ""]
    if name != OURS:
        better = probability(part.better(OURS, name))
        apart = [with_interval(over_units(part.ahead(OURS, name)), signed=True), _share(better)]
    found = [run.entry["methods"][name]["env_steps"] for run in part.runs if run.has(name)]
    missing = "" if part.whole(name) else f", {part.count(name)} of {len(part.runs)} runs"
    return [
        label + missing,
        with_interval(over_units(own)),
        with_interval(bootstrap(interquartile_mean, own)),
        *apart,
        "" if unseen is None else with_interval(over_units(unseen[0])),
        "" if name == OURS or both is None else with_interval(over_units(both[0] - both[1]), signed=True),
        steps(np.mean(found)),
        _factors(part, name),
    ]


def _factors(part: Part, name: str) -> str:
    """What a method's settings were multiplied by; of those of runs, what ours' were."""
    block, known = ("hidden", part.blind) if name in FROM_HIDDEN else (part.block, part.factors)
    own = next((key for key, m in BLOCKS[block].items() if result_name(key, m) == name), OURS)
    return _words(known.get(own, Factors()))


def _words(factors: Factors) -> str:
    """Factors other than 1."""
    words = {
        "entropy": "entropy", "learning_rate": "step size", "final_learning_rate": "last step size",
        "final_entropy": "last entropy",
    }  # fmt: skip
    return ", ".join(f"{words[k]} ×{v:g}" for k, v in factors._asdict().items() if v != 1)
