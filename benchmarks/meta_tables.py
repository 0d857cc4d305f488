"""The tables of unseen tasks as Markdown, from the result file of `meta_rl.py` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from meta_search import FAMILIES, FINE_TUNING, chosen, is_searched, means_of, rate
from method_search import NOISE
from tables import over_runs, plural, table

from pgx_jax.compare.results import OURS, Interval
from pgx_jax.compare.summaries import unbeaten
from pgx_jax.report.wording import steps, with_interval

LABELS = {
    OURS: "PolicyGradEx (ours)",
    "multitask": "One policy for all",
    "multitask_continued": "One policy for all, continuing the meta-policy",
    "meta": "The meta-policy",
    "fresh": "A policy at random",
    "gradient_similarity_dot": "Gradient similarity (dot)",
    "gradient_similarity_cosine": "Gradient similarity (cosine)",
    "gradient_similarity_whitened": "Gradient similarity (whitened)",
    "em": "Clustering on returns (EM)",
    "committees": "Groups by task parameters",
    "random": "Random groups",
    "true_groups": "True groups",
    f"{OURS}_base_group_maml": "Our groups, MAML",
    "true_groups_base_group_maml": "True groups, MAML",
    "multitask_base_maml": "One policy for all, MAML",
    "multitask_base_fomaml": "One policy for all, first-order MAML",
    "multitask_base_reptile": "One policy for all, Reptile",
    "multitask_gru_rl2": "One policy for all, RL²",
}
"""Methods by their names in results; finders stand behind them."""
FINDERS = {
    "rewards": "by rewards",
    "halving": "by rewards, always halving",
    "values": "by the critic's values",
    "foresight": "by the critic's foresight",
    "evidence": "held-out gain",
    "told": "told its group",
}
SUFFIXES = FINDERS | {
    "gently": "fine-tuned gently", "again": "adapting again and again", "trial": "for one trial",
    "found": "not adapting, all steps find its group",
}  # fmt: skip
FAIR = ("", "rewards", "gently", "again", "trial", "found")
"""Forms of a method that are compared: of the finders, the one that is the default."""


def method_of(name: str) -> str:
    """The method of a name in results."""
    return name.partition("/")[0]


def form_of(name: str) -> str:
    """Its form, a finder for instance; empty where there is one alone."""
    return name.partition("/")[2]


class Part(NamedTuple):
    """A family with one number of training steps and of unseen tasks: the cells of all seeds."""

    family: str
    steps: int
    tasks: int
    cells: list[Mapping]

    @property
    def budgets(self) -> list[int]:
        """Adaptation steps."""
        return self.cells[0]["cell"]["budgets"]

    def names(self) -> list[str]:
        """Methods of all cells, in the order of the labels."""
        known = [name for name in self.cells[0]["methods"] if all(name in c["methods"] for c in self.cells)]
        order = list(LABELS)
        return sorted(known, key=lambda name: order.index(method_of(name)))

    def returns(self, name: str, budget: int) -> np.ndarray:
        """float [seeds, tasks]: means of a method; NaN where adapting failed."""
        return np.array([c["methods"][name][str(budget)]["per_task"] for c in self.cells], float)

    def mean(self, name: str, budget: int) -> Interval:
        """Mean return over the tasks that did not fail, with an interval over seeds."""
        return over_runs(np.nanmean(self.returns(name, budget), axis=1).tolist())

    def failed(self, name: str, budget: int) -> int:
        """Tasks, of all seeds, on which adapting was not finite."""
        return int(np.isnan(self.returns(name, budget)).sum())

    def finds(self, name: str) -> bool:
        """Whether a method has several policies to find one of, in some run."""
        return any(method_of(name) in c["starts"] for c in self.cells)

    def right(self, name: str, budget: int) -> tuple[float, float]:
        """How often a task finds the policy that earns most there without adapting (theta* is one of them),
        and how much less than by the best one its choice earns, over all seeds and tasks of runs in which
        the method has several."""
        hits, losses = [], []
        for cell in self.cells:
            starts = cell["starts"].get(method_of(name))
            if starts is None:
                continue
            value, choice = np.array(starts, float), cell["methods"][name][str(budget)]["choice"]
            earned = value[np.arange(len(value)), choice]  # -1 is theta*, which comes last
            hits.append(earned == value.max(1))
            losses.append(value.max(1) - earned)
        return float(np.mean(hits)), float(np.mean(losses))


def parts(data: Mapping) -> list[Part]:
    """All families, with the most unseen tasks and the last number of training steps that there are; with
    tasks that find their policy as they do now, where there are such."""
    found = []
    for family in dict.fromkeys(c["cell"]["family"] for c in data["cells"]):
        own = [c for c in data["cells"] if c["cell"]["family"] == family]
        kinds = [
            ("finding" in c["cell"], c["cell"]["tasks"], c["cell"]["steps_per_task"], *c["cell"]["budgets"])
            for c in own
        ]
        last = max(kinds, key=lambda kind: (kind[:2], kinds.index(kind)))
        cells = [c for c, kind in zip(own, kinds, strict=True) if kind == last]
        found.append(Part(family, last[2], last[1], cells))
    return found


def earlier(known: Sequence[Part]) -> str:
    """Which families were measured before tasks found their policy as they do now."""
    old = [part.family for part in known if any("finding" not in c["cell"] for c in part.cells)]
    if not old:
        return ""
    return (
        f"**Numbers of unseen tasks are of earlier code here, and to be measured again ({', '.join(old)}).** "
        f"There a policy that a task tries was "
        f"worth the mean reward of a step, whatever the length of its episodes (where a step pays the same "
        f"everywhere, as on cartpole-physics, that told nothing), the meta-policy was not among those that "
        f"are tried with few steps, and the held-out gain was that of advantages by a critic which was not "
        f"told its task (which made it chance)."
    )


def label(name: str) -> str:
    """A method and its finder in words."""
    form = form_of(name)
    return LABELS[method_of(name)] + (f", {SUFFIXES[form]}" if form else "")


def shown(part: Part, name: str, budget: int) -> str:
    """A mean with its interval, and how many tasks it lacks."""
    failed = part.failed(name, budget)
    return with_interval(part.mean(name, budget)) + (f" ({failed} failed)" if failed else "")


def returns(part: Part) -> str:
    """Mean returns of all methods by adaptation steps, in all of their forms."""
    rows = [[label(name), *(shown(part, name, b) for b in part.budgets)] for name in part.names()]
    return table([title(part), *(f"{b:,} steps" for b in part.budgets)], rows)


def title(part: Part) -> str:
    """A family, what was trained, and how many tasks and seeds."""
    return (
        f"{part.family}, {steps(part.steps)} steps a task, {part.tasks} unseen tasks, "
        f"{plural(len(part.cells), 'family seed')}"
    )


def finders(part: Part) -> str:
    """How often every finder finds the best policy of each grouping; empty where there is none."""
    names = [name for name in part.names() if form_of(name) in FINDERS and part.finds(name)]
    budgets = [b for b in part.budgets if b]
    rows = []
    for name in names:
        found = [part.right(name, b) for b in budgets]
        rows.append([label(name), *(f"{hits:.0%} ({loss:.1f})" for hits, loss in found)])
    return table(["best policy found (loss)", *(f"{b:,} steps" for b in budgets)], rows) if rows else ""


def verdict(part: Part, search: Mapping | None) -> str:
    """Ours against all methods, the best with one policy for all, MAML, and the groups that are told, in
    sentences; seeds are paired. Which comes first is said of families alone on which all were searched."""
    mine, names = f"{OURS}/rewards", part.names()
    if mine not in names:
        return ""
    ks = [str(c["k"]) for c in part.cells]
    every = f"k = {ks[0]}" if len({*ks}) == 1 else f"k = {', '.join(ks)} by seed"
    fair = is_searched(search, part.family)
    pieces = [_at(part, mine, budget, fair) for budget in part.budgets]
    text = f"{part.family} ({every}): {'; '.join(pieces)}."
    return text if fair else f"{text} {UNSEARCHED}"


UNSEARCHED = (
    f"Which is first is not said here: settings of what adapts were not searched on this family, and are "
    f"those of {FAMILIES[0]}."
)


def _at(part: Part, mine: str, budget: int, ranked: bool) -> str:
    """The same after so many steps, with the place of ours if they are ranked. Tasks on which some method
    failed are left out for all, and so are methods that failed on all tasks of a seed."""
    returns = {name: part.returns(name, budget) for name in part.names()}
    returns = {name: x for name, x in returns.items() if np.isfinite(x).any(1).all()}
    if mine not in returns:
        return f"after {budget:,} steps our groups have failed on all tasks of a seed"
    whole = ~np.isnan(np.stack(list(returns.values()))).any(0)
    means = {name: np.nanmean(np.where(whole, x, np.nan), axis=1) for name, x in returns.items()}
    own, told = means[mine], means.get("true_groups/told")
    fair = {name: x.tolist() for name, x in means.items() if not name.startswith("true_groups")}
    fair = {name: x for name, x in fair.items() if form_of(name) in FAIR}
    text = f"after {budget:,} steps our groups earn {own.mean():.1f}" + (_place(mine, fair) if ranked else "")
    one = [name for name in fair if name.startswith(("multitask", "meta", "fresh"))]
    maml = [name for name in one if name.startswith("multitask_base_maml")]
    for some, words in ((one, "the best of those with one policy for all"), (maml, "MAML")):
        if rival := max(some, key=lambda name: np.mean(fair[name]), default=None):
            text += f", {_against(own, means[rival])} {words} ({label(rival)})"
    return text + (f", {_against(own, told)} the true groups that are told" if told is not None else "")


def _place(mine: str, means: Mapping[str, Sequence[float]]) -> str:
    """Whether ours is first by the means of all seeds, and what is, if it isn't."""
    first = unbeaten(means)
    if mine not in first:
        return f" and are not first ({label(first[0])}: {np.mean(means[first[0]]):.1f})"
    return " and are first" if first == [mine] else " and are tied for first"


