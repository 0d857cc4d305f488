"""Adapting a saved run to tasks that it has not seen: its policies as starts, and one task by `adapt`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from msgspec import Struct

from pgx_jax import learn
from pgx_jax.compare.adapting import (
    Done,
    Entrant,
    Job,
    Tuning,
    adapt_and_judge,
    check_adapting,
    choose,
    chosen_start,
    jobs_of,
    stream,
)
from pgx_jax.compare.finding import FINDERS, NONE, Found
from pgx_jax.compare.methods import Method
from pgx_jax.compare.pool import Pool, Row
from pgx_jax.compare.results import OURS, Interval, to_plain
from pgx_jax.compare.summaries import stratified
from pgx_jax.compare.unknown import Arena, Start, joined, likeliest_group, sampled, widened
from pgx_jax.errors import ConfigError, DataError, checked, pick
from pgx_jax.learn import Policy
from pgx_jax.runs.run import Run
from pgx_jax.runs.saved import load
from pgx_jax.types import PyTree

TEST_TASKS = 50
"""Unseen tasks that are drawn, as in the paper."""


def arena_of(run: Run, tasks: PyTree, names: Sequence[str]) -> Arena:
    """A finished run's tasks with U unseen ones behind them.

    Args:
        run: its meta-policy, transitions and features are read.
        tasks: parameters, every leaf with a leading axis U.
        names: U names.
    """
    n, count = run.family.n, len(names)
    everything = np.ones(n, bool)
    meta = Start(
        "meta", widened(run.meta, everything, count), everything, learner=run.config.learner,
        told=0 if run.policy.conditioned_actor else None,
    )  # fmt: skip
    return Arena(
        joined(run.family, tasks, names), n, run.policies_by_name, run.learners, run.config, meta,
        run.transitions, run.features,
    )  # fmt: skip


def starts_of(method: Method, pool: Pool, count: int, policies: Mapping[str, Policy]) -> tuple[Start, ...]:
    """The policies of a method, in the order of its groups; one that is told its task stands there with each
    of its tasks, as which of them serves an unseen one is to be found (as `compare.unseen` does).

    Args:
        method, pool: whose policies, and all there are.
        count: of unseen tasks.
        policies: networks by name.
    """

    def starts(row: Row) -> list[Start]:
        member = np.array(row.member)
        start = Start(row, widened(pool.agent(row), member, count), member, row.policy, row.learner)
        if not policies[row.policy].conditioned_actor:
            return [start]
        return [start._replace(key=(row, task), told=task) for task in np.flatnonzero(member).tolist()]

    return tuple(start for row in method.rows for start in starts(row))


def entrants_of(
    run: Run, arena: Arena, methods: Sequence[str] | None = None, finders: Sequence[str] = tuple(FINDERS)
) -> dict[str, Entrant]:
    """What a run has to adapt: theta* ("meta"), a policy at random ("fresh"), and the methods of the run,
    those of several policies with every finder ("policygradex/rewards"); in "true_groups/told" every task is
    told its group, by its parameters.

    Args:
        run: a finished run.
        arena: of the same run.
        methods: names of methods to take; those that the run lacks are left out. All by default.
        finders: names of `FINDERS`.
    """
    others = run.baselines()
    pool = run.trained().joined(run.comparisons) if others else run.policies
    known: Mapping[str, Method] = {OURS: run.ours()} | {name: several[0] for name, several in others.items()}
    count = len(arena.unseen)
    key = np.asarray(stream(run.config, "fresh"))
    fresh = learn.take(learn.init_agents(run.policy, arena.family, key[None]), 0)
    found = {
        "meta": Entrant((arena.meta,)),
        "fresh": Entrant((arena.meta._replace(key="fresh", agent=fresh),)),
    }
    for name, method in known.items():
        if methods is not None and name not in methods:
            continue
        starts = starts_of(method, pool, count, arena.policies)
        if len(starts) == 1:
            found[name] = Entrant(starts)
            continue
        found |= {f"{name}/{finder}": Entrant(starts, finder) for finder in finders}
        if name.startswith("true_groups") and len(starts) == len(method.rows):
            tasks = jax.tree.map(lambda x: x[arena.n :], arena.family.tasks)
            found[f"{name}/told"] = Entrant(
                starts, assigned=likeliest_group(run.family, method.labels, tasks)
            )
    return found


class TriedPolicy(Struct, frozen=True, kw_only=True):
    """What a task has found about a policy."""

    tasks: list[str]
    """Known tasks that it was trained on; all of theta*."""
    told: str | None = None
    """The one of them that it was told to be on, if it is told its task."""
    value: float | None
    """By which the finder compares; None if it was not tried."""
    stderr: float | None
    chosen: bool


class AdaptedTask(Struct, frozen=True, kw_only=True):
    """One unseen task, and the policy that adapted to it."""

    task: str
    finder: str
    group: list[str] | None
    """Known tasks of the group that it found; None where none suits it, and it went on from theta*."""
    tried: list[TriedPolicy]
    """What it has found about the policy of every group, and theta* (last); empty where there was nothing to
    choose."""
    metric: str
    before: Interval
    """Of the policy that it began from, on fresh episodes (which are no adaptation steps), with a 95%
    interval over episodes."""
    after: Interval
    """Of the adapted policy, on the same episodes."""
    finding_steps: int
    """Environment steps that finding the policy took."""
    steps: int
    """All environment steps of the adaptation."""
    cut: bool
    """Whether fewer were allowed than an episode may have."""
    policy: str
    """Name of its networks (`Run.policies_by_name`)."""
    context: list[float]
    """What policy and critic are told of the task."""
    told: str | None = None
    """The known task whose context this is; None if the policy is not told its task."""
    stage: str | None
    """Where the run's folder has the policy (`RunStore.load`); None without a folder."""


