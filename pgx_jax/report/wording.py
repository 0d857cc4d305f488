"""How results are put into words and numbers: shared by the terminal, the page and the figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from msgspec import UNSET

from pgx_jax.compare.results import (
    OURS,
    SIMILAR,
    Interval,
    MethodResult,
    Number,
    Results,
    StabilityResult,
    Timings,
)
from pgx_jax.errors import MOST_NAMED, named

_LABELS = {
    OURS: "PolicyGradEx (ours)",
    f"{OURS}_told": "PolicyGradEx, groups told the task",
    f"{OURS}_blind": "PolicyGradEx, groups not told the task",
    "multitask": "One policy for all",
    "multitask_continued": "One policy for all, continuing the meta-policy",
    "multitask_conditioned": "One policy for all, told the task",
    SIMILAR: "Gradient similarity",
    "em": "Clustering on returns",
    "em_true_k": "Clustering on returns, planted k",
    "committees": "Groups by task parameters",
    "random": "Random groups",
    "true_groups": "True groups",
    "oracle": "Best of all partitions",
    "single_task": "One policy per task",
}
_JUDGING = ("similarity", "clustering", "oracle", "comparisons", "evaluation")
UNATTAINABLE = ("true_groups", "oracle")
"""How the names of methods begin whose groups are told by what no method is given: who planted them, or more
training than all methods take."""

CAPTIONS = {
    "pipeline": "Every stage of the run and how long it took, compilation included (and waiting for others, "
    "where several seeds ran side by side).",
    "looks": "Who trained with whom along all steps of our method, and when a policy was asked whether "
    "splitting its tasks pays, or whether two groups should become one. Policies go on from what they are: "
    "those of a group that is split from the group's, those of a joined pair from the larger group's.",
    "affinity": "How much every pair of tasks gains from being trained together (larger is better), ordered "
    "by group, and the number of subsets behind each value where it comes from subsets. Outlines mark the "
    "groups found. It proposes partitions; which affinity does so hardly matters. What the surrogates add is "
    "the choice of the number of groups, one included, and predicted gains with intervals.",
    "stability": "How often every pair of tasks is in one group where the trajectories that theta* collected "
    "are drawn again, with replacement, and grouped into as many groups as at its last look, which are "
    "outlined. All draws have one theta*: what another meta-training run would change is not in these "
    "numbers, which are too certain by that (--seeds 5 shows it), nor is what later looks have changed.",
    "path": "Every candidate partition with its score on trajectories that its surrogates have not seen, "
    "though the affinity that proposed it may have. Whether to split at all is decided by splits that were "
    "neither proposed nor chosen on what judges them. Where k is not given, the smallest one is chosen whose "
    "distance to the best is within two standard errors (if not set otherwise), or negligible. Bars are two "
    "standard errors of the paired difference to the best.",
    "methods": "Mean over all tasks with its 95% interval over evaluation episodes, or over the draws of "
    "random groups. The intervals leave out what another training seed would change, which may be several "
    "times as much (--seeds 5 measures it). Filled circles had the same total of "
    "environment steps, everything that a method costs included; hollow squares did not. "
    "The band is our interval.",
    "per_task": "Mean of every task, ordered by group, with its 95% interval over evaluation episodes (which "
    "leaves out what another training seed would change).",
    "curves": "Return (success rate, where that is what tasks are judged by) while training, averaged over a "
    "method's policies and tasks, over all the steps that the method has used; what goes on from the "
    "meta-policy begins with its training. Methods with another total of steps are left out.",
    "curves_by_task": "The same of every task, ordered by group, each name in its group's colour, with lines "
    "between the groups: dark is no success, bright is success in all episodes. Ours begins with the "
    "meta-policy.",
}
"""What the page says below each figure, by the figure's name."""

AT_END = {
    "per_task": " A bar is success in any step of an episode, its diamond success in the last one.",
    "curves": " Of two lines of one colour the thin, pale one is success in the last step of an episode, the "
    "other one success in any.",
    "curves_by_task": " Above is success in any step of an episode, below success in the last one.",
}
"""And what it adds where success in the last step is shown beside that in any."""

SEEDS_CAPTIONS = {
    "over_seeds": "Mean over all tasks and training seeds with its 95% t-interval over seeds; ticks are "
    "single seeds. Filled circles had the same total of environment steps, hollow squares did not. The band "
    "is our interval; methods are told apart better by the paired differences of the table.",
    "together": "How often every pair of tasks is in one group, ordered by the groups of the seed that is "
    "closest to all, which are outlined.",
}
"""The same of the page of several training seeds."""

RUNS_CAPTIONS = {
    "runs": "Mean of every method over all tasks with its 95% interval, on every side; ticks are single "
    "seeds, hollow circles had another total of environment steps. Sides are told apart better by the paired "
    "differences of the table.",
}
"""The same of the page of runs beside each other."""

BUDGET_CAPTIONS = {
    "by_budget": "What every method earns by environment steps a task, at the same total for all; faint dots "
    "are single runs of ours.",
}
"""The same of the page of a study of budgets."""

