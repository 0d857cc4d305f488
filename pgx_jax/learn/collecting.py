"""Collect what a policy experiences on tasks, split by trajectory."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from pgx_jax.errors import ConfigError, DataError, NoSignalError
from pgx_jax.learn.advantages import gae
from pgx_jax.learn.baselines import expected
from pgx_jax.learn.batches import critic_values
from pgx_jax.learn.engine import engine_of
from pgx_jax.learn.objectives import check_vector_rewards, relabels
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.steady import compiled
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import FIT, SCORE, SELECT, Agent, Array, Key, Moments, Seen, Transitions


def reward_scales(agent: Agent, scaled: bool) -> Float[Array, "n"]:
    """float [n]: what each task's rewards are divided by, if they are ``scaled``; ones otherwise."""
    var = jnp.asarray(agent.reward.var)
    return jnp.sqrt(var + 1e-8) if scaled else jnp.ones_like(var)


@partial(compiled, quick=True, static_argnames=("policy", "critic", "baseline", "limits_end"))
def judge(
    policy: Policy,
    agent: Agent,
    scale: Array,
    steps: Steps,
    index: Array,
    context: Array,
    weights: Array | None,
    gamma: float,
    gae_lambda: float,
    critic: bool,
    baseline: str,
    limits_end: bool,
) -> tuple[Array | Seen, Array, Array]:
    """The policy's inputs [T, E, ...], and rewards and advantages: [T, E] of environments on the tasks
    ``index`` [E], or [T, n, E] for all tasks if the ``weights`` [n, K] of their objectives are given.
    The critic's values are of rewards divided by ``scale`` [n]; without a ``critic`` they are 0."""
    obs, next_obs = policy.normalise(agent, steps.obs), policy.normalise(agent, steps.next_obs)
    ends = steps.ends(limits_end)
    slots, sources = (index, len(context)) if weights is None else (jnp.zeros_like(index), 1)

    def of_slots(context: Array) -> Array:  # [C], or [E, C]
        return jnp.broadcast_to(context, (*steps.done.shape, context.shape[-1]))

    def advantage(reward: Array, context: Array, scale: Array, moments: Moments | None) -> Array:
        values: tuple[Array, Array] = (jnp.zeros(steps.done.shape),) * 2
        if critic:
            told = of_slots(context)
            now, then = (critic_values(policy, agent, x, told, moments)[1] for x in (obs, next_obs))
            values = (now, then)
        against = expected(
            baseline, values, slots, sources, (obs, next_obs), steps.age, reward / scale, ends, gamma
        )
        decay = gae_lambda if critic or baseline != "critic" else 1.0
        return gae(reward / scale, *against, *ends, gamma, decay)

    def relabelled(task: tuple[Array, Array, Array, Moments | None]) -> tuple[Array, Array]:
        assert steps.objectives is not None, "see `check_vector_rewards`"
        weights, context, scale, moments = task
        reward = jnp.sum(steps.objectives * weights, axis=-1)
        return reward, advantage(reward, context, scale, moments)

    inputs = policy.actor_input(obs, of_slots(context[index]))
    if weights is None:
        own = jax.tree.map(lambda x: x[index], (context, scale, agent.value))
        return inputs, steps.reward, advantage(steps.reward, *own)
    reward, judged = jax.lax.map(relabelled, (weights, context, scale, agent.value))  # [n, T, E]
    return inputs, jnp.moveaxis(reward, 0, 1), jnp.moveaxis(judged, 0, 1)


