"""Several runs of one family that differ by their training seed, put together: what ``seeds.json`` holds.
Its schema is published as ``seeds.schema.json`` beside this file.

An interval of a single run is of its evaluation's noise alone; those here are over training seeds, with
the noise of evaluations within them. The tasks are the same in all: other draws of them are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int
from msgspec import UNSET, Meta, UnsetType

from pgx_jax import grouping
from pgx_jax.compare.results import (
    OURS,
    Agreement,
    Gain,
    Groups,
    Interval,
    MethodResult,
    Number,
    Record,
    Results,
    publish,
    read_record,
)
from pgx_jax.compare.summaries import over_runs
from pgx_jax.errors import DataError

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or disappears."""


class SeedsMethod(MethodResult, frozen=True, kw_only=True):
    """One method over all seeds: mean and interval are over seeds; steps and ``per_task`` are means.

    The difference is ours minus this method, paired by seed; of the seeds that have the method, where not
    all do. Mean and interval are left out then.
    """

    by_seed: list[Number]
    """[S]; None where a seed does not have the method."""
    policies: list[int | None]
    """[S], number of groups."""


class Between(Record, frozen=True):
    """How far the groups of different seeds agree, over all pairs of seeds."""

    nmi: float
    """Mean normalised mutual information."""
    ari: float
    """Mean adjusted Rand index."""
    equal: float
    """Part of the pairs whose groups are the same."""


class SeedsResult(Record, frozen=True, kw_only=True):
    """Everything that ``seeds.json`` holds; lists [S] go by ``seeds``."""

    family: str
    family_settings: dict[str, Any] = {}
    n_tasks: int
    task_names: list[str]
    seeds: list[int]
    """[S], training seeds of the runs that are finished."""
    unfinished: dict[str, str] = {}
    """Other seeds, as text, and what stopped them."""
    k: list[int]
    """[S]"""
    groups: list[Groups]
    """[S]"""
    methods: dict[str, SeedsMethod]
    gain: Gain
    """Over seeds."""
    realised: list[Number]
    """[S], realised gain."""
    together: list[list[Number]]
    """[n, n], part of the seeds that have both tasks in one group."""
    between: Between | None = None
    """None with a single seed."""
    agreement: list[Agreement] | None = None
    """[S], of the groups found with the planted ones."""
    true_groups: Groups | None = None
    advice: str = ""
    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]


def over_seeds(runs: Sequence[Results], unfinished: Mapping[int, str] | None = None) -> SeedsResult:
    """Put the results of runs together that differ by their seed alone.

    Args:
        runs: at least one.
        unfinished: seeds that came to no results, and why.

    Raises:
        DataError: no run, runs of other tasks, or a seed twice.
    """
    if not runs:
        raise DataError("no seed has results to be put together; resume the runs")
    first, seeds = runs[0], [run.seed for run in runs]
    known = [(run.family, run.family_settings, run.task_names) for run in runs]
    if any(own != known[0] for own in known) or len(set(seeds)) < len(seeds):
        raise DataError("the runs are not of one family and different seeds; keep others out of the folder")
    labels = np.stack([labels_of(run) for run in runs])
    gains = [[None if x is None else x.mean for x in (r.gain.predicted, r.gain.realised)] for r in runs]
    predicted, realised = map(list, zip(*gains, strict=True))
    agreement = [run.agreement for run in runs if run.agreement is not None]
    names = dict.fromkeys(name for run in runs for name in run.methods)
    return SeedsResult(
        family=first.family,
        family_settings=first.family_settings,
        n_tasks=first.n_tasks,
        task_names=first.task_names,
        seeds=seeds,
        unfinished={str(seed): why for seed, why in (unfinished or {}).items()},
        k=[run.k for run in runs],
        groups=[run.groups for run in runs],
        methods={name: _method(name, runs) for name in names},
        gain=Gain(over_runs(predicted), over_runs(realised)),
        realised=realised,
        together=(labels[:, :, None] == labels[:, None]).mean(0).tolist(),
        between=_between(labels),
        agreement=agreement if len(agreement) == len(runs) else None,
        true_groups=first.true_groups,
        schema_version=SCHEMA_VERSION,
    )


def labels_of(run: Results) -> Int[np.ndarray, "n"]:
    """The group of every task, int [n]."""
    group = {name: i for i, names in enumerate(run.groups) for name in names}
    return np.array([group[name] for name in run.task_names])


def _method(name: str, runs: Sequence[Results]) -> SeedsMethod:
    """A method over all runs, of which some may lack it."""
    found = [run.methods.get(name) for run in runs]
    own = [entry for entry in found if entry is not None]
    means = [None if entry is None else entry.mean for entry in found]
    whole, steps = over_runs(means), [entry.env_steps for entry in own if entry.env_steps is not None]
    per_task = [np.array(entry.per_task, float) for entry in own if entry.per_task is not None]
    same = {entry.same_as for entry in found if entry is not None} if len(own) == len(runs) else {UNSET}
    note = own[0].note if len(own) == len(runs) else f"with {len(own)} of {len(runs)} seeds"
    return SeedsMethod(
        mean=whole.mean,
        ci95=whole.ci95,
        metric=own[0].metric,
        per_task=np.mean(per_task, 0).tolist() if len(per_task) == len(runs) else None,
        env_steps=round(float(np.mean(steps))) if len(steps) == len(own) else None,
        equal_steps=all(entry.equal_steps for entry in own),
        label=own[0].label,
        note=note,
        start=own[0].start,
        same_as=same.pop() if len(same) == 1 else UNSET,
        difference=_difference(name, runs),
        by_seed=means,
        policies=[len(entry.groups) if entry and entry.groups else None for entry in found],
    )


def _difference(name: str, runs: Sequence[Results]) -> Interval | UnsetType:
    """Ours minus a method, paired by seed, over the runs that have it."""
    if name == OURS:
        return UNSET
    pairs = [(run.methods[OURS].mean, run.methods[name].mean) for run in runs if name in run.methods]
    return over_runs([None if x is None or y is None else x - y for x, y in pairs])


def _between(labels: Int[np.ndarray, "S n"]) -> Between | None:
    """How far labels of several seeds agree."""
    pairs = list(combinations(labels, 2))
    if not pairs:
        return None
    measures = (grouping.nmi, grouping.ari, grouping.exact)
    return Between(*(float(np.mean([measure(a, b) for a, b in pairs])) for measure in measures))


def from_plain(values: Any) -> SeedsResult:
    """Read what ``seeds.json`` held.

    Raises:
        DataError: it is of another version, or something is missing, unknown or of another kind.
    """
    return read_record(values, SeedsResult, "seeds.json", "write the report again")


if __name__ == "__main__":  # writes the published schema anew
    publish(SeedsResult, "seeds.schema.json")
