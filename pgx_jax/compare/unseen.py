"""The groups' policies on tasks that none of them has seen."""

from __future__ import annotations

import numpy as np

from pgx_jax import learn
from pgx_jax.compare.methods import Method, Pool, stratified
from pgx_jax.config import Config
from pgx_jax.learn import Policy
from pgx_jax.streams import stream
from pgx_jax.tasks import TaskFamily


def unseen_tasks(
    mine: Method, multitask: Method | None, pool: Pool, policy: Policy, family: TaskFamily, config: Config
) -> dict | None:
    """Try the group policies on unseen tasks.

    A new task finds its group by trial: every group's policy plays a few episodes on it, and the
    best mean return wins; it is then judged on fresh episodes.
    """
    if family.sample_test_tasks is None or config.test_tasks < 1 or policy.conditioned_actor:
        return None
    count, k = config.test_tasks, len(mine.rows)
    tasks = family.sample_test_tasks(stream(config.seed, "test_tasks"), count)
    rows = list(mine.rows) + ([multitask.rows[0]] if multitask else [])
    names = [f"unseen {i + 1}" for i in range(count)]
    agents = learn.stack([pool.agents[pool.rows.index(row)] for row in rows])

    def on_tests(row, name, episodes):
        return learn.evaluate(
            policy, family, agents, row, np.tile(np.arange(count), len(row) // count),
            stream(config.seed, name), episodes=episodes, tasks=tasks, names=names,
        )  # fmt: skip

    trial = on_tests(np.repeat(np.arange(k), count), "trial", config.trial_episodes)
    assigned = trial.returns.mean(1).reshape(k, count).argmax(0)
    final = on_tests(assigned, "evaluate", config.episodes)
    metric = "success" if family.metric == "success" else "returns"
    out = stratified(np.asarray(getattr(final, metric), float)) | {
        "names": names,
        "method": f"the best of the groups' policies in {config.trial_episodes} trial episodes each",
        "assigned": assigned.tolist(),
        "env_steps": int(trial.steps.sum()),
    }
    if multitask:
        base = on_tests(np.full(count, k), "evaluate", config.episodes)
        out["multitask"] = stratified(np.asarray(getattr(base, metric), float))
    return out
