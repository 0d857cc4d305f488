"""What analyses (`pgx_jax.analysis`) have found: a table for the terminal, a sentence, and the figure.

An analysis of one's own has an entry here (`SHOWN`) beside that of `analysis.ANALYSES`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pgx_jax.analysis.ablations import AblationsResult
from pgx_jax.analysis.approximation import KINDS, ApproximationResult
from pgx_jax.analysis.cost import CostResult
from pgx_jax.analysis.generalisation import GeneralisationResult
from pgx_jax.analysis.truth import TruthResult
from pgx_jax.errors import pick
from pgx_jax.report import ablations, cost, truth
from pgx_jax.report.wording import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

GOOD = 0.1
"""Relative error up to which the ratio is called linear; what the paper finds beyond 5%."""


class Shown(NamedTuple):
    """How the record of an analysis is shown."""

    sentence: Callable[[Any], str]
    """What it means, in plain words."""
    table: Callable[[Any], Table]
    draw: Callable[[Any], Figure]


def percent(fraction: float | None) -> str:
    """A fraction as per cent, in few characters."""
    if fraction is None or not math.isfinite(fraction):
        return "–"
    value = 100 * fraction
    if 0 < value < 0.01:
        return "<0.01%"
    digits = 2 if value < 1 else 1 if value < 10 else 0
    return f"{value:,.{digits}f}%" if value < 1e4 else f"{value:.0e}%"


def approximation_sentence(found: ApproximationResult) -> str:
    """How far first order carries, along fine-tuning and at the surrogates' own steps."""
    errors = found.of_kind("finetuning", "ratio").mean(0)
    pairs = zip(found.distances, errors, strict=True)
    good = [x for x, _ in itertools.takewhile(lambda pair: pair[1] <= GOOD, pairs)]
    if good:
        at = percent(errors[found.distances.index(good[-1])])
        reach = f"up to {percent(good[-1])} of theta*'s length (there {at} off, on average)"
        text = f"Along fine-tuning directions the ratio of policies is linear in the parameters {reach}"
        if len(good) < len(errors):
            beyond = found.distances[len(good)]
            text += f", and no more at {percent(beyond)} ({percent(errors[len(good)])})"
    else:
        text = f"Along fine-tuning directions the ratio is {percent(errors[0])} off already at "
        text += f"{percent(found.distances[0])} of theta*'s length"
    own, error = found.own("surrogate", "ratio")
    if not math.isfinite(own):
        return f"{text}."
    verdict = "close enough" if error <= GOOD else "too far"
    words = f"the surrogates' own steps are {percent(own)} long, where it is {percent(error)} off"
    return f"{text}; {words}: {verdict} to call it linear (at most {percent(GOOD)} off)."


NAMES = {"ratio": "ratio", "log_ratio": "log r"}
"""Of the measures that tables show."""


def approximation_table(found: ApproximationResult) -> Table:
    """Mean errors by kind of direction and distance."""
    from rich import box
    from rich.table import Table

    title = f"{found.family}: relative error of first order, by distance from theta*"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column(no_wrap=True)
    for distance in found.distances:
        table.add_column(percent(distance), justify="right")
    table.add_column("where they lead", justify="right", no_wrap=True)
    for kind in KINDS:
        for measure, name in NAMES.items():
            if len(errors := found.of_kind(kind, measure)):
                own, error = found.own(kind, measure)
                told = f"{percent(own)}: {percent(error)}" if math.isfinite(own) else ""
                table.add_row(f"{kind} {name}", *map(percent, errors.mean(0).tolist()), told)
    return table


def generalisation_sentence(found: GeneralisationResult) -> str:
    """The gap on fresh trajectories, and what the bound makes of it."""
    first = found.subsets[0]
    who = "one policy for all tasks" if len(found.subsets) > 1 else "the group's policy"
    text = (
        f"Fitted to {first.trajectories:.0f} trajectories, {who} has a loss of {first.fitted:.4f} on these "
        f"and of {first.fresh:.4f} on fresh ones (theta* has 0): a gap of {first.gap:+.4f} "
        f"± {number(first.gap_stderr, 4)}"
    )
    if first.unseen is not None:
        text += f"; on {first.unseen_tasks} unseen tasks it is {first.unseen:.4f}"
    empty = [x for x in found.subsets if x.vacuous]
    if len(empty) == len(found.subsets):
        return f"{text}. The bounds are vacuous: no loss is above {found.largest:.2g}."
    some = f" ({len(empty)} of {len(found.subsets)} bounds are vacuous)" if empty else ""
    noisy = f"with noise of {percent(first.noise)} of theta*'s length"
    allows = f"The bound, {noisy}, allows a gap of {first.promised:.2g}, {_times(first.promised, first.gap)}"
    gains = first.bound is not None and first.bound < 0
    promise = "it promises a gain over theta*" if gains else "too much to promise a gain over theta*"
    return f"{text}. {allows} (no loss is above {found.largest:.2g}): {promise}{some}."


def _times(bound: float, gap: float) -> str:
    return f"{bound / gap:.0f} times what was measured" if gap > 0 else "where none was measured"


def generalisation_table(found: GeneralisationResult) -> Table:
    """Losses, curvature and bounds, a row a subset."""
    from rich import box
    from rich.table import Table

    title = f"{found.family}: loss of policies fitted to transitions"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("tasks", no_wrap=True)
    for name in ("fitted", "fresh", "unseen", "bound", "by trace", "trace"):
        table.add_column(name, justify="right", no_wrap=True)
    for x in found.subsets:
        mean, stderr = x.trace["hutch++"]
        told = [number(x.unseen, 4), number(x.bound, 3), number(x.bound_by_trace, 3)]
        curved = f"{number(mean, 2)} ± {number(stderr, 2)}"
        more = f" + {len(x.tasks) - 1}" if len(x.tasks) > 1 else ""
        table.add_row(x.tasks[0] + more, number(x.fitted, 4), number(x.fresh, 4), *told, curved)
    return table


def _draw_generalisation(found: GeneralisationResult) -> Figure:
    from pgx_jax.report.figures import analyses

    return analyses.generalisation(found)


def _draw_cost(found: CostResult) -> Figure:
    from pgx_jax.report.figures import analyses

    return analyses.cost(found)


def _draw_truth(found: TruthResult) -> Figure:
    from pgx_jax.report.figures import truth

    return truth.truth(found)


def _draw_ablations(found: AblationsResult) -> Figure:
    from pgx_jax.report.figures import ablations

    return ablations.ablations(found)


def _draw_approximation(found: ApproximationResult) -> Figure:
    from pgx_jax.report.figures import analyses  # matplotlib takes a second to import

    return analyses.approximation(found)


SHOWN = {
    "approximation": Shown(approximation_sentence, approximation_table, _draw_approximation),
    "ablations": Shown(ablations.sentence, ablations.table, _draw_ablations),
    "generalisation": Shown(generalisation_sentence, generalisation_table, _draw_generalisation),
    "cost": Shown(cost.sentence, cost.table, _draw_cost),
    "truth": Shown(truth.sentence, truth.table, _draw_truth),
}
"""How every analysis is shown, by its name."""


def shown(name: str) -> Shown:
    """How an analysis is shown."""
    return pick(SHOWN, name, "the analysis")


def render(name: str, found: Any) -> bytes:
    """The figure of an analysis, as PNG."""
    from pgx_jax.report.figures.canvas import png

    return png(shown(name).draw(found))
