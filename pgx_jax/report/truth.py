"""How the comparison of estimates with true training is put into words and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pgx_jax.analysis.truth import LONG, EstimateAgreement, HorizonTruth, TruthResult
from pgx_jax.compare.results import Number
from pgx_jax.report.wording import number, steps

if TYPE_CHECKING:
    from rich.table import Table

LABELS = {
    "surrogate": "surrogates (f-hat)",
    "chosen": "f-hat, groups chosen held out",
    "dot": "dot product of gradients",
    "cosine": "cosine of gradients",
    "importance": "importance weighting, surrogates",
    "offline": "importance weighting, fitted policies",
    "rollouts": "roll-outs, {} episodes",
    "kernel": "kernel surrogate, {} trainings",
    "training": "every subset trained once",
}
"""Kinds of estimates, in words."""


class Kind(NamedTuple):
    """What the name of an estimate says."""

    kind: str
    """Key of `LABELS`."""
    amount: int | None
    """Of what it needs: episodes or trainings; else the transitions of each task, if not the run's own."""


def kind_of(name: str) -> Kind:
    """The kind of an estimate and the amount of what it needs."""
    kind, _, amount = name.partition("_")
    return Kind(kind, int(amount) if amount else None)


def label_of(name: str) -> str:
    """An estimate in words."""
    kind, amount = kind_of(name)
    text = LABELS.get(kind, kind)
    if amount is None or "{}" in text:
        return text.format(amount)
    return f"{text}, {amount:,} transitions a task"


def ceiling(reliability: Number) -> float:
    """The correlation of an estimate without error, where the truth is known so far."""
    return math.nan if reliability is None else math.sqrt(max(reliability, 0.0))


def training(horizon: str) -> str:
    """A horizon in words: "1 update", "long training"."""
    return f"{horizon} training" if horizon == LONG else horizon


def sentence(found: TruthResult) -> str:
    """How well f-hat tells short and long training, and the groups that follow."""
    parts = [_at(found, horizon) for horizon in found.horizons]
    return f"{len(found.subsets)} subsets trained {_times(found)} times: {'; '.join(parts)}."


def _times(found: TruthResult) -> str:
    """How often every subset was trained at each horizon."""
    return " or ".join(map(str, dict.fromkeys(len(horizon.values) for horizon in found.horizons)))


def _at(found: TruthResult, horizon: HorizonTruth) -> str:
    ours = found.agreement("surrogate", horizon.name)
    assert ours is not None, "always asked"
    within = ours.correlations["within"]["spearman"]
    most = ceiling(horizon.reliability["within"]["spearman"])
    nmi = ours.nmi["per_task"]
    return (
        f"after {training(horizon.name)} f-hat ranks the company of a task as training does with a Spearman "
        f"of {number(within, 2)} (no estimate could exceed {number(most, 2)}), and its {found.k} groups have "
        f"an NMI of {number(nmi, 2)} with those of training (random ones "
        f"{number(horizon.random_nmi['per_task'], 2)})"
    )


def table(found: TruthResult) -> Table:
    """Every estimate at every horizon, by its steps."""
    from rich import box
    from rich.table import Table

    title = f"{found.family}: estimates against {_times(found)} trainings of {len(found.subsets)} subsets"
    shown = Table(title=title, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    shown.add_column("estimate", no_wrap=True)
    shown.add_column("steps", justify="right")
    for horizon in found.horizons:
        for name in ("within", "all", "sign", "NMI"):
            shown.add_column(f"{horizon.name} {name}", justify="right")
    for name in dict.fromkeys(x.estimate for x in found.agreements):
        known = [found.agreement(name, horizon.name) for horizon in found.horizons]
        own = [x for x in known if x is not None]
        shown.add_row(label_of(name), steps_of(own), *(cell for x in known for cell in _cells(x)))
    most = [
        [number(ceiling(h.reliability["within"]["spearman"]), 2), number(ceiling(h.reliability_of_all), 2)]
        + [number(h.commoner_sign, 2), number(h.random_nmi["per_task"], 2)]
        for h in found.horizons
    ]
    shown.add_row("ceiling (of sign and NMI: chance)", "", *sum(most, []))
    return shown


def steps_of(found: Sequence[EstimateAgreement]) -> str:
    """Environment steps of an estimate at all horizons: what trains needs more of them at the longer ones."""
    known = [float(x.steps or 0) for x in found]
    return " to ".join(dict.fromkeys(steps(x) for x in (min(known), max(known))))


def mean_of(values: Sequence[Number]) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = [x for x in values if x is not None]
    return float(np.mean(known)) if known else math.nan


def _cells(found: EstimateAgreement | None) -> list[str]:
    """What a table shows of an estimate at a horizon."""
    if found is None:
        return ["–"] * 4
    told = [found.correlations["within"]["spearman"], mean_of(found.spearman_of_all), found.same_sign]
    return [number(x, 2) for x in [*told, found.nmi["per_task"]]]
