"""Every method judged: its policies play the same episodes, and its entry of the results is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from msgspec import UNSET

from pgx_jax import learn
from pgx_jax.compare.methods import Method, distinct
from pgx_jax.compare.pool import Pool, Row, places
from pgx_jax.compare.results import Draw, Interval, MethodResult
from pgx_jax.compare.summaries import by_task, failed_tasks, summarise
from pgx_jax.config import Config
from pgx_jax.learn import Learner, Policy
from pgx_jax.tasks import TaskFamily


class Played(NamedTuple):
    """Episodes of every pooled row on its tasks: (row, task) -> values [episodes]."""

    values: dict[tuple[Row, int], Float[np.ndarray, "episodes"]]
    steps: int = 0
    """Environment steps that they took, adapting included."""
    at_end: Mapping[tuple[Row, int], float] = {}
    """Part of the episodes that end in success, of families that are judged by success in any step."""

    def ends(self, m: Method) -> Float[np.ndarray, "n"]:
        """`at_end` [n] of a method."""
        return np.array([self.at_end[m.rows[g], task] for task, g in enumerate(m.labels)])

    def of(self, m: Method) -> Float[np.ndarray, "n episodes"]:
        """Episodes [n, episodes] of a method: every task by its own policy."""
        return np.stack([self.values[m.rows[g], task] for task, g in enumerate(m.labels)])


def play(
    pool: Pool,
    policies: Mapping[str, Policy],
    learners: Mapping[str, Learner],
    family: TaskFamily,
    config: Config,
    stream: str = "evaluate",
) -> Played:
    """Evaluate every row on its own tasks, with the same episodes (those of a stream) for all of them.

    Policies whose learner adapts do so on every task first, at the price that their methods have paid.
    """
    values: dict[tuple[Row, int], np.ndarray] = {}
    at_end: dict[tuple[Row, int], float] = {}
    steps = 0
    for (policy, learner), index in places(pool.rows, lambda row: (row.policy, row.learner)).items():
        some = [pool.rows[i] for i in index]
        agents = learn.stack([pool.agents[i] for i in index])
        row, task = np.nonzero(np.array([r.member for r in some]))
        played = learn.evaluate(
            policies[policy], family, agents, row, task, config.stream(stream),
            episodes=config.episodes, learner=learners[learner],
        )  # fmt: skip
        judged = played.judged_by(family.metric)
        steps += int(played.steps.sum() + played.adaptation_steps.sum())
        pairs = [(some[r], int(t)) for r, t in zip(row, task, strict=True)]
        values |= dict(zip(pairs, judged, strict=True))
        if family.metric == "success":
            at_end |= dict(zip(pairs, played.success_at_end.mean(1).tolist(), strict=True))
    return Played(values, steps, at_end)


def difference(mine: Method, methods: Sequence[Method], played: Played) -> Interval:
    """Ours minus a method (one or several draws), paired by tasks and episodes.

    All methods play the same episodes, so that their noise is in the differences once; the interval is
    that of `summaries.stratified`, or of `summaries.over_draws` for several draws.
    """
    return summarise([played.of(mine) - played.of(m) for m in distinct(methods)])


def method_result(
    methods: Sequence[Method], played: Played, family: TaskFamily, mine: Method | None = None
) -> MethodResult:
    """The entry of one method (one or several draws); ``mine`` is ours, unless the method is it."""
    draws = distinct(methods)
    first, episodes = draws[0], [played.of(m) for m in draws]
    named, whole = [named_groups(m.labels, family.task_names) for m in draws], summarise(episodes)
    ends = [played.ends(m) for m in draws if played.at_end]
    several = [Draw(g, float(x.mean())) for g, x in zip(named, episodes, strict=True)]
    lost = failed_tasks(np.stack(episodes))
    failed = f"adapting failed on {', '.join(family.task_names[i] for i in lost)}" if lost else None
    return MethodResult(
        mean=whole.mean,
        ci95=whole.ci95,
        groups=named[0],
        metric=family.metric,
        per_task=np.mean([x.mean(1) for x in episodes], axis=0).tolist(),
        per_task_ci95=by_task(episodes[0]) if len(episodes) == 1 and episodes[0].shape[1] > 1 else UNSET,
        at_end=np.mean(ends, axis=0).tolist() if ends else UNSET,
        env_steps=int(np.mean([m.env_steps for m in draws])),
        equal_steps=first.equal_steps,
        draws=several if len(several) > 1 else UNSET,
        label=first.label or UNSET,
        note="; ".join(filter(None, (first.note, failed))) or UNSET,
        start="demonstration-initialised" if first.demonstrated else UNSET,
        same_as=first.same_as or UNSET,
        difference=difference(mine, methods, played) if mine is not None else UNSET,
    )


def named_groups(labels: Int[np.ndarray, "n"], names: Sequence[str]) -> list[list[str]]:
    """The groups as lists of task names."""
    return [[names[i] for i in np.flatnonzero(labels == g).tolist()] for g in range(labels.max() + 1)]
