"""Collect what the meta-policy experiences on every task, split by trajectory."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.learn import host
from pgx_jax.learn.advantages import gae
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps, reset_slots, unroll
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import FIT, SCORE, SELECT, Agent, Array, Transitions


@partial(jax.jit, static_argnames=("policy", "env", "horizon", "length"))
def _play(policy, env, horizon, length, agent, tasks, context, key) -> Steps:
    """``length`` steps of E fresh environments, each on a task of its own; leaves [T, E, ...]."""
    reset_key, key = jax.random.split(key)
    start = reset_slots(env, tasks, jax.random.split(reset_key, len(context)))
    return unroll(policy, env, horizon, agent, tasks, context, start, key, length)[1]


@partial(jax.jit, static_argnames=("policy", "slots"))
def _judge(policy, slots, agent, steps: Steps, context, gamma, gae_lambda):
    """What is kept of the steps of ``slots`` environments a task; leaves [T, n, slots, ...]."""
    length, n = steps.done.shape[0], context.shape[0]
    obs, next_obs = policy.normalise(agent, steps.obs), policy.normalise(agent, steps.next_obs)
    contexts = jnp.repeat(context, slots, axis=0)
    contexts = jnp.broadcast_to(contexts, (length, *contexts.shape))
    value, next_value = policy.value(agent, obs, contexts), policy.value(agent, next_obs, contexts)
    scale = jnp.repeat(jnp.sqrt(agent.reward.var + 1e-8), slots)
    advantage = gae(steps.reward / scale, value, next_value, steps.terminated, steps.done, gamma, gae_lambda)
    out = (policy.actor_input(obs, contexts), steps.action, advantage, steps.done, steps.reward)
    return jax.tree.map(lambda x: x.reshape((length, n, slots, *x.shape[2:])), out)


def collect(
    policy: Policy,
    family: TaskFamily,
    agent: Agent,
    key: Array,
    *,
    steps: int = 2048,
    num_envs: int = 16,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
) -> Transitions:
    """Roll one agent out on every task and keep (s, a, advantage) of each transition.

    A trajectory is an episode, or its part inside the window; trajectories of a task are dealt to
    the parts FIT (half), SCORE and SELECT (a quarter each, by steps).

    Args:
        policy, family, agent: what to roll out, and where.
        key: PRNG key.
        steps: N, transitions of each task.
        num_envs: environments of each task; N must be a multiple of it.
        gamma, gae_lambda: of the advantages.

    Raises:
        ConfigError: N is not a multiple of num_envs.
        DataError: a task gave non-finite rewards or advantages.
    """
    if steps % num_envs or steps < 4 * num_envs:
        raise ConfigError(f"collect_steps = {steps} must be a multiple (at least 4) of num_envs = {num_envs}")
    length, index = steps // num_envs, np.repeat(np.arange(family.n), num_envs)
    if family.engine == "host":
        played = host.experience(policy, family, agent, index, key, length)
    else:
        own = jax.tree.map(lambda x: jnp.asarray(x)[index], (family.tasks, family.context))
        played = _play(policy, family.env, family.horizon, length, agent, *own, key)
    judged = _judge(policy, num_envs, agent, played, jnp.asarray(family.context), gamma, gae_lambda)
    obs, action, advantage, done, reward = jax.tree.map(np.asarray, judged)
    for what, x in (("rewards", reward), ("observations", obs), ("advantages", advantage)):
        bad = ~np.isfinite(x).all(axis=(0, *range(2, x.ndim)))
        if bad.any():
            raise DataError(
                f"collecting from task {family.task_names[int(np.argmax(bad))]!r} gave non-finite {what}"
            )

    def per_source(x):  # [T, n, E, ...] -> [n, E * T, ...], so that trajectories are contiguous
        return np.moveaxis(x, 0, 2).reshape(x.shape[1], steps, *x.shape[3:])

    rng = np.random.default_rng(np.asarray(key))
    trajectory, split = split_by_trajectory(np.moveaxis(done, 0, 2), rng)
    return Transitions(
        per_source(obs), per_source(action), per_source(advantage), trajectory, split, np.arange(family.n)
    )


def split_by_trajectory(done: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Number the trajectories of each source and deal them to FIT, SCORE and SELECT.

    Each trajectory, in random order, goes to the part that is furthest below its share of steps
    (half, a quarter, a quarter).

    Args:
        done: bool [U, E, T], the last step of an episode.
        rng: draws the order.

    Returns:
        trajectory int32 [U, E * T] and split int8 [U, E * T].
    """
    sources = done.shape[0]
    starts = np.zeros_like(done)
    starts[:, :, 0] = True
    starts[:, :, 1:] = done[:, :, :-1]
    trajectory = np.cumsum(starts.reshape(sources, -1), axis=1).astype(np.int32) - 1
    split = np.empty(trajectory.shape, np.int8)
    share = {FIT: 0.5, SCORE: 0.25, SELECT: 0.25}
    for u in range(sources):
        length = np.bincount(trajectory[u])
        part = np.empty(len(length), np.int8)
        filled = dict.fromkeys(share, 0.0)
        for j in rng.permutation(len(length)):
            part[j] = min(share, key=lambda p: (filled[p] / share[p], p))
            filled[part[j]] += length[j]
        split[u] = part[trajectory[u]]
    return trajectory, split
