"""One update of one row, whatever learns: keys, phases, moments, the guard and the curve.

The engines act; all that surrounds the learner here is the same for both.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from pgx_jax.learn.learner import Learner, Learning, RowTasks
from pgx_jax.learn.moments import per_task, update_moments
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.tasks.family import METRICS
from pgx_jax.types import Agent, Array, Moments, PyTree


class Earned(NamedTuple):
    """What the episodes came to that ended in an update (or in several, leading axes), by task; NaN where
    none ended."""

    returns: Array
    """float [..., n]: mean return, or, of a family that is judged by success, the part of them with a success
    in any step."""
    at_end: Array | None = None
    """float [..., n]: the part of them whose last step was a success; None where they are judged by the
    return."""

    @classmethod
    def unknown(cls, metric: str, shape: tuple[int, ...], xp: Any = np) -> Earned:
        """Nothing is known yet: NaN in arrays [..., n] of a module (NumPy or jax.numpy)."""
        known = 2 if metric == "success" else 1
        return cls(*(xp.full(shape, np.nan, np.float32) for _ in range(known)))


class RowState(NamedTuple):
    """Training state of one row."""

    learning: Learning
    slots: PyTree
    """The running environments, where they are a record of arrays (`rollout.Slots`)."""
    key: Array


def slot_tasks(member: Array, num_envs: int) -> Array:
    """int [E]: the task of every slot; a row's slots go round its member tasks in turn."""
    order = jnp.argsort(~member, stable=True)
    return order[jnp.arange(num_envs) % jnp.maximum(member.sum(), 1)]


def row_tasks(learner: Learner, context: Array, member: Array, total: Array) -> RowTasks:
    """What a learner is told of a row: contexts [n, C], members [n] and updates []."""
    return RowTasks(context, member, slot_tasks(member, learner.num_envs), total)


def begin(policy: Policy, learner: Learner, agent: Agent, key: Array) -> tuple[RowState, Array]:
    """Training state of a row before its first update, without slots, and the key of their resets."""
    key, reset_key = jax.random.split(key)
    unknown = jnp.full(len(learner.measures), jnp.nan, jnp.float32)
    learning = Learning(agent, learner.begin(policy, agent), jnp.zeros((), jnp.int32), unknown)
    return RowState(learning, (), key), reset_key


def update_keys(key: Array, phases: int) -> tuple[Array, list[Array], list[Array]]:
    """The keys of an update: that of the next one, and one a phase of acting and of learning."""
    next_key, *own = jax.random.split(key, 1 + 2 * phases)
    return next_key, own[0::2], own[1::2]


def acting_agent(
    policy: Policy, learner: Learner, row: RowTasks, state: RowState, steps: tuple[Steps, ...]
) -> Agent:
    """The agent that acts in the phase after ``steps``; its actor leads with an axis E where slots have
    parameters of their own."""
    if not learner.per_slot(len(steps)):
        return state.learning.agent
    return state.learning.agent._replace(actor=learner.acting(policy, row, state.learning, steps))


def learn_from(
    policy: Policy,
    learner: Learner,
    row: RowTasks,
    state: RowState,
    steps: tuple[Steps, ...],
    metric: str = "return",
) -> tuple[RowState, Earned]:
    """The second half of a phase; after the last one the update is done.

    Args:
        policy, learner, row: who learns on what.
        state: the row, as it acted.
        steps: what its slots did, one record with leaves [T, E, ...] a phase up to this one.
        metric: what the family is judged by.

    Returns:
        The new state, and what the episodes came to that ended in this phase. The curve of an update is that
        of its last phase.
    """
    next_key, _, learn_keys = update_keys(state.key, learner.phases)
    one_hot = jax.nn.one_hot(row.slot_task, row.member.shape[0])
    agent = state.learning.agent
    reward = _with_rewards(agent.reward, steps[-1], one_hot)
    # After a non-finite reward or observation the row learns from zeros in the place of steps, so that it
    # stays finite and goes on acting: the task whose moments are not finite can be named.
    sane = jnp.isfinite(reward.var).all()
    known = jax.tree.map(lambda x: jnp.where(sane, x, jnp.zeros_like(x)), steps)
    scale = jax.tree.map(lambda x: jnp.where(sane, x, jnp.ones_like(x)), reward)
    acted = state.learning._replace(agent=agent._replace(reward=scale))
    learnt = learner.learn(policy, row, acted, known, learn_keys[len(steps) - 1])
    agent = learnt.agent._replace(reward=reward)
    state = state._replace(learning=learnt._replace(agent=agent))
    if len(steps) == learner.phases:
        moments = agent.observation
        for of_phase in known:
            moments = _with_observations(moments, of_phase)
        if learner.freeze_observations is not None:
            going = state.learning.update < learner.freeze_observations * row.total
            moments = jax.tree.map(partial(jnp.where, going), moments, agent.observation)
        agent = agent._replace(observation=moments)
        state = state._replace(
            learning=state.learning._replace(agent=agent, update=state.learning.update + 1), key=next_key
        )
    return state, _earned(steps[-1], one_hot, metric)


LEARN_FROM = {metric: partial(learn_from, metric=metric) for metric in METRICS}
"""`learn_from` by what a family is judged by; each is one object, so that programs are known again."""


def _earned(steps: Steps, one_hot: Array, metric: str) -> Earned:
    """Of the episodes that end in steps of slots on tasks one-hot [E, n]."""
    ended = (steps.done * 1.0).sum(0) @ one_hot

    def mean(of_episode: Array) -> Array:
        return (steps.done * of_episode).sum(0) @ one_hot / ended

    if metric == "return":
        return Earned(mean(steps.episode_return))
    assert steps.solved is not None, "the engines tell it"
    return Earned(mean(steps.solved), mean(steps.success))


def soundness(agent: Agent) -> tuple[Array, Array]:
    """Whether all numbers of an agent are finite, bool []; and the tasks bool [n] that gave it rewards or
    observations which are not."""
    numbers = [x for x in jax.tree.leaves(agent) if jnp.issubdtype(x.dtype, jnp.inexact)]
    finite = jnp.isfinite(ravel_pytree(numbers)[0]).all()
    return finite, ~jnp.isfinite(agent.reward.var)


def _with_rewards(moments: Moments, steps: Steps, one_hot: Array) -> Moments:
    """Moments [n] of the discounted returns, after the steps of slots on tasks [E, n]. An observation
    that is not finite counts as such a reward: those are kept apart by task."""
    seen = jnp.isfinite(steps.obs) & jnp.isfinite(steps.next_obs)
    rewards = jnp.where(seen.reshape(*steps.done.shape, -1).all(-1), steps.discounted, jnp.nan)
    return update_moments(moments, *per_task(one_hot, rewards))


def _with_observations(moments: Moments, steps: Steps) -> Moments:
    count = jnp.asarray(steps.obs.shape[0] * steps.obs.shape[1], jnp.float32)
    return update_moments(moments, steps.obs.mean((0, 1)), steps.obs.var((0, 1)), count)
