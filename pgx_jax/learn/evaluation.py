"""Returns and success of a set of policies on a set of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import DataError
from pgx_jax.learn.host import lane as host
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import reset_slots, unroll
from pgx_jax.learn.work import take
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree

PAIRS_PER_CALL = {"cpu": 16, "gpu": 1024, "tpu": 1024}
"""(policy, task) pairs of one vmapped program, by platform."""


class Evaluation(NamedTuple):
    """Episodes of P (policy, task) pairs."""

    returns: np.ndarray
    """float [P, episodes]."""
    success: np.ndarray
    """bool [P, episodes]: success in any step of the episode."""
    steps: np.ndarray
    """int [P, episodes]: length of the episodes."""


@partial(jax.jit, static_argnames=("policy", "env", "horizon", "episodes", "deterministic"))
def _evaluate(policy, env, horizon, episodes, deterministic, agents, tasks, context, key, index):
    def one(agent, task, context, i):
        reset_key, act_key = jax.random.split(jax.random.fold_in(key, i))
        tasks = jax.tree.map(lambda x: jnp.broadcast_to(x, (episodes, *jnp.shape(x))), task)
        contexts = jnp.broadcast_to(context, (episodes, *context.shape))
        slots = reset_slots(env, tasks, jax.random.split(reset_key, episodes))
        _, steps = unroll(
            policy,
            env,
            horizon,
            agent,
            tasks,
            contexts,
            slots,
            act_key,
            horizon,
            deterministic=deterministic,
            restart=False,
        )
        before = jnp.cumsum(steps.done, axis=0) - steps.done
        first = before == 0
        return (
            jnp.sum(jnp.where(first, steps.reward, 0.0), axis=0),
            jnp.any(first & steps.success, axis=0),
            jnp.sum(first, axis=0),
        )

    return jax.vmap(one)(agents, tasks, context, index)


def evaluate(
    policy: Policy,
    family: TaskFamily,
    agents: Agent,
    row: np.ndarray,
    task: np.ndarray,
    key: Array,
    *,
    episodes: int = 64,
    deterministic: bool = False,
    tasks: PyTree = None,
    learner=None,
    names: Sequence[str] | None = None,
) -> Evaluation:
    """Play full episodes of agent ``row[j]`` on task ``task[j]`` for every pair j.

    Initial states and noise depend on the key and the task alone, so different policies meet the
    same episodes: differences between them are paired.

    Args:
        policy, family: static description and environment.
        agents: leaves with a leading axis R.
        row, task: int [P].
        key: PRNG key.
        episodes: episodes of each pair.
        deterministic: act by the mode.
        tasks: other task parameters than the family's own (unseen test tasks).
        names: their names, for error messages.

    Raises:
        DataError: a return that is not finite, naming the task.
    """
    row, task = np.asarray(row, int), np.asarray(task, int)
    if family.engine == "host":
        return Evaluation(*host.play(policy, family, agents, row, task, key, episodes, deterministic, tasks))
    count = len(row)
    width = min(PAIRS_PER_CALL.get(jax.default_backend(), 1024), 1 << max(4, (count - 1).bit_length()))
    padded = np.concatenate([np.arange(count), np.zeros(-count % width, int)])
    own = tasks is None
    tasks = family.tasks if own else tasks
    context = family.context if own else np.zeros((int(task.max()) + 1, family.context.shape[1]))
    agents, tasks, context, key = jax.tree.map(np.asarray, (agents, tasks, context, key))
    parts = []
    for start in range(0, len(padded), width):
        index = padded[start : start + width]
        r, t = row[index], task[index]
        parts.append(
            _evaluate(
                policy, family.env, family.horizon, episodes, deterministic,
                take(agents, r), take(tasks, t), context[t], key, t,
            )
        )  # fmt: skip
    returns, success, steps = (np.concatenate([np.asarray(p[j]) for p in parts])[:count] for j in range(3))
    bad = ~np.isfinite(returns).all(1)
    if bad.any():
        culprit = int(task[np.argmax(bad)])
        name = family.task_names[culprit] if own else names[culprit] if names else f"number {culprit}"
        raise DataError(f"evaluating on task {name!r} gave returns that are not finite; check its rewards")
    return Evaluation(returns, success, steps)