def _against(own: np.ndarray, other: np.ndarray) -> str:
    """A paired difference, and what part of the other's return it is, if returns are positive."""
    ahead = with_interval(over_runs((own - other).tolist()), signed=True)
    part = f" ({own.mean() / other.mean() - 1:+.0%})" if min(own.mean(), other.mean()) > 0 else ""
    return f"{ahead}{part.replace('-0%', '+0%')} against"


def overview(data: Mapping, search: Mapping | None = None) -> str:
    """All methods at the first two numbers of adaptation steps, and ours against them in words."""
    known = parts(data)
    some = [b for b in known[0].budgets if b][:2]
    rows: dict[str, list[str]] = {}
    for name, words in LABELS.items():
        rows.setdefault("Gradient similarity" if name.startswith("gradient") else words, []).append(name)
    body = [[words, *(_shown(part, names, some) for part in known)] for words, names in rows.items()]
    head = f"after {' / '.join(f'{b:,}' for b in some)} steps"
    said = [*(verdict(part, search) for part in known), NOTE]
    pieces = [earlier(known), table([head, *map(title, known)], body), BEST, *said]
    return "\n\n".join(filter(None, pieces))


BEST = (
    "Mean return over seeds. A method that stands in several forms is shown by the one that earned most here "
    "(ours by the one that is its default); true groups are told theirs. –: not in these runs (EM clustering "
    "and groups by task parameters are given our number of groups, and one group is one policy for all)."
)