@checked
def adapt(
    run: Run | str | Path,
    task: int | PyTree,
    *,
    steps: int = 200,
    finder: str = "rewards",
    seed: int | None = None,
    name: str | None = None,
    tuning: Tuning | None = None,
) -> AdaptedTask:
    """Adapt a run's group policies to a task that it has not seen, and save the policy in the run's folder
    (``run.store.load(found.stage, Agent)``, for ``run.policies_by_name[found.policy]``). What an earlier call
    with the same task, steps and finder left there is replaced.

    Args:
        run: a finished run, or its folder.
        task: number of a task of the family's sampler (0 to 49), or parameters of one's own, as
            ``family.tasks`` without their leading axis.
        steps: environment steps that may be taken on the task. All of them find the policy where less than an
            episode would be left to train on.
        finder: how it finds its group, a name of `compare.finding.FINDERS`.
        seed: of the sampler; the run's own by default.
        name: of the task in the folder; by default its number, or "own" and some letters that its parameters
            make.
        tuning: how the steps are used.

    Raises:
        ConfigError: no such task, a family without a sampler, or settings that cannot work.
        DataError: the adaptation was not finite.
    """
    pick(FINDERS, finder, "finder")
    run, tuning = run if isinstance(run, Run) else load(run), tuning or Tuning()
    tasks, called = _task(run, task, seed, name)
    stage = f"adapted-{called}-{steps}-{finder}"
    if run.store is not None:
        run.store.has(stage)  # refuses what cannot name a file, before any work
    arena = arena_of(run, tasks, [called])
    entrant = Entrant(starts_of(run.ours(), run.policies, 1, arena.policies), finder)
    check_adapting(arena, {OURS: entrant}, [steps], tuning)
    found = choose(arena, entrant, steps, tuning)
    chosen = chosen_start(arena, entrant, found, 0)
    jobs = [Job(chosen, arena.n, 0), *jobs_of(arena, entrant, found, steps)]
    done = adapt_and_judge(arena, jobs, tuning)
    before, after = (done[job.key] for job in jobs)
    if not (isinstance(before, Done) and isinstance(after, Done)):
        raise DataError(f"adapting to {called!r}: {before if isinstance(before, str) else after}")
    saved = None if run.store is None else stage
    adapted = _record(run, arena, entrant, found, before, after, steps, saved)
    if run.store is not None:
        run.store.save(stage, after.agent)
        run.store.write_json(f"{stage}.json", to_plain(adapted))
    return adapted


def _record(
    run: Run,
    arena: Arena,
    entrant: Entrant,
    found: Found,
    before: Done,
    after: Done,
    steps: int,
    stage: str | None,
) -> AdaptedTask:
    """What came of the one unseen task of an arena."""
    (called,), names = arena.names, np.array(run.family.task_names)
    chosen, finding = chosen_start(arena, entrant, found, 0), int(found.steps[0])
    return AdaptedTask(
        task=called,
        finder=entrant.finder or "",
        group=None if chosen is arena.meta else names[chosen.member].tolist(),
        tried=_tried(found, (*entrant.starts, arena.meta), names),
        metric=run.family.metric,
        before=stratified(before.judged[None]),
        after=stratified(after.judged[None]),
        finding_steps=finding,
        steps=finding + after.steps,
        cut=0 < steps < run.family.horizon,
        policy=chosen.policy,
        context=arena.told(chosen).tolist(),
        told=None if chosen.told is None else run.family.task_names[chosen.told],
        stage=stage,
    )


def _task(run: Run, task: int | PyTree, seed: int | None, name: str | None) -> tuple[PyTree, str]:
    """Parameters of a task, every leaf with a leading axis of 1, and its name."""
    if not isinstance(task, int | np.integer):
        return jax.tree.map(lambda x: np.asarray(x)[None], task), name or f"own-{_digest(task)}"
    if not 0 <= task < TEST_TASKS:
        raise ConfigError(f"there is no unseen task {task}; their numbers are 0 to {TEST_TASKS - 1}")
    seed = run.config.seed if seed is None else seed
    tasks = sampled(run.family, replace(run.config, seed=seed).stream("test_tasks"), TEST_TASKS)
    return jax.tree.map(lambda x: np.asarray(x)[task][None], tasks), name or f"unseen-{seed}-{task}"


def _digest(task: PyTree) -> str:
    """A few letters that equal parameters share, and others hardly ever."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(task)]
    numbers = [x.astype(np.float32) if x.dtype.kind == "f" else x for x in leaves]
    return hashlib.sha256(str([x.tolist() for x in numbers]).encode()).hexdigest()[:8]


def _tried(found: Found, arms: Sequence[Start], names: np.ndarray) -> list[TriedPolicy]:
    """What was found about every policy; nothing where nothing was asked."""
    value, stderr = found.value[0], found.stderr[0]
    if not np.isfinite(value).any():
        return []
    best = len(arms) - 1 if found.choice[0] == NONE else int(found.choice[0])
    return [
        TriedPolicy(
            tasks=names[arm.member].tolist(),
            value=_finite(x),
            stderr=_finite(s),
            chosen=i == best,
            told=None if arm.told is None else str(names[arm.told]),
        )  # fmt: skip
        for i, (arm, x, s) in enumerate(zip(arms, value, stderr, strict=True))
    ]


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None
