"""What several training seeds of one family come to: in words, and as a table."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from pgx_jax.compare.results import OURS, Interval
from pgx_jax.compare.seeds import SeedsResult
from pgx_jax.compare.summaries import unbeaten
from pgx_jax.report import wording

if TYPE_CHECKING:
    from rich.table import Table


def verdict(found: SeedsResult) -> str:
    """What the seeds come to, in a word (see `conclusion.verdict`).

    One group with every seed is never a gain or a loss: it is one policy for all.
    """
    gain = found.gain.realised or Interval()
    if max(found.k) > 1 and gain.above_zero:
        return "gain"
    if max(found.k) > 1 and gain.below_zero:
        return "loss"
    return "no_gain" if gain.hi is not None and gain.hi <= 0 else "not_shown"


def advice(found: SeedsResult) -> str:
    """Group or don't, who earned most, how far the groups agree, and what the intervals leave out."""
    parts = (_gain(found), _earned(found), _groups(found), left_out(found))
    return " ".join(filter(None, parts))


def _gain(found: SeedsResult) -> str:
    gain, n = found.gain.realised or Interval(), found.n_tasks
    one = f"one policy for all {n} tasks"
    if max(found.k) == 1:
        return f"Don't group: train {one}, which {_count(found)} chose."
    if gain.mean is None:
        return f"No gain was measured over {_count(found)}."
    told = f"the realised gain over one policy for all is {wording.with_interval(gain, signed=True)}"
    told = f"{told} in {wording.metric_name(found.methods)}, over {_count(found)}"
    return {
        "gain": f"Group: {told}.",
        "loss": f"Don't group: train {one}; {told}.",
        "no_gain": f"Don't group: train {one}, nothing is gained; {told}.",
        "not_shown": f"No gain is shown: {told}"
        + (", which can't be told from zero." if gain.lo is not None else "; one has no interval."),
    }[verdict(found)]


def _earned(found: SeedsResult) -> str:
    """Which method earned most at the same total, planted groups apart, and who may be as good."""
    names = [
        name
        for name in wording.ordered_methods(found.methods)
        if found.methods[name].equal_steps
        and found.methods[name].mean is not None
        and not name.startswith(wording.UNATTAINABLE)
    ]
    if len(names) < 2 or len(found.seeds) < 2:
        return ""
    means = {name: np.array(found.methods[name].by_seed, float).tolist() for name in names}
    first, *others = (wording.method_label(found.methods, name) for name in unbeaten(means))
    few = ", ".join(others) if len(others) <= 3 else f"{len(others)} others"
    ties = f"; not shown to be worse: {few}" if others else ", beyond the interval over seeds"
    return f"Earned most at the same total: {first}{ties}."


def _groups(found: SeedsResult) -> str:
    """The numbers of groups, and how far the partitions agree."""
    if max(found.k) == 1 or found.between is None:
        return ""
    counts = Counter(found.k)
    told = " or ".join(f"{k} ({counts[k]}×)" if len(counts) > 1 else f"{k}" for k in sorted(counts))
    if found.between.equal == 1:
        return f"All seeds find the same {told} groups."
    return f"Groups: k = {told}; pairs of seeds agree with a mean NMI of {found.between.nmi:.2f}."


def left_out(found: SeedsResult) -> str:
    """What the intervals are over, and what they leave out."""
    seed = found.family_settings.get("seed")
    which = "" if seed is None else f" (family seed {seed})"
    one = f"all runs have one draw of the tasks{which}, others may differ"
    return f"Intervals are over training seeds; {one}." if len(found.seeds) > 1 else f"No interval: {one}."


def _count(found: SeedsResult) -> str:
    """ "5 training seeds"; "4 of 5 training seeds" where one is unfinished."""
    done, all_ = len(found.seeds), len(found.seeds) + len(found.unfinished)
    of = f"{done} of {all_}" if all_ > done else f"{done}"
    return f"{of} training seed{'s' if all_ > 1 else ''}"


def policies(found: SeedsResult, name: str) -> str:
    """Numbers of policies of a method: "3", "2–4" or "–"."""
    known = sorted({k for k in found.methods[name].policies if k is not None})
    return "–" if not known else f"{known[0]}" if len(known) == 1 else f"{known[0]}–{known[-1]}"


HEAD = ("method", "policies", "mean", "ours minus it", "environment steps")


def rows(found: SeedsResult) -> list[tuple[str, list[str]]]:
    """(name, cells under `HEAD`) of every method, those outside the rule of the same total marked."""
    table = []
    for name in wording.ordered_methods(found.methods):
        entry = found.methods[name]
        label = wording.method_label(found.methods, name) + ("" if entry.equal_steps else " *")
        difference = wording.with_interval(entry.difference or Interval(), signed=True)
        mean = wording.with_interval(entry.interval)
        table.append((name, [label, policies(found, name), mean, difference, wording.steps(entry.env_steps)]))
    return table


def terminal_table(found: SeedsResult) -> Table:
    """The methods for the terminal, ours first."""
    from rich.table import Table
    from rich.text import Text

    metric = wording.metric_name(found.methods)
    table = Table(title=Text(f"{found.family}: {metric}, 95% intervals over {_count(found)}"))
    for i, column in enumerate(HEAD):
        table.add_column(column, justify="right" if i else "left")
    for name, cells in rows(found):
        table.add_row(*map(Text, cells), style="bold" if name == OURS else None)
    if not all(entry.equal_steps for entry in found.methods.values()):
        table.caption = "* outside the rule of the same total of environment steps"
    return table
