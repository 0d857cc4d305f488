"""What a run would train, and how long and with how much memory, before it does: from the rule of comparison,
and from a few updates that are timed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from pgx_jax import learn
from pgx_jax.compare import methods, oracle
from pgx_jax.compare.budget import suited
from pgx_jax.compare.methods import Contest
from pgx_jax.compare.pool import BASE, Row, places, program
from pgx_jax.config import Config, config_for
from pgx_jax.errors import ConfigError, checked
from pgx_jax.report import wording
from pgx_jax.runs.programs import keep_programs
from pgx_jax.runs.records import Records
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family

try:
    import resource
except ImportError:  # nobody tells this on Windows
    resource = None  # type: ignore[assignment]


class OfProgram(NamedTuple):
    """Policies that one program trains in a stage."""

    program: Row
    """What they have in common (`compare.pool.program`)."""
    updates: tuple[int, ...]
    """Of each."""
    seconds: float = float("nan")
    """Expected, for all of them."""
    first: float = 0.0
    """Seconds of the first update, most of which compiled the program; 0 where it was timed before."""


@dataclass(frozen=True)
class Planned:
    """A stage that trains or collects."""

    stage: str
    policies: int
    steps: int
    """Environment steps, of all seeds."""
    rows: tuple[OfProgram, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Expected, compiling left out; None of what is not timed."""
        return sum(rows.seconds for rows in self.rows) if self.rows else None

    def times(self, seeds: int) -> Planned:
        """The same of several seeds."""
        rows = tuple(each._replace(updates=each.updates * seeds) for each in self.rows)
        return Planned(self.stage, self.policies * seeds, self.steps * seeds, rows)


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    family: str
    n_tasks: int
    seeds: int
    k: int
    """Number of groups that is assumed (or given)."""
    stages: tuple[Planned, ...]
    total: int
    """Environment steps of every method and seed."""
    most: int
    """All environment steps of training, where no two methods have a policy in common."""
    evaluation: int
    """Environment steps of the evaluation, at most."""
    memory: int | None
    """Bytes that this process has taken up to the end of the timing; None where the system does not tell."""
    device_memory: int | None
    """Bytes of an accelerator, at most until then; None on the CPU."""
    estimate: int
    """Bytes that the estimate will hold."""

    @property
    def seconds(self) -> float:
        """Expected time of all training."""
        return sum(stage.seconds or 0.0 for stage in self.stages)

    @property
    def evaluating(self) -> float:
        """Seconds of the evaluation, if its steps, of which nothing is learnt, take as long as those of
        training."""
        trained = sum(stage.steps for stage in self.stages if stage.rows)
        return self.seconds * self.evaluation / trained if trained else 0.0

    @property
    def compiling(self) -> float:
        """Seconds of first updates: most of it compiled programs, which later runs find compiled."""
        return sum(rows.first for stage in self.stages for rows in stage.rows)

    def __str__(self) -> str:
        lines = [f"{stage.stage}: {self._line(stage)}" for stage in self.stages]
        return "\n".join((*lines, *self.words()))

    def _line(self, stage: Planned) -> str:
        parts = [f"{stage.policies} polic{'y' if stage.policies == 1 else 'ies'}"] if stage.policies else []
        parts += [f"{stage.steps:,} steps"]
        timed = stage.seconds is not None and stage.seconds == stage.seconds
        parts += [wording.duration(stage.seconds)] if timed else []  # type: ignore[arg-type]
        return ", ".join(parts)

    def words(self) -> list[str]:
        """What the table of the stages leaves out, in sentences."""
        groups = f"{self.k} group{'s' if self.k > 1 else ''}"
        several = f", {self.seeds} seeds side by side" if self.seeds > 1 else ""
        taken = f"{_size(self.memory)} up to here, " if self.memory else ""
        device = f"{_size(self.device_memory)} of the accelerator, " if self.device_memory else ""
        told = [
            f"assumed: {groups}, found at the first look, and by all similarities; at most {self.most:,} "
            f"steps are trained",
            f"on top: the estimate, up to {self.evaluation:,} steps of evaluation, and the report",
        ]
        if self.seconds != self.seconds:
            return told
        return [
            f"training: about {wording.duration(self.seconds)}{several}, by updates that were timed; "
            f"evaluation: {wording.duration(self.evaluating)}, were its steps as slow",
            f"compiling: {wording.duration(self.compiling)} here; a run finds these programs compiled, where "
            f"they are kept",
            *told,
            f"memory: {taken}{device}{_size(self.estimate)} for the estimate",
        ]


