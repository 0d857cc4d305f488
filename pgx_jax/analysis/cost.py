"""What it costs to estimate all subsets of a run's tasks, and what a policy trained for each would cost.

**The estimate** goes from what theta* experienced to the affinity: features, surrogates and their scores, of
all subsets at once. It uses two of the three parts of the data, to fit and to score. The features of the
third, by which groups are selected, and the selection are told beside it (``selecting``).

**Training** gives each subset what a group of so many tasks has in the run: its part of the steps that are
left after meta-training and collecting, with the batch that suits them, from theta* and its critic. Some of
the policies are trained for two small numbers of updates; the difference is the time of an update, and it is
scaled to all updates of all policies. Side by side is one call for all of these; one after another is a call
of its own for each.

**Meta-training and collecting** come before the estimate. They are timed and counted in the same way, and
ratios are told without and with them, and with what earlier looks at theta* estimated and selected. (What
experts show, and looks at groups, are left out.)

**Operations** are those of the traced programs (`operations`, `counts`). Transitions that are collected count
as if they were trained on. What is not traced is not counted: steps of environments on the host, and scores
by roll-outs.

**Times** are of warm programs, medians. On a processor they are its own time by default (of all its cores
together, which other work does not lengthen), elsewhere and with environments on the host those of the clock.

Runs whose affinity reads no subsets are told the cost of those that it would be given if it did.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from pgx_jax import estimate, learn, pipeline
from pgx_jax.analysis.counts import count_features, count_surrogates, count_update
from pgx_jax.analysis.subject import Subject, as_float, parameter_count
from pgx_jax.analysis.variants import Theta, Variant
from pgx_jax.compare.budget import suited
from pgx_jax.compare.pool import row_keys
from pgx_jax.compare.results import Number, Record
from pgx_jax.config import EstimateConfig, override
from pgx_jax.errors import ConfigError, pick
from pgx_jax.estimate import PROJECTIONS
from pgx_jax.estimate.config import MOST_DIM
from pgx_jax.estimate.projections import check_projection
from pgx_jax.learn import Learner, Progress
from pgx_jax.types import FIT, SCORE, SELECT, Features, Named, Rows, Scores, Transitions

CLOCKS: dict[str, Callable[[], float]] = {"processor": time.process_time, "wall": time.perf_counter}
"""Clocks by name."""

SIDE_BY_SIDE, ONE_AFTER_ANOTHER, META = "side by side", "one after another", "meta"
"""What is trained to be timed: policies of subsets in two ways, and theta*."""

LEAST_ROWS = 4
"""Policies that are trained side by side where nobody says how many, at least."""

ESTIMATED, SELECTING = (FIT, SCORE), (SELECT,)
"""Parts of the data whose features the estimate reads, and the selection of groups besides."""


@dataclass(frozen=True)
class CostConfig:
    """Settings of the costs of the estimate and of training."""

    updates: tuple[int, int] = (4, 8)
    """Updates that policies are trained for; the difference of the two is the time of an update."""
    repeats: int = 3
    """Timings of everything; the medians count."""
    rows: int | None = None
    """Policies that are trained side by side; as many as train at the same time here by default, and at least
    4."""
    alone: int = 2
    """Policies that are trained one after another."""
    also: tuple[tuple[Named[str, PROJECTIONS], int], ...] = ()
    """Further projections and dimensions that are measured beside the run's own: "hadamard 400"."""
    clock: Named[str, CLOCKS] | None = None
    """"processor": seconds of the processor, all its cores together; "wall": those that pass. By default the
    first where processors do all the work in this process, else the second."""

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: naming the setting.
        """
        short, long = self.updates
        if not 1 <= short < long:
            raise ConfigError(f"updates = {self.updates} must be two numbers, the smaller one first: 4 8")
        for name in ("repeats", "rows", "alone"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1")
        for projection, dim in self.also:
            asked = f"also = {projection} {dim}"
            if not 1 <= dim <= MOST_DIM:
                raise ConfigError(f"{asked}: a projection has 1 dimension at least, and at most {MOST_DIM}")
            try:
                check_projection(projection, dim)
            except ConfigError as error:
                raise ConfigError(f"{asked}: {error}") from None
        if self.clock is not None:
            pick(CLOCKS, self.clock, "clock")


class Cost(NamedTuple):
    """What something costs; NaN where that is not known."""

    operations: float
    seconds: float

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(self.operations + other.operations, self.seconds + other.seconds)


class SpeedUp(NamedTuple):
    """How many times as much training costs; NaN where that is not known."""

    alone: float
    """As the estimate."""
    with_meta: float
    """As the estimate with what comes before it (`CostResult.before`)."""


class EstimateCount(Record, frozen=True, kw_only=True):
    """Operations of the estimate with one projection."""

    projection: str
    dim: int
    features: float
    features_to_select: float
    """Those by which groups are selected."""
    statistics: Number
    """Quadratic models of the tasks; None where solver or score can't be counted, and so below."""
    solve: Number
    scores: Number

    @property
    def name(self) -> str:
        """Projection and dimension."""
        return f"{self.projection}, {self.dim}"


