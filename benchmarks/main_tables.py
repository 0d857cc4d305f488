"""The main table as Markdown, from the result file of `main_table.py` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import method_search
import numpy as np
from aggregates import bootstrap, interquartile_mean, probability, ratio_of_means
from main_advice import alone, halves, sentences
from main_parts import (
    FROM_HIDDEN,
    SHARED,
    SIMPLEST,
    Part,
    first,
    labels,
    over_units,
    parts,
    result_name,
    short,
)
from main_table import BLOCKS, factors_of
from method_search import METHODS, NOISE, TOLD, TOLD_OURS, Factors
from tables import plural, table

from pgx_jax.compare.results import OURS, Interval
from pgx_jax.report.wording import steps, with_interval

TITLES = {"hidden": "Task hidden from the policy", "told": "Task told to the policy"}


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
    tried = {Factors(*factors) for cell in cells for factors in cell["factors"]}
    tried = sorted(tried, key=lambda factors: (factors != Factors(), factors))
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
        "alike. Ours is also tried with half and with twice the meta-training before its first look, whose "
        "default comes from `python benchmarks/study.py looks`, on the same seeds."
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
        "final_entropy": "last entropy", "meta_fraction": "meta-training",
    }  # fmt: skip
    return ", ".join(f"{words[k]} ×{v:g}" for k, v in factors._asdict().items() if v != 1)
