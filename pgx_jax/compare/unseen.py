"""The groups' policies on tasks that none of them has seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import UNSET, UnsetType

from pgx_jax import learn
from pgx_jax.compare.methods import Method
from pgx_jax.compare.pool import Pool, Row
from pgx_jax.compare.results import Interval, UnseenResult
from pgx_jax.compare.summaries import stratified
from pgx_jax.config import Config
from pgx_jax.learn import Evaluation, Learner, Policy
from pgx_jax.tasks import TaskFamily


def unseen_tasks(
    mine: Method,
    multitask: Method | None,
    pool: Pool,
    policies: Mapping[str, Policy],
    learners: Mapping[str, Learner],
    family: TaskFamily,
    config: Config,
) -> UnseenResult | None:
    """Try the group policies on unseen tasks; None where there are none, or policies are told their task.

    A new task finds its group by trial: every group's policy plays a few episodes on it, and the
    best mean return wins; it is then judged on fresh episodes. Where the learner adapts, it does so before
    the trial, and afresh before it is judged.
    """
    told = policies[mine.rows[0].policy].conditioned_actor
    if family.sample_test_tasks is None or config.test_tasks < 1 or told:
        return None
    count, k = config.test_tasks, len(mine.rows)
    tasks = family.sample_test_tasks(config.stream("test_tasks"), count)
    names = [f"unseen {i + 1}" for i in range(count)]

    def on_tests(rows: tuple[Row, ...], row: np.ndarray, name: str, episodes: int) -> Evaluation:
        first = rows[0]
        return learn.evaluate(
            policies[first.policy], family, learn.stack([pool.agent(r) for r in rows]), row,
            np.tile(np.arange(count), len(row) // count), config.stream(name), episodes=episodes,
            tasks=tasks, names=names, learner=learners[first.learner],
        )  # fmt: skip

    trial = on_tests(mine.rows, np.repeat(np.arange(k), count), "trial", config.trial_episodes)
    assigned = trial.returns.mean(1).reshape(k, count).argmax(0)
    final = on_tests(mine.rows, assigned, "evaluate", config.episodes)
    whole = stratified(final.judged_by(family.metric))
    base: Interval | UnsetType = UNSET
    if multitask is not None:
        played = on_tests(multitask.rows[:1], np.zeros(count, int), "evaluate", config.episodes)
        base = stratified(played.judged_by(family.metric))
    return UnseenResult(
        mean=whole.mean,
        ci95=whole.ci95,
        names=names,
        method=f"the best of the groups' policies in {config.trial_episodes} trial episodes each",
        assigned=assigned.tolist(),
        env_steps=int(trial.steps.sum() + trial.adaptation_steps.sum() + final.adaptation_steps.sum()),
        multitask=base,
    )