DIAGNOSTICS = {
    "parameters": "Parameters of a policy's actor: the length of the gradients that are projected.",
    "private_parameters": "Of these, how many one task's context alone can reach. Gradient features leave "
    "them out, since tasks never meet in them.",
    "subsets": "Sets of tasks whose joint training was predicted; 0 where the affinity needs none.",
    "l2": "Ridge of the surrogates: the larger, the smaller the steps that they predict.",
    "relative_distance": "How far the groups' predicted parameters are from the meta-policy's, relative to "
    "the length of these. The method takes the log-ratio of policies to be linear within that distance, "
    "which is the less true the larger it is (`pgx-jax analyse RUN approximation` measures it).",
    "affinity_ci95": "Intervals of the affinity over the choice of subsets: narrow where other subsets would "
    "have told the same.",
    "scoring_steps": "Environment steps that were spent on scoring subsets by roll-outs; 0 where held-out "
    "data score them.",
    "demonstration_steps": "Environment steps of what experts showed before the meta-training.",
    "meta_steps": "Environment steps of the meta-training up to the last look.",
    "collect_steps": "Environment steps that were collected to estimate from, up to the last look at the "
    "meta-policy.",
    "measured": "What the meta-policy's learner measured at each of its updates.",
    "measured.kl": "How far each update moved the meta-policy: the divergence of its actions before and "
    "after. Large values mean unsteady training.",
    "measured.explained_variance": "The part of the returns' variance that the critic foretold at each "
    "update: 1 is all, 0 none, and below 0 it misled.",
    "measured.learning_rate": "Step size of the optimiser at each update.",
    "measured.loss": "What each update came to on the steps that it learnt from: lower is better there, and "
    "between updates, which learn from other steps, it may go either way.",
    "measured.entropy": "How much the meta-policy explores after each update: the entropy of its actions, in "
    "nats.",
}
"""What every diagnostic number says, by its dotted name or the beginning of that."""

Methods = Mapping[str, MethodResult]


def captions(results: Results) -> dict[str, str]:
    """`CAPTIONS` of the figures of results, with what `AT_END` adds."""
    lines = results.curves.values()
    ends = {
        "per_task": any(entry.at_end for entry in results.methods.values()),
        "curves": any(curve.at_end for curve in lines),
        "curves_by_task": any(curve.per_task_at_end for curve in lines),
    }
    return {name: text + (AT_END[name] if ends.get(name) else "") for name, text in CAPTIONS.items()}


def ordered_methods(methods: Methods, every: bool = False) -> list[str]:
    """Names of the methods: ours first, then the usual baselines, then any others.

    Of several of a kind that came to the same groups the first, or ``every`` one.
    """
    rank = {name: i for i, name in enumerate(_LABELS)}

    def position(name: str) -> tuple[int, str]:
        family = max((known for known in rank if name.startswith(known)), key=len, default="")
        return rank.get(family, len(rank)), name

    return sorted((name for name, entry in methods.items() if every or not entry.same_as), key=position)


def method_label(methods: Methods, name: str, alone: bool = False) -> str:
    """What a method is called: its own ``label`` where it has one, and how it begins, where that is unusual.

    A gradient similarity is called after all of them that came to the same groups, or ``alone``.
    """
    start = methods[name].start if name in methods else UNSET
    return _name(methods, name, alone) + ("" if start is UNSET else f", {start}")


def _name(methods: Methods, name: str, alone: bool) -> str:
    label = methods[name].label if name in methods else UNSET
    if label is not UNSET:
        return label
    if not name.startswith(f"{SIMILAR}_"):
        return _LABELS.get(name) or name.replace("_", " ").capitalize()
    names = [name, *(n for n, entry in methods.items() if entry.same_as == name and not alone)]
    names = [n for n in names if not (n.endswith("_our_k") and n.removesuffix("_our_k") in names)]
    kinds = (n.removeprefix(f"{SIMILAR}_").replace("_our_k", " at our k") for n in names)
    return f"{_LABELS[SIMILAR]} ({', '.join(kinds)})"


def stage_seconds(timings: Timings) -> list[tuple[str, float]]:
    """(stage, seconds) in the order in which they ran, where they are known."""
    return [(name, seconds) for name, seconds in timings.stages if seconds is not None]


def total_seconds(timings: Timings) -> float | None:
    """Duration of a run: its total, or the sum of its stages; None if not recorded."""
    if timings.total is not None:
        return timings.total
    return sum(seconds for _, seconds in stage_seconds(timings)) or None


def belongs_to_method(stage: str) -> bool:
    """Whether a stage is the method's own, rather than part of judging it."""
    return stage not in _JUDGING


def metric_name(methods: Methods) -> str:
    """ "mean return" or "success rate"."""
    success = any(entry.metric == "success" for entry in methods.values())
    return "success rate" if success else "mean return"


def mean_at_end(entry: MethodResult) -> str:
    """Success in the last step of an episode, over tasks: 0.55; "–" if it is not known."""
    mean = mean_if_known(entry.at_end or [])
    return "–" if mean is None else number(mean, 2)


