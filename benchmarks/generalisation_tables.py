"""The docs' table and figure of generalisation errors and their bounds, made from the result file alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
import msgspec
import numpy as np
from tables import over_runs, plural, table

from pgx_jax.analysis.generalisation import (
    LAMBDAS,
    NOISES,
    GeneralisationResult,
    SubsetGeneralisation,
    choices_of,
    payments,
)
from pgx_jax.report.figures.analyses import LOSSES
from pgx_jax.report.figures.canvas import FAINT, RC, canvas, png
from pgx_jax.report.wording import with_interval

PARTS = {"all": "one policy for all", "ours": "our groups", "random": "random groups"}
"""Partitions, by their names in results."""


LITTLE = 0.1
"""Length of noise, in that of theta*, that may be called little."""


MUCH = 0.5
"""Length from which on it is most of a policy."""


def at_noise(x: SubsetGeneralisation, record: GeneralisationResult, noise: float) -> float:
    """The least that a policy's bound could be with other noise, were the loss no worse for it."""
    kl = _number(x.kl) * (_number(x.noise) / noise) ** 2
    return _number(x.fitted) + _paid(x, record, kl)


def speaks_of(noise: np.ndarray) -> str:
    """What bounds are about whose noise has these lengths, where that is hardly the policy itself."""
    return ": most speak of policies that are mostly noise" if np.median(noise) > MUCH else ""


def _paid(x: SubsetGeneralisation, record: GeneralisationResult, kl: float) -> float:
    """What a bound adds to the expected loss (see `pgx_jax.analysis.generalisation`)."""
    paid = payments(
        np.array([kl]), np.array(LAMBDAS), n=_number(x.trajectories), width=2 * record.largest,
        delta=_number(record.delta), pairs=len(NOISES) * len(LAMBDAS), choices=_number(x.choices),
    )  # fmt: skip
    return float(paid.min())


def paid_for_choice(record: GeneralisationResult) -> GeneralisationResult:
    """A record whose bounds hold for whatever subset was chosen. Those of older code don't: at the noise that
    each of these took, which may not be the best one now, it is paid here."""
    tasks = max(len(x.tasks) for x in record.subsets)

    def paid(x: SubsetGeneralisation) -> SubsetGeneralisation:
        wanted = choices_of(len(x.tasks), tasks)
        if x.choices == wanted:
            return x
        now = msgspec.structs.replace(x, choices=wanted)
        bound = _number(x.expected[0]) + _paid(now, record, _number(x.kl))
        by_trace = _number(x.bound_by_trace) + bound - _number(x.bound)
        return msgspec.structs.replace(
            now, bound=bound, bound_by_trace=by_trace, vacuous=bound >= record.largest
        )

    return msgspec.structs.replace(record, subsets=[paid(x) for x in record.subsets])


def of_older_code(data: Mapping) -> bool:
    """Whether there are bounds that did not pay for the choice of their subset when they were measured."""
    subsets = [x for cell in data["cells"] for x in cell["found"]["subsets"]]
    return any("choices" not in x for x in subsets)


class Measured(NamedTuple):
    """The policies of one partition, with networks of one depth: an entry a seed."""

    found: list[GeneralisationResult]
    policies: list[list[SubsetGeneralisation]]

    def over_tasks(self, name: str) -> np.ndarray:
        """Means of a number over all tasks, one a seed; NaN where a policy lacks it."""
        return np.array([
            np.average([_number(getattr(x, name)) for x in several], weights=[len(x.tasks) for x in several])
            for several in self.policies
        ])  # fmt: skip


def _number(value: float | None) -> float:
    return np.nan if value is None else value


Found = dict[tuple[str, int, str], Measured]
"""(family, hidden layers, partition) -> what was measured."""


def by_network(data: Mapping) -> Found:
    """What was measured, families in their order, then by depth."""
    found: Found = {}
    for cell in data["cells"]:
        record, first = paid_for_choice(msgspec.convert(cell["found"], GeneralisationResult)), 0
        for name, count in cell["parts"].items():
            where = cell["cell"]["family"], cell["cell"]["layers"], name
            known = found.setdefault(where, Measured([], []))
            known.found.append(record)
            known.policies.append(record.subsets[first : first + count])
            first += count
    order = list(dict.fromkeys(family for family, *_ in found))
    names = list(PARTS)
    return dict(sorted(found.items(), key=lambda x: (order.index(x[0][0]), x[0][1], names.index(x[0][2]))))


def _row(where: tuple[str, int, str], measured: Measured) -> list[str]:
    family, layers, part = where
    traces = [x.trace["hutch++"][0] for several in measured.policies for x in several]
    largest = [x.eigenvalues[1] for several in measured.policies for x in several]
    bounds = [x for several in measured.policies for x in several]
    names = ("fitted", "fresh", "unseen", "gap", "bound", "bound_by_trace")
    columns = {name: measured.over_tasks(name) for name in names}
    shown = {name: "–" if np.isnan(x).any() else with_interval(over_runs(x)) for name, x in columns.items()}
    return [
        f"{family}, {layers}", PARTS[part], f"{measured.found[0].parameters:,}",
        shown["fitted"], shown["fresh"], shown["gap"], shown["unseen"],
        f"{np.mean(traces):.2g}", f"{np.mean(largest):.2g}", shown["bound"], shown["bound_by_trace"],
        f"{sum(x.vacuous for x in bounds)} of {len(bounds)}",
    ]  # fmt: skip