def best(part: Part, methods: Sequence[str], budget: int) -> str | None:
    """The form of some methods that earned most after so many steps; of those with fewest failures."""
    names = [name for name in part.names() if method_of(name) in methods and _stands(name)]

    def order(name: str) -> tuple[int, float]:
        return -part.failed(name, budget), float(np.nan_to_num(part.mean(name, budget).mean, nan=-np.inf))

    return max(names, key=order, default=None) if budget in part.budgets else None


def _shown(part: Part, methods: Sequence[str], budgets: Sequence[int]) -> str:
    """The means of the best forms of some methods after so many steps."""
    found = [(name, b) for b in budgets if (name := best(part, methods, b)) is not None]
    means = [(part.mean(name, b).mean, part.failed(name, b)) for name, b in found]
    return " / ".join(f"{x:.1f}" + (f" ({lost} failed)" if lost else "") for x, lost in means) or "–"


def _stands(name: str) -> bool:
    """Whether the overview has a form of a method."""
    method, form = method_of(name), form_of(name)
    if method.startswith("true_groups"):
        return form == "told"
    return form in (("rewards",) if method == OURS else FAIR)


NOTE = (
    "Mean return on tasks that no method has seen, after so many environment steps on each; 0: as they "
    "are, and where a method has several policies, by the meta-policy, since nothing tells which. Half of "
    "the steps of a method with several policies find the one to go on from, and the rest fine-tunes it "
    "by PPO in small batches; all of them find it where less than an episode would be left. Groups "
    "trained by MAML stand in two forms more: half of the steps always find the policy and the rest adapt "
    "it, or all of them find it and it isn't adapted. They begin afresh with the steps that finding the "
    "groups has left, while ours, by PPO, go on from the meta-policy. A policy is fine-tuned with the "
    "step size that served its method best in the search (those of methods that it didn't have with a "
    "tenth of that of training), and policies for all tasks also with that tenth, if it is "
    "another. MAML and Reptile adapt in their own way: once, with a few inner steps on all of the budget, "
    "or again and again, each time with about 200 steps; RL² remembers what it meets (also while it is "
    "judged), all of it or what one trial in training leaves before its last episode. Their settings were "
    "searched, too (`benchmarks/meta_search.py`: eight each or a few more, on two seeds of the family that "
    "no table has, with unseen tasks of their own; MAML in groups: in the true ones, by half of the steps; "
    "families that were not searched have what was found on cartpole-goals, and are not ranked). Policies "
    "by PPO are trained with the family's settings, ours and all others. A "
    "budget below an episode trains on cut episodes, with the critic's value for the rest, if there is a "
    "critic. The meta-policy took its part of the training steps alone, and the policy at random none; "
    "random groups are one draw a seed. Unseen tasks, training and episodes are of each family seed's "
    "own. True groups, told: a reference, which is told the group that suits a task's parameters. All "
    "finders, and how often each is right: [docs/meta_rl.md](docs/meta_rl.md)."
)


