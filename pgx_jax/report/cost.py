"""How the costs of the estimate and of training are put into words and tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pgx_jax.analysis.cost import META, ONE_AFTER_ANOTHER, SIDE_BY_SIDE, Cost, CostResult
from pgx_jax.report import wording

if TYPE_CHECKING:
    from rich.table import Table


ROUGH = 0.2
"""Of the time that more updates should take, the part below which what they took is called rough."""


def times(ratio: float) -> str:
    """A ratio: "47×", "2.3×", "0.041×"."""
    if not math.isfinite(ratio):
        return "–"
    return f"{ratio:.2g}×" if ratio < 0.95 else f"{ratio:.{1 if ratio < 9.95 else 0}f}×"


def duration(seconds: float) -> str:
    """Seconds in words, the shortest as milliseconds."""
    return f"{1000 * seconds:.2g} ms" if 0 < seconds < 0.0995 else wording.duration(seconds)


def amount(operations: float) -> str:
    """Operations: 960M, 64.1G, 2.4T."""
    if not math.isfinite(operations):
        return "–"
    powers = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]
    size, letter = next((x for x in powers if operations >= 0.9995 * x[0]), powers[-1])
    return f"{operations / size:.3g}{letter}"


SHOWN: dict[str, Callable[[Cost], str]] = {
    "operations": lambda cost: amount(cost.operations),
    SIDE_BY_SIDE: lambda cost: duration(cost.seconds),
    ONE_AFTER_ANOTHER: lambda cost: duration(cost.seconds),
}
"""What is shown of a cost, by what is compared (`CostResult.speed_ups`)."""


def subsets(found: CostResult) -> str:
    """ "all 20 subsets of 3 tasks"."""
    least, most = found.sizes
    of = f"{least}{'' if least == most else f' to {most}'} tasks"
    return f"all {found.subsets} subsets of {of}" if found.subsets > 1 else f"the only subset of {of}"


def lengthened(found: CostResult) -> tuple[float, float]:
    """How many times as long the larger number of updates takes, at least and at most."""
    ways = found.timings.training.values()
    ratios = [float(np.median(way.long) / np.median(way.short)) for way in ways]
    return min(ratios), max(ratios)


def sentence(found: CostResult) -> str:
    """How many times as much training takes, and how that was measured."""
    ups, own = found.speed_ups(), found.estimate()
    of = "of the processor" if found.timings.clock == "processor" else "by the clock"
    spent = [duration(found.train_all(way).seconds) for way in (SIDE_BY_SIDE, ONE_AFTER_ANOTHER)]
    together, apart = ups[SIDE_BY_SIDE], ups[ONE_AFTER_ANOTHER]
    parts = [
        f"Estimating {subsets(found)} takes {duration(own.seconds)} {of}; a policy for each "
        f"({found.training.updates:.0f} updates) would take {spent[0]} side by side and {spent[1]} one after "
        f"another: {times(together.alone)} and {times(apart.alone)} as long, or {times(together.with_meta)} "
        f"and {times(apart.with_meta)} with {_before(found)} "
        f"({duration(found.before().seconds)}) added to the estimate."
    ]
    operations = ups["operations"]
    if math.isfinite(operations.alone):
        told = f"{times(operations.alone)}, or {times(operations.with_meta)} with these added"
        parts.append(f"In operations it is {told}.")
    parts += [f"Operations are not known: {reason}." for reason in found.uncounted]
    return " ".join([*parts, how_timed(found)])


def _before(found: CostResult) -> str:
    """What came before the estimate."""
    earlier = found.looks - 1
    looks = f"{earlier} earlier look{'s' * (earlier > 1)} at theta*"
    return f"meta-training, collecting and {looks}" if earlier else "meta-training and collecting"


def how_timed(found: CostResult) -> str:
    """How training was scaled up."""
    timed, (short, long) = found.timings.training, found.updates
    least, most = lengthened(found)
    ways = (SIDE_BY_SIDE, ONE_AFTER_ANOTHER)
    together, apart = (timed[way].policies for way in ways)
    told = (
        f"Training is scaled up: of policies {together} side by side, {apart} one after another, and theta*, "
        f"were trained for {short} and for {long} updates ({long} take {least:.2f} to {most:.2f} times as "
        f"long as {short}); warm, medians of {len(timed[META].long)}."
    )
    if any(math.isnan(found.train_all(way).seconds + found.before().seconds) for way in ways):
        told += " Some were too short to be timed: raise cost.updates."
    elif least < 1 + ROUGH * (long / short - 1):
        told += " More updates hardly took longer, so that these times are rough: raise cost.updates."
    return told


def table(found: CostResult) -> Table:
    """Costs and their ratios, a row for what is compared, of every projection."""
    from rich import box
    from rich.table import Table

    title = f"{found.family}: {subsets(found)} estimated, and trained"
    shown = Table(title=title, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    shown.add_column(no_wrap=True)
    for name in ("estimate", "before it", "training all", "speed-up", "with meta"):
        shown.add_column(name, justify="right")
    for which, estimated in enumerate(found.estimates):
        shown.add_section()
        for what, ups in found.speed_ups(which).items():
            told = SHOWN[what]
            way = what if what in found.timings.training else SIDE_BY_SIDE
            costs = (found.estimate(which), found.before(which), found.train_all(way))
            label = f"{estimated.name}: {what}" if len(found.estimates) > 1 else what
            shown.add_row(label, *map(told, costs), times(ups.alone), times(ups.with_meta))
    return shown