def generalisation(data: Mapping) -> str:
    """Losses, gaps, curvature and bounds by family, depth and partition."""
    found = by_network(data)
    head = [
        "family, hidden layers", "policies", "p", "loss, fitted", "loss, fresh", "gap", "loss, unseen tasks",
        "tr H", "largest eigenvalue", "bound", "the same by tr H", "vacuous",
    ]  # fmt: skip
    rows = [_row(*item) for item in found.items()]
    older = (
        " Bounds were measured by older code, which did not pay for the choice of the subset; it is paid "
        "here, at the noise that each took."
    )
    return table(head, rows) + "\n\n" + _facts(found) + (older if of_older_code(data) else "")


def _facts(found: Found) -> str:
    first = next(iter(found.values()))
    record = first.found[0]
    seeds = sorted({len(measured.policies) for measured in found.values()})
    return (
        f"Policies that the estimate fits to part of what θ* experienced, by their loss (PPO's clipped "
        f"objective on advantages cut to ±{record.cut:g}; θ* has 0, no loss is above {record.largest:.2g}): "
        f"on the trajectories that were fitted, on fresh ones of θ*, and on unseen tasks; means over tasks, "
        f"with 95% t-intervals over {' or '.join(plural(n, 'seed') for n in seeds)}. The gap is the fresh "
        f"loss less the fitted one. H: the Hessian of the fitted loss (Hutch++, Lanczos), averaged over the "
        f"policies. In the figure every seed has a mark. {_of_bounds(found)}"
    )


def _of_bounds(found: Found) -> str:
    """What the bounds say, and what they do not."""
    pairs = [
        (x, record)
        for m in found.values()
        for record, several in zip(m.found, m.policies, strict=True)
        for x in several
    ]
    policies, record = [x for x, _ in pairs], pairs[0][1]
    gaps, promised, bounds, by_trace, noise = (
        np.array([_number(getattr(x, name)) for x in policies])
        for name in ("gap", "promised", "bound", "bound_by_trace", "noise")
    )
    free = np.array([_paid(x, record, 0.0) for x, record in pairs])
    little = np.array([at_noise(x, record, LITTLE) for x, record in pairs])
    chosen = np.array([x.choices > 1 for x in policies])
    length = " to ".join(dict.fromkeys(f"{100 * x:.3g}%" for x in (noise.min(), noise.max())))
    return (
        f"Bound: PAC-Bayes, for each policy with a probability of {1 - record.delta:.0%} above the loss that "
        f"it has on average with noise in its parameters; those of groups hold for whatever groups the same "
        f"data would have chosen, so that {np.sum(chosen)} of {len(chosen)} pay for the choice among all "
        f"subsets; vacuous where it is above every possible loss "
        f"([all assumptions and constants](pgx_jax/analysis/generalisation.py)). Measured gaps are "
        f"{gaps.min():.3f} to {gaps.max():.3f}; the bounds allow {promised.min():.2f} to "
        f"{promised.max():.2f}. **Read them with care.** The noise for which the bounds are least is "
        f"{length} as long as θ* (the grid ends at {100 * NOISES[-1]:.3g}%){speaks_of(noise)}. With noise "
        f"of {LITTLE:.0%}, even if it did no harm, {np.sum(little >= record.largest)} of {len(little)} would "
        f"be vacuous. The number of trajectories alone has its price: without any step or noise the bounds "
        f"would be {free.min():.2f} to {free.max():.2f}. "
        f"{np.sum(bounds < 0) or 'None'} of them promises a gain over θ* (is below 0). By tr H: with "
        f"L + σ² tr H / 2 in place of the loss that was measured with noise, which is no bound where noise "
        f"reaches beyond second order (it differs by {(by_trace - bounds).min():.2f} to "
        f"{(by_trace - bounds).max():+.2f})."
    )


def draw(data: Mapping) -> bytes:
    """Losses and bounds, a panel a family; rows are depths and partitions."""
    found = by_network(data)
    families = list(dict.fromkeys(family for family, *_ in found))
    rows = max(sum(where[0] == family for where in found) for family in families)
    with matplotlib.rc_context(RC):
        figure, panels = canvas(3.4 * len(families) + 1.6, 1.6 + 0.32 * rows, columns=len(families))
        for axes, family in zip(panels, families, strict=True):
            _panel(axes, {where: x for where, x in found.items() if where[0] == family})
            axes.set_title(family)
        known = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
        figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=3, fontsize=8)
        return png(figure)


SHIFTS = {"fitted": -0.25, "fresh": 0.0, "unseen": 0.25, "bound": 0.0}
"""Of what is shown of a row, downwards: losses are so near each other that they would hide one another."""


def _panel(axes, found: Found) -> None:
    for row, measured in enumerate(found.values()):
        for name, shift in SHIFTS.items():
            colour, marker, label = LOSSES[name]
            values = measured.over_tasks(name)
            size = 11 if marker == "|" else 4
            axes.plot(values, np.full(len(values), row + shift), marker, ms=size, mew=1.2, color=colour,
                      label=label, alpha=0.8)  # fmt: skip
    largest = next(iter(found.values())).found[0].largest
    axes.axvline(largest, color=FAINT, lw=0.8, ls=(0, (4, 3)), label="largest possible loss")
    axes.axvline(0, color=FAINT, lw=1)
    labels = [f"{layers} layers, {PARTS[part]}" for _, layers, part in found]
    axes.set(ylim=(len(found) - 0.5, -0.5), yticks=range(len(found)), yticklabels=labels)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set_xlabel("loss (standardised advantage a step)")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