class TrainingCount(Record, frozen=True, kw_only=True):
    """How policies are trained in the run."""

    policies: int
    updates: float
    """Of each, on average (subsets may differ in size)."""
    steps_per_update: int
    operations_per_update: Number
    """None where environments are on the host."""


class TimedEstimate(Record, frozen=True, kw_only=True):
    """Seconds of repeated calls, of the estimate with one projection."""

    features: list[float]
    features_to_select: list[float]
    surrogates_and_scores: list[float]


class TimedTraining(Record, frozen=True, kw_only=True):
    """Seconds of repeated calls that train some policies."""

    policies: int
    short: list[float]
    """For the smaller number of updates."""
    long: list[float]


class CostTimings(Record, frozen=True, kw_only=True):
    """All that may differ between equal runs."""

    clock: str
    """A name of `CLOCKS`."""
    estimates: list[TimedEstimate]
    """As ``CostResult.estimates``."""
    affinity: list[float]
    grouping: list[float]
    """The selection of groups."""
    collecting: list[float]
    """At one look."""
    training: dict[str, TimedTraining]
    """"side by side", "one after another", and "meta" of theta*."""


class CostResult(Record, frozen=True, kw_only=True):
    """What ``analysis/cost.json`` holds."""

    schema_version: int = 1
    family: str
    platform: str
    parameters: int
    """Of the actor."""
    subsets: int
    sizes: tuple[int, int]
    """Tasks of the smallest subset, and of the largest."""
    transitions: int
    """Of all sources."""
    updates: tuple[int, int]
    """That were timed."""
    estimates: list[EstimateCount]
    """The run's own projection first."""
    training: TrainingCount
    """A policy for every subset."""
    meta: TrainingCount
    """The meta-training up to the last look at theta*."""
    looks: int
    """Times that transitions were collected."""
    collecting_updates: float
    """Updates of the meta-training that have as many steps as were collected."""
    uncounted: list[str]
    """What operations are not known of, in words."""
    timings: CostTimings

    def estimate(self, which: int = 0, *, selecting: bool = False) -> Cost:
        """Of the estimate with one of the projections; with the selection of groups, if that is asked."""
        own, timed = self.estimates[which], self.timings.estimates[which]
        count = own.features + sum(map(as_float, (own.statistics, own.solve, own.scores)))
        steps = [timed.features, timed.surrogates_and_scores, self.timings.affinity]
        if selecting:
            count += own.features_to_select
            steps += [timed.features_to_select, self.timings.grouping]
        return Cost(count, sum(map(_median, steps)))

    def before(self, which: int = 0) -> Cost:
        """Of meta-training, collecting, and what earlier looks estimated and selected with one of the
        projections."""
        each = self.meta.operations_per_update
        count = (self.meta.updates + self.collecting_updates) * as_float(each)
        spent = self.meta.updates * self.update_seconds(META) if self.meta.updates else 0.0
        found = Cost(count, spent + self.looks * _median(self.timings.collecting))
        for _ in range(self.looks - 1):
            found = found.plus(self.estimate(which, selecting=True))
        return found

    def train_all(self, way: str = SIDE_BY_SIDE) -> Cost:
        """Of training a policy for every subset, in one of the ways."""
        total = self.training.policies * self.training.updates
        each = as_float(self.training.operations_per_update)
        return Cost(total * each, total * self.update_seconds(way))

    def update_seconds(self, way: str) -> float:
        """Seconds of one more update of one policy; NaN where more updates took no longer."""
        (short, long), timed = self.updates, self.timings.training[way]
        more = _median(timed.long) - _median(timed.short)
        return more / (long - short) / timed.policies if more > 0 else math.nan

    def speed_ups(self, which: int = 0) -> dict[str, SpeedUp]:
        """By what is compared: "operations", and time in both ways of training."""
        own = self.estimate(which)
        both = own.plus(self.before(which))

        def of(way: str, what: str) -> SpeedUp:
            costs = (self.train_all(way), own, both)
            training, alone, with_meta = (getattr(cost, what) for cost in costs)
            return SpeedUp(training / alone, training / with_meta)

        times = {way: of(way, "seconds") for way in (SIDE_BY_SIDE, ONE_AFTER_ANOTHER)}
        return {"operations": of(SIDE_BY_SIDE, "operations"), **times}