def collect(
    policy: Policy,
    family: TaskFamily,
    agent: Agent,
    key: Key,
    *,
    steps: int = 2048,
    num_envs: int = 16,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    scale_rewards: bool = True,
    critic: bool = True,
    baseline: str = "critic",
    limits_end: bool = False,
    thin: int = 1,
) -> Transitions:
    """Roll one agent out, and keep (s, a) and the tasks' advantages of each transition.

    Every task is a source of its own (U = n), unless the tasks are weightings of one vector reward and
    the actor is blind: then there is one source (U = 1), and rewards, values and advantages of its
    transitions are worked out for every task.

    A trajectory is an episode, or its part inside the window; trajectories of a source are dealt to
    the parts FIT (half), SCORE and SELECT (a quarter each, by steps).

    Args:
        policy, family, agent: what to roll out, and where.
        key: PRNG key.
        steps: transitions of each source.
        num_envs: environments of each source; ``steps`` must be a multiple of it.
        gamma, gae_lambda: of the advantages.
        scale_rewards: whether the agent's critic was trained on scaled rewards (``Learner.scale_rewards``).
        critic: whether the agent's critic was trained (``Learner.critic``). If not, values are taken as 0;
            without another baseline lambda is then 1, so that advantages are the discounted returns to go,
            up to the end of the episode or of the window.
        baseline: what advantages are measured against (``Learner.baseline``); one of `BASELINES` that is
            fitted is fitted to what is collected, all parts of it.
        limits_end: whether nothing is to come after a time limit (``Learner.limits_end``).
        thin: keep one of so many transitions of every environment, beginning with another one in each; N is
            what is left of each source. (The advantages are of all.)

    Raises:
        ConfigError: ``steps`` is not a multiple of num_envs, ``thin`` leaves nothing, or the environment
            lacks the family's objectives.
        DataError: a task gave non-finite rewards or advantages, no reward but 0, or rewards that are not
            the product of its objectives and weights.
    """
    if steps % num_envs or steps < 4 * num_envs:
        raise ConfigError(f"steps = {steps} must be a multiple (at least 4) of num_envs = {num_envs}")
    n, length, one = family.n, steps // num_envs, relabels(family, policy.conditioned_actor)
    if not 1 <= thin <= length:
        raise ConfigError(f"thin = {thin} must lie between 1 and the steps of an environment ({length})")
    index = np.arange(num_envs) % n if one else np.repeat(np.arange(n), num_envs)
    context = jax.device_put(family.context)
    played = engine_of(family).experience(policy, family, agent, index, key, length)
    objectives, weights = family.objectives if one else None, None
    if objectives is not None:
        check_vector_rewards(family, objectives, played, index)
        weights = jnp.asarray(objectives)
    scale = reward_scales(agent, scale_rewards)
    judged = judge(
        policy, agent, scale, played, index, context, weights, gamma, gae_lambda, critic, baseline, limits_end
    )
    inputs, reward, advantage = judged

    sources = 1 if one else n

    def of_source(x: Array) -> np.ndarray:  # [T, U * E, ...] -> [U, E, T, ...]
        x = np.asarray(x)
        return np.moveaxis(x.reshape(length, sources, num_envs, *x.shape[2:]), 0, 2)

    obs, action, done = jax.tree.map(of_source, (inputs, played.action, played.done))
    of_task = [np.asarray(x).reshape(length, n, num_envs) for x in (reward, advantage)]
    reward, advantage = (np.moveaxis(x, 0, 2) for x in of_task)  # [n, E, T]
    _check_finite(family, "rewards", reward)
    for leaf in jax.tree.leaves(obs):
        _check_finite(family, "observations", leaf)
    _check_finite(family, "advantages", advantage)
    _check_rewarded(family, reward)
    dealt = split_by_trajectory(done, np.random.default_rng(np.asarray(key)))
    kept = thin * np.arange(length // thin) + np.arange(num_envs)[:, None] % thin  # [E, T / thin]

    def in_order(x: np.ndarray) -> np.ndarray:
        """[U, E, T, ...] -> [U, N, ...]: environment after environment, so that trajectories are whole."""
        return x[:, np.arange(num_envs)[:, None], kept].reshape(len(x), kept.size, *x.shape[3:])

    trajectory, split = (in_order(x.reshape(sources, num_envs, length)) for x in dealt)
    obs, action, advantage = jax.tree.map(in_order, (obs, action, advantage))
    source = np.zeros(n, int) if one else np.arange(n)
    return Transitions(obs, action, advantage, trajectory, split, source)


def _check_finite(family: TaskFamily, what: str, x: np.ndarray) -> None:
    """Refuse an array [n, ...] or [1, ...] with non-finite values, naming the task."""
    bad = ~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    if bad.any():
        who = f"task {family.task_names[int(np.argmax(bad))]!r}" if len(x) == family.n else family.name
        raise DataError(f"collecting from {who} gave non-finite {what}")


def _check_rewarded(family: TaskFamily, reward: np.ndarray) -> None:
    """Refuse a task of which not one of the rewards [n, ...] differs from 0: its advantages are noise of the
    critic."""
    silent = ~reward.reshape(len(reward), -1).any(1)
    if silent.any():
        raise NoSignalError(
            f"task {family.task_names[int(np.argmax(silent))]!r} gave no reward but 0 in {reward[0].size:,} "
            f"collected steps: nothing tells good actions from bad ones; check its rewards, train the "
            f"meta-policy longer, collect more, or leave the task out"
        )


def split_by_trajectory(
    done: Bool[np.ndarray, "U E T"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, "U N"], Int8[np.ndarray, "U N"]]:
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