def searched(data: Mapping) -> str:
    """What every setting of every way of adapting earns, and which are taken."""
    pieces = []
    for family, method in dict.fromkeys((c["cell"]["family"], c["cell"]["method"]) for c in data["cells"]):
        cells = [c for c in data["cells"] if (c["cell"]["family"], c["cell"]["method"]) == (family, method)]
        for name in cells[0]["returns"]:
            fine = method == FINE_TUNING
            taken = rate(data, family, name) if fine else chosen(data, family, method)
            title = f"{family}, {label(name) if fine else WAYS[method]}"
            pieces.append(_tried(cells, name, title, taken))
    seeds = sorted({str(c["cell"]["settings"]["seed"]) for c in data["cells"]})
    facts = (
        "`python benchmarks/meta_search.py`: mean returns on unseen tasks, over family "
        f"seeds that no table of methods has ({', '.join(seeds)}), each the seed of everything else; bold: "
        f"taken. Other settings than the first must earn {NOISE:.0%} more in the mean over both numbers of "
        "steps, and other step sizes of fine-tuning than a tenth of that of training. Other step sizes and "
        "entropy bonuses are factors on the family's."
    )
    return "\n\n".join([facts, *pieces])


def _tried(cells: Sequence[Mapping], name: str, title: str, taken: object) -> str:
    """A table of one method: a row for each of its settings."""
    budgets, rows, tried = cells[0]["cell"]["budgets"], [], []
    for cell in cells:
        tried += [x for x in cell["cell"]["tried"] if x not in tried]
    for setting, means in zip(tried, means_of(cells, name, tried), strict=True):
        if means is None:
            continue
        words = _setting(setting if isinstance(setting, Mapping) else {"rate": setting})
        rows.append(
            [
                f"**{words}**" if setting == taken else words,
                *("failed" if np.isnan(x) else f"{x:.1f}" for x in means),
            ]
        )
    return table([title, *(f"{b:,} steps" for b in budgets)], rows)


def _setting(setting: Mapping) -> str:
    """Settings of a learner, or of fine-tuning, in words."""
    words = {
        "rate": "step size ×{:g}",
        "baseline": "{} baseline", "inner_rate": "inner step {}", "learning_rate": "step size ×{:g}",
        "entropy": "entropy bonus ×{:g}", "minibatches": "{} minibatches", "inner_steps": "{} inner step(s)",
    }  # fmt: skip
    return ", ".join(text.format(setting[key]) for key, text in words.items() if key in setting)


WAYS = {
    "maml": "MAML", "fomaml": "First-order MAML", "reptile": "Reptile", "rl2": "RL²",
    "group_maml": "MAML in the true groups",
}  # fmt: skip
"""Learners that adapt in their own way."""


def whole(data: Mapping, search: Mapping | None = None) -> str:
    """Everything: returns, how often every finder is right, and the search for settings."""
    pieces = [
        "# The first moments on unseen tasks\n\nGenerated by `python benchmarks/figures.py` from "
        "`benchmarks/results/meta_rl.json` (`python benchmarks/meta_rl.py`). Brackets are 95% t-intervals "
        "over family seeds. All methods meet the same tasks and the same evaluation episodes.",
        earlier(parts(data)),
        "![Return against adaptation steps](../benchmarks/results/figures/meta_rl.png)",
        NOTE.removesuffix(" All finders, and how often each is right: [docs/meta_rl.md](docs/meta_rl.md)."),
        "A finder is right where it chooses the policy that earns most there without adapting; the "
        "meta-policy, which says that no group suits, is one of them. In parentheses: how much less the "
        "chosen one earns than the best.",
    ]
    for part in parts(data):
        pieces += [f"## {part.family}", returns(part), verdict(part, search), finders(part)]
    if search is not None:
        pieces += ["## Settings of every way of adapting", searched(search)]
    return "\n\n".join(filter(None, pieces)) + "\n"


def curves(part: Part, methods: Sequence[str]) -> dict[str, list[Interval]]:
    """Mean returns by budget of the methods that there are, each in its best form."""
    found = {method: [best(part, [method], b) for b in part.budgets] for method in methods}
    return {
        method: [part.mean(name, b) for name, b in zip(names, part.budgets, strict=True)]
        for method, names in found.items()
        if None not in names
    }