def _median(seconds: Sequence[float]) -> float:
    return float(np.median(seconds))


def estimated_subsets(run: Subject) -> Bool[np.ndarray, "m n"]:
    """The subsets that a run estimates, or would if its affinity read any: bool [m, n].

    Raises:
        ConfigError: there is one task.
    """
    n, e = run.family.n, run.config.estimate
    if n < 2:
        raise ConfigError(f"{run.family.name!r} has {n} task: there are no subsets to estimate or to train")
    return estimate.make_subsets(run.config.stream("subsets"), n, e.subset_size, e.subsets, e.min_cover)


class Training(NamedTuple):
    """How policies of a kind are trained in a run."""

    learner: Learner
    member: Bool[np.ndarray, "R n"]
    """Those that may be timed, which have this learner."""
    updates: float
    """Of a policy, on average over all."""
    policies: int


def training_of(run: Subject, member: Bool[np.ndarray, "m n"]) -> Training:
    """Of the subsets, each with the budget of a group. The learner is that of the commonest size; updates are
    in units of its batch.

    Raises:
        ConfigError: a budget of less than an update.
    """
    n, config, rest = run.family.n, run.config, run.budget.rest()
    sizes = member.sum(1)
    learners = {s: suited(run.learner, s, s * rest // n, config.min_updates) for s in set(sizes.tolist())}
    units = {s: learner.steps_per_update for s, learner in learners.items()}
    if short := [s for s, unit in units.items() if s * rest // n < unit]:
        raise ConfigError(
            f"the run leaves a subset of {short[0]} task(s) {short[0] * rest // n} steps, less than an "
            f"update of {units[short[0]]}: there is no training to compare with"
        )
    ((usual, _),) = Counter(sizes.tolist()).most_common(1)
    steps = sum(s * rest // n // units[s] * units[s] for s in sizes.tolist())
    updates = steps / units[usual] / len(member)
    return Training(learners[usual], member[sizes == usual], updates, len(member))


def meta_training_of(run: Subject) -> Training:
    """Of theta*, up to the last look at it."""
    learner = replace(run.learner, num_envs=run.budget.meta_envs)  # type: ignore[type-var]
    updates = run.budget.meta // learner.steps_per_update
    return Training(learner, np.ones((1, run.family.n), bool), updates, 1)


def of_parts(transitions: Transitions, parts: Sequence[int]) -> Transitions:
    """Observations and actions of some parts of the data, as one source."""
    keep = np.isin(np.asarray(transitions.split), list(parts))
    obs, action = jax.tree.map(lambda x: np.asarray(x)[keep][None], (transitions.obs, transitions.action))
    return transitions._replace(obs=obs, action=action)


class Watch:
    """Times calls, and tells how many environment steps of training are done."""

    def __init__(self, clock: str, repeats: int, progress: Progress | None):
        self.now, self.repeats, self.progress = CLOCKS[clock], repeats, progress
        self.done, self.total = 0, 0

    def calls(self, function: Callable[[], Any], repeats: int | None = None) -> tuple[list[float], Any]:
        """Seconds of repeated calls after one that compiles, and what the last one returned."""
        out = jax.block_until_ready(function())
        seconds = []
        for _ in range(self.repeats if repeats is None else repeats):
            began = self.now()
            out = jax.block_until_ready(function())
            seconds.append(self.now() - began)
        return seconds, out

    def trained(self, steps: int) -> None:
        """Tell that so many steps more are done."""
        self.done += steps
        if self.progress is not None:
            self.progress(self.done, self.total, math.nan)


class Calls(NamedTuple):
    """A way of training policies, call by call."""

    training: Training
    members: list[Bool[np.ndarray, "R n"]]
    """Of every call."""

    @property
    def policies(self) -> int:
        """Of all calls."""
        return sum(map(len, self.members))

    def steps(self, updates: int) -> int:
        """Environment steps of all calls."""
        return updates * self.policies * self.training.learner.steps_per_update


def train(run: Subject, calls: Calls, updates: int) -> None:
    """Train policies from theta* and its critic for so many updates."""
    learner = calls.training.learner
    for member in calls.members:
        keys = row_keys(run.config.stream("rows"), member)
        steps = np.full(len(member), updates * learner.steps_per_update)
        rows = Rows(member, steps, keys, learn.stack([run.meta] * len(member)))
        learn.train(run.policy, learner, run.family, rows, rows_per_call=run.config.rows_per_call)


def calls_of(run: Subject, subsets: Training, meta: Training, settings: CostConfig) -> dict[str, Calls]:
    """What is trained to be timed, by its name."""
    known = len(subsets.member)
    lanes, width = learn.lanes_of(run.family, known, run.config.rows_per_call)
    most = min(known, settings.rows or max(LEAST_ROWS, lanes * width))
    return {
        SIDE_BY_SIDE: Calls(subsets, [subsets.member[:most]]),
        ONE_AFTER_ANOTHER: Calls(subsets, [row[None] for row in subsets.member[: settings.alone]]),
        META: Calls(meta, [meta.member]),
    }


def time_training(
    run: Subject, ways: Mapping[str, Calls], settings: CostConfig, watch: Watch
) -> dict[str, TimedTraining]:
    """Seconds of both lengths of every way."""
    lengths = settings.updates
    watch.total = sum(x.steps(1) + settings.repeats * sum(map(x.steps, lengths)) for x in ways.values())
    found = {}
    for name, calls in ways.items():
        train(run, calls, 1)  # compiles
        watch.trained(calls.steps(1))
        seconds: dict[int, list[float]] = {length: [] for length in lengths}
        for length in lengths:
            for _ in range(settings.repeats):
                began = watch.now()
                train(run, calls, length)
                seconds[length].append(watch.now() - began)
                watch.trained(calls.steps(length))
        short, long = (seconds[length] for length in lengths)
        found[name] = TimedTraining(policies=calls.policies, short=short, long=long)
    return found


def score(run: Subject, feats: Features, member: Bool[np.ndarray, "m n"]) -> pipeline.Scored:
    """Solve and score all subsets, as the run does."""
    return pipeline.score_subsets(
        feats, run.transitions, member, run.config.estimate, names=run.family.task_names,
        log_prob=run.policy.log_prob, params=learn.policy_params(run.meta),
        roll_out=pipeline.make_roll_out(run.policy, run.family, run.meta, run.config),
    )  # fmt: skip


def features_of(run: Subject, way: tuple[str, int], parts: Sequence[int]) -> Features:
    """Features of some parts of the run's data, as one source, by a projection of so many dimensions."""
    some, e, params = of_parts(run.transitions, parts), run.config.estimate, learn.policy_params(run.meta)
    projection, dim = way
    return estimate.gradient_features(
        run.policy.log_prob, params, some, run.features.key, dim,
        precision=e.precision, private=run.features.private, projection=projection,
    )  # fmt: skip


def time_estimate(
    run: Subject, way: tuple[str, int], feats: Features, member: Bool[np.ndarray, "m n"], watch: Watch
) -> tuple[TimedEstimate, Scores]:
    """Seconds of the estimate by one projection, and its scores."""
    seconds, scored = watch.calls(lambda: score(run, feats, member))
    timed = TimedEstimate(
        features=watch.calls(lambda: features_of(run, way, ESTIMATED))[0],
        features_to_select=watch.calls(lambda: features_of(run, way, SELECTING))[0],
        surrogates_and_scores=seconds,
    )
    return timed, scored.scores


def time_rest(run: Subject, scores: Scores, watch: Watch) -> tuple[list[float], list[float], list[float]]:
    """Seconds of affinity and grouping, which follow from the scores, and of collecting."""
    n, e, names = run.family.n, run.config.estimate, run.family.task_names
    kind = e.affinity_of(n) if e.reads_scores(n) else "per_task"
    affinity, matrix = watch.calls(lambda: estimate.affinity(scores, kind))
    grouping, _ = watch.calls(
        lambda: pipeline.choose_groups(
            matrix, run.held_out.afresh(), run.config, k=run.config.k, names=names
        ),
        repeats=1,
    )
    collecting, _ = watch.calls(
        lambda: pipeline.collect(run.policy, run.learner, run.family, run.config, run.meta)
    )
    return affinity, grouping, collecting


def clock_of(run: Subject, settings: CostConfig) -> str:
    """The name of the clock.

    Raises:
        ConfigError: the processor's time is asked for, and something else does the work.
    """
    alone = jax.default_backend() == "cpu" and run.family.engine == "device"
    if settings.clock == "processor" and jax.default_backend() != "cpu":
        raise ConfigError("clock = 'processor' does not tell what an accelerator takes; use 'wall'")
    return settings.clock or ("processor" if alone else "wall")


def features_by(run: Subject, projection: str, dim: int) -> Features:
    """The run's features by any projection."""
    config = override(run.config, {"estimate.projection": projection, "estimate.dim": dim})
    return Theta(run).data(Variant(config))[1]


def estimation_cost(
    run: Subject, settings: CostConfig | None = None, *, progress: Progress | None = None
) -> CostResult:
    """Costs of the estimate of all subsets and of training a policy for each (see the head of this module).

    Args:
        run: its theta*, transitions and features are read, and its family is trained on.
        settings: defaults if not given.
        progress: hears of the training.

    Raises:
        ConfigError: settings that cannot work, or a run with one task.
        DataError: training was not finite.
    """
    settings = settings or CostConfig()
    settings.check()
    member, e = estimated_subsets(run), run.config.estimate
    watch = Watch(clock := clock_of(run, settings), settings.repeats, progress)
    subsets, meta = training_of(run, member), meta_training_of(run)
    ways = list(dict.fromkeys([(e.projection, e.dim), *settings.also]))
    known = [features_by(run, *way) for way in ways]
    counted = [_counted(run, way, feats, member) for way, feats in zip(ways, known, strict=True)]
    trained = time_training(run, calls_of(run, subsets, meta, settings), settings, watch)
    estimated = [time_estimate(run, *pair, member, watch) for pair in zip(ways, known, strict=True)]
    affinity, choosing, collecting = time_rest(run, estimated[0][1], watch)
    training, of_meta, sizes = _trained(run, subsets), _trained(run, meta), member.sum(1)
    return CostResult(
        family=run.family.name,
        platform=jax.default_backend(),
        parameters=parameter_count(learn.policy_params(run.meta)),
        subsets=len(member),
        sizes=(int(sizes.min()), int(sizes.max())),
        transitions=int(np.size(run.transitions.split)),
        updates=settings.updates,
        estimates=counted,
        training=training,
        meta=of_meta,
        looks=run.budget.look,
        collecting_updates=run.budget.collect / of_meta.steps_per_update,
        uncounted=_uncounted(e, counted, training),
        timings=CostTimings(
            clock=clock,
            estimates=[timed for timed, _ in estimated],
            affinity=affinity,
            grouping=choosing,
            collecting=collecting,
            training=trained,
        ),
    )


def _counted(
    run: Subject, way: tuple[str, int], feats: Features, member: Bool[np.ndarray, "m n"]
) -> EstimateCount:
    """The record of what the estimate by one projection counts."""
    features, to_select = (
        count_features(run, of_parts(run.transitions, parts), *way) for parts in (ESTIMATED, SELECTING)
    )
    unknown: dict[str, Number] = dict.fromkeys(("statistics", "solve", "scores"))
    solved = count_surrogates(run, feats, member) or unknown
    projection, dim = way
    return EstimateCount(
        projection=projection, dim=dim, features=features, features_to_select=to_select, **solved
    )


def _trained(run: Subject, training: Training) -> TrainingCount:
    """The record of how policies are trained."""
    return TrainingCount(
        policies=training.policies,
        updates=training.updates,
        steps_per_update=training.learner.steps_per_update,
        operations_per_update=count_update(run, training.learner, training.member[0]),
    )


def _uncounted(e: EstimateConfig, counted: Sequence[EstimateCount], training: TrainingCount) -> list[str]:
    """Why some operations are not known, in words."""
    traced = estimate.SCORES[e.score].program is not None
    what = f"the solver {e.solver!r}" if traced else f"the score {e.score!r}"
    reasons = {
        "the environments are on the host": training.operations_per_update,
        f"{what} is not traced": counted[0].solve,
    }
    return [reason for reason, known in reasons.items() if known is None]