def mean_if_known(values: Sequence[Number]) -> float | None:
    """The mean; None if not all of them are known."""
    known = [x for x in values if x is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def with_interval(value: Interval, *, signed: bool = False) -> str:
    """ "147.0 [143.8, 150.2]", rounded to what the interval supports; "–" if there is no number."""
    return " ".join(filter(None, mean_and_bounds(value, signed=signed)))


def mean_and_bounds(value: Interval, *, signed: bool = False) -> tuple[str, str]:
    """The same in two parts: "147.0" and "[143.8, 150.2]"; the second is empty if there is no interval."""
    if value.mean is None:
        return "–", ""
    digits = _decimals(value.mean, value)
    mean = _fixed(value.mean, digits, "+" if signed else "")
    if value.lo is None or value.hi is None:
        return mean, ""
    return mean, f"[{_fixed(value.lo, digits)}, {_fixed(value.hi, digits)}]"


def number(value: Any, digits: int | None = None) -> str:
    """A number with ``digits`` decimals, or about four significant digits; anything else as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    if not math.isfinite(value):
        return "–"
    if digits is not None:
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def certainty(found: StabilityResult) -> str:
    """How certain the groups are, in a few words."""
    k, n = len(found.groups), sum(map(len, found.groups))
    told = f"of {found.resamples} draws of the trajectories"
    parts = [] if found.same_k is None else [f"k = {k} again in {share(found.same_k)}"]
    if 1 < k < n:
        these = "exactly these groups" if found.same_k is None else f"at k = {k} exactly these groups"
        parts.append(f"{these} in {share(found.same_groups)}")
    if not parts:  # k is given, and there is one such partition
        return f"there is one partition with k = {k}"
    return f"{', '.join(parts)} {told} (with one theta*)"


def undecided(found: StabilityResult) -> str:
    """The tasks that may as well belong elsewhere, in a sentence; empty if there are none."""
    shown = [
        f"{one.task} is with {named(one.mates)} in {share(one.own)} of the draws and with "
        f"{named(one.others)} in {share(one.elsewhere)}"
        if one.mates
        else f"{one.task}, alone, is with {named(one.others)} in {share(one.elsewhere)} of the draws"
        for one in found.undecided[:MOST_NAMED]
    ]
    if more := len(found.undecided) - len(shown):
        shown.append(f"and {more} more task{'s' if more > 1 else ''}")
    lead = "Undecided where the trajectories are drawn again"
    return f"{lead}: {'; '.join(shown)}." if shown else ""


def half_width(found: StabilityResult) -> Number:
    """Half the width of the affinity's intervals, in the median over pairs; None where there is none."""
    bounds = zip(found.affinity_ci95.low, found.affinity_ci95.high, strict=True)
    widths = [
        (high - low) / 2
        for i, (lows, highs) in enumerate(bounds)
        for low, high in zip(lows[:i], highs[:i], strict=True)
        if low is not None and high is not None
    ]
    return statistics.median(widths) if widths else None


def share(value: Number) -> str:
    """A part of the draws: 62%."""
    return "–" if value is None else f"{100 * value:.0f}%"


def steps(value: Any) -> str:
    """Environment steps: 480k, 1.23M."""
    if value is None:
        return "–"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds in words: 0.04 s, 41.2 s, 2 min 5 s, 1 h 12 min; "–" if they are not known."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value as text), in order of their names."""
    rows = []
    for name, value in sorted(settings.items(), key=lambda item: str(item[0])):
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{path}.")
        elif isinstance(value, (list, tuple)):
            rows.append((path, _listed(value)))
        else:
            rows.append((path, "–" if value is None else _setting(value)))
    return rows


def explained(name: str) -> str:
    """What a diagnostic (by its dotted name) says; empty if nobody knows."""
    known = (DIAGNOSTICS.get(part) for part in (name, name.partition(".")[0]))
    return next(filter(None, known), "")


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(values: Sequence[Any]) -> str:
    """A short list in full, a nested or a long one by its shape and range."""
    if not any(isinstance(value, (list, tuple, Mapping)) for value in values) and len(values) <= 32:
        return ", ".join(map(number, values)) or "–"
    shape, level = [], values
    while isinstance(level, (list, tuple)) and level:
        shape.append(len(level))
        level = level[0]
    numbers = [x for x in _leaves(values) if isinstance(x, Real) and math.isfinite(x)]
    span = f" from {number(min(numbers))} to {number(max(numbers))}" if numbers else ""
    return f"{' × '.join(map(str, shape))} values{span}"


def _leaves(value: Any) -> list[Any]:
    nested = isinstance(value, (list, tuple))
    return [leaf for child in value for leaf in _leaves(child)] if nested else [value]


def _fixed(value: float, digits: int, sign: str = "") -> str:
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: no minus sign before zero


def _decimals(mean: float, value: Interval) -> int:
    """Digits behind the point: two significant ones of the interval's half width."""
    if value.lo is not None and value.hi is not None and value.hi > value.lo:
        scale = (value.hi - value.lo) / 2
        return min(6, max(0, 1 - math.floor(math.log10(scale))))
    scale = abs(mean)
    return 1 if scale == 0 or scale >= 10 else min(6, 2 - math.floor(math.log10(scale)))
