"""Saved runs of one family beside each other: what ``compare.json`` holds. Its schema is published as
``compare.schema.json`` beside this file.

Runs are compared by what their methods earned. A side is one run, or runs that differ by their seed alone:
the interval of several is over seeds, that of one of its evaluation alone. Differences are paired by seed
where the tasks are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, structs

from pgx_jax.compare.results import Interval, Record, Results, publish, read_record
from pgx_jax.compare.seeds import SeedsMethod, over_seeds
from pgx_jax.compare.summaries import over_runs
from pgx_jax.errors import DataError

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or disappears."""


class Paired(Record, frozen=True, kw_only=True):
    """What a method earned on one side less what it earned on the first."""

    difference: Interval
    """Mean over pairs, and its 95% t-interval, if there are several."""
    pairs: int
    """Seeds that both sides have."""


class Side(Record, frozen=True, kw_only=True):
    """One run, or runs that differ by their seed alone."""

    name: str
    """What it is called here."""
    folder: str
    """Where it is, as it was given."""
    family_settings: dict[str, Any]
    n_tasks: int
    seeds: list[int]
    """[S]"""
    k: list[int]
    """[S]"""
    methods: dict[str, SeedsMethod]
    """Means over seeds with intervals over them; of a single one with that of its evaluation."""
    paired: dict[str, Paired] = {}
    """Of the methods that the first side has, too; none where the tasks or all seeds are others."""


class RunsResult(Record, frozen=True, kw_only=True):
    """Everything that ``compare.json`` holds."""

    family: str
    sides: list[Side]
    settings: dict[str, list[str]]
    """[sides] each: settings, versions and the like that are not the same on all sides, but for the seed."""
    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]


class Given(NamedTuple):
    """What is known of a side before it is compared."""

    name: str
    folder: str
    runs: Sequence[Results]
    """Of different seeds, at least one."""
    settings: Mapping[str, str]
    """By dotted name, as text."""


def compare(given: Sequence[Given]) -> RunsResult:
    """Put sides beside each other; the first is what the others are compared with.

    Raises:
        DataError: fewer than two, or sides whose returns can't be compared.
    """
    _check(given)
    first, *others = map(_side, given)
    names = dict.fromkeys(name for each in given for name in each.settings)
    values = {name: [each.settings.get(name, "–") for each in given] for name in names}
    return RunsResult(
        family=given[0].runs[0].family,
        sides=[first, *(_paired(side, first) for side in others)],
        settings={name: own for name, own in values.items() if len(set(own)) > 1},
        schema_version=SCHEMA_VERSION,
    )


def _check(given: Sequence[Given]) -> None:
    """Refuse what can't be compared."""
    if len(given) < 2:
        raise DataError("there is one run, or runs of one folder of seeds; give another to compare it with")
    for what, of in (("families", _family), ("metrics", _metric)):
        found = {each.name: of(each.runs[0]) for each in given}
        if len(set(found.values())) > 1:
            told = ", ".join(f"{name}: {value}" for name, value in found.items())
            raise DataError(f"runs of different {what} can't be compared ({told}); give runs of one")


def _family(run: Results) -> str:
    return run.family


def _metric(run: Results) -> str:
    return next(iter(run.methods.values())).metric


def _side(given: Given) -> Side:
    found, only = over_seeds(given.runs), given.runs[0]
    methods = found.methods
    if len(given.runs) == 1:
        methods = {name: _with_interval(own, only.methods[name].interval) for name, own in methods.items()}
    return Side(
        name=given.name, folder=given.folder, family_settings=found.family_settings, n_tasks=found.n_tasks,
        seeds=found.seeds, k=found.k, methods=methods,
    )  # fmt: skip


def _with_interval(entry: SeedsMethod, interval: Interval) -> SeedsMethod:
    return structs.replace(entry, ci95=interval.ci95)


def _paired(side: Side, first: Side) -> Side:
    """The side with its differences to the first."""
    common = [seed for seed in side.seeds if seed in first.seeds]
    if side.family_settings != first.family_settings or not common:
        return side
    found = {
        name: Paired(difference=_difference(side, first, name, common), pairs=len(common))
        for name in side.methods
        if name in first.methods
    }
    known = {name: own for name, own in found.items() if own.difference.mean is not None}
    return structs.replace(side, paired=known)


def _difference(side: Side, first: Side, name: str, seeds: Sequence[int]) -> Interval:
    """Paired by seed; none where a seed lacks the method."""
    pairs = [[own.methods[name].by_seed[own.seeds.index(seed)] for own in (side, first)] for seed in seeds]
    return over_runs([None if x is None or y is None else x - y for x, y in pairs])


def from_plain(values: Any) -> RunsResult:
    """Read what ``compare.json`` held.

    Raises:
        DataError: it is of another version, or something is missing, unknown or of another kind.
    """
    return read_record(values, RunsResult, "compare.json", "compare the runs again")


if __name__ == "__main__":  # writes the published schema anew
    publish(RunsResult, "compare.schema.json")