@checked
def plan(
    family: TaskFamily | str,
    config: Config | None = None,
    *,
    seeds: int = 1,
    labels: Sequence[int] | None = None,
    timed: bool = True,
    doing: Callable[[str], None] | None = None,
    **own: Any,
) -> Plan:
    """What a run would train, and how long it would take: an update of every program is timed. Nothing is
    saved.

    Args:
        family: a task family, or the name of a registered one.
        config: settings; those of `config_for(family)` by default.
        seeds: training seeds that are run side by side.
        labels: int [n], the groups that are assumed; of equal sizes by default, two where their number is
            not given.
        timed: whether to time updates; without, all times are unknown.
        doing: hears what is timed.
        own: ``policy``, ``policies``, ``learners``, as of `run`.

    Raises:
        ConfigError: settings that cannot work.
    """
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds} must be at least 1")
    family = make_family(family) if isinstance(family, str) else family
    run = Records(family, config_for(family) if config is None else config, **own)
    groups = _assumed(run) if labels is None else np.asarray(labels)
    if groups.shape != (family.n,) or groups.dtype.kind not in "iu" or groups.min() < 0:
        raise ConfigError(f"labels must be a whole number from 0 on for each of {family.n} tasks: {labels}")
    stages = [stage.times(seeds) for stage in _stages(run, groups)]
    if timed:
        if run.config.keep_programs:
            keep_programs()
        stages = _timed(run, stages, doing or (lambda what: None))
    contest, budget, e = run.assumed(groups), run.budget, run.config.estimate
    return Plan(
        family=family.name,
        n_tasks=family.n,
        seeds=seeds,
        k=int(groups.max()) + 1,
        stages=tuple(stages),
        total=budget.total,
        most=run.most_steps(contest) * seeds,
        evaluation=_evaluation(run, contest) * seeds,
        memory=_taken(),
        device_memory=_taken_on_device(),
        estimate=8 * budget.collect_once * e.dim + 20 * family.n * e.dim**2,
    )


def _assumed(run: Records) -> np.ndarray:
    """int [n]: groups of equal sizes; two where their number is not given."""
    return np.arange(run.family.n) % (run.config.k or min(2, run.family.n))


def _evaluation(run: Records, contest: Contest) -> int:
    """Environment steps of the evaluation, where all its episodes are as long as may be."""
    played = len(methods.baselines(contest)) + 1
    return played * run.family.n * run.config.episodes * run.family.horizon


def expected_steps(run: Records) -> int:
    """About how many environment steps a run takes, its evaluation among them, where the first look leads to
    the groups that `plan` assumes; 0 where it can't be told."""
    labels = _assumed(run)
    contest = run.assumed(labels)
    if not run.most_steps(contest):
        return 0
    return sum(stage.steps for stage in _stages(run, labels)) + _evaluation(run, contest)


def _stages(run: Records, labels: np.ndarray) -> list[Planned]:
    """What is trained and collected where the first look leads to these groups."""
    config, budget, family = run.config, run.spends.at(1), run.family
    contest = run.assumed(labels)
    everybody = (True,) * family.n
    meta = Row(everybody, budget.meta, False, BASE, config.learner, budget.meta_envs)
    found = [Planned("demonstrations", 0, budget.demonstrated)] if budget.demonstrated else []
    found += [] if run.own_meta is not None else [_planned(run, "meta", [meta])]
    found.append(Planned("transitions", 0, budget.collect_once))
    mine = methods.ours(contest).rows
    found.append(_planned(run, "policies", mine))
    if not methods.BASELINES[config.compare]:
        return found
    others = dict.fromkeys(
        row for made in methods.baselines(contest).values() for m in made for row in m.rows
    )
    if methods.clusters(config) and (clustered := _clustering(run, labels)):
        found.append(_planned(run, "clustering", clustered))
    if searched := oracle.planned(contest):
        found.append(_planned(run, "oracle", searched))
    return [*found, _planned(run, "comparisons", [row for row in others if row not in {*mine, *searched}])]


def _clustering(run: Records, labels: np.ndarray) -> list[Row]:
    """About what clustering on returns trains, with our number of policies and the planted one: all of the
    total, of which its evaluations take a part."""
    rows: list[Row] = []
    for k in methods.clustered_at(run.config, int(labels.max()) + 1, methods.planted(run.family.true_groups)):
        learner = suited(run.learner, run.family.n, run.spends.total / k, run.config.min_updates)
        steps = run.spends.total // k // learner.steps_per_update * learner.steps_per_update
        row = Row((True,) * run.family.n, steps, False, BASE, run.config.learner, learner.num_envs)
        rows += [row] * k if steps else []
    return rows


def _planned(run: Records, stage: str, rows: Sequence[Row]) -> Planned:
    """A stage that trains some rows."""
    kinds = {
        kind: [rows[i].steps // rows[i].trained_by(run.learners).steps_per_update for i in index]
        for kind, index in places(rows, program).items()
    }
    parts = tuple(OfProgram(kind, tuple(updates)) for kind, updates in kinds.items())
    return Planned(stage, len(rows), sum(row.steps for row in rows), parts)


def _timed(run: Records, stages: Sequence[Planned], doing: Callable[[str], None]) -> list[Planned]:
    """The stages with what they are expected to take."""
    known: dict[tuple[str, str, int, int], tuple[float, float]] = {}

    def timed(rows: OfProgram) -> OfProgram:
        policy, learner = run.policies_by_name[rows.program.policy], rows.program.trained_by(run.learners)
        lanes, width = learn.lanes_of(run.family, len(rows.updates), run.config.rows_per_call)
        key = rows.program.policy, rows.program.learner, learner.num_envs, width
        new = key not in known
        if new:
            kind = f"{rows.program.policy} by {rows.program.learner}"
            doing(f"an update of {width} × {kind}, {learner.num_envs} environments")
            known[key] = learn.time_update(policy, learner, run.family, width)
        first, each = known[key]
        turns = max(max(rows.updates), sum(rows.updates) / (width * min(lanes, len(rows.updates))))
        return rows._replace(seconds=turns * each, first=first if new else 0.0)

    return [replace(stage, rows=tuple(map(timed, stage.rows))) for stage in stages]


def _taken() -> int | None:
    """Bytes of memory that this process has had, at most; None where the system does not tell."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _taken_on_device() -> int | None:
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("peak_bytes_in_use")


def _size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
