"""Acting in environments: the one collector behind training, data collection and evaluation.

The core owns time limits and resets. An environment slot keeps the task it was given; whichever
way an episode ends, the step records the observation that the action led to, before the reset.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import DataError
from pgx_jax.learn.policy import Policy
from pgx_jax.tasks import DeviceEnv, TaskFamily
from pgx_jax.types import Agent, Array, PyTree


class Slots(NamedTuple):
    """E running environments."""

    state: PyTree
    obs: Array
    """float [E, *observation shape]."""
    age: Array
    """int [E]: steps since the reset."""
    total: Array
    """float [E]: return of the running episode."""
    discounted: Array
    """float [E]: discounted sum of past rewards, whose variance scales the rewards."""


class Steps(NamedTuple):
    """T steps of E slots, every leaf [T, E, ...]."""

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    """The observation the action led to, before any reset."""
    terminated: Array
    done: Array
    """terminated, or cut by the time limit."""
    episode_return: Array
    """Return of the episode that ended here, where ``done``."""
    discounted: Array
    success: Array
    objectives: Array | None = None
    """float [T, E, K]: the vector rewards of environments that have them."""


@partial(jax.jit, static_argnames=("policy", "env"))
def _first_log_probs(policy: Policy, env: DeviceEnv, agent: Agent, key: Array, tasks, context) -> Array:
    """Log-probabilities [n] of one action in the first step of every task."""

    def of_task(key, task, context):
        obs = policy.normalise(agent, env.reset(key, task)[1])
        params = policy.params(agent.actor, policy.actor_input(obs, context))
        return policy.distribution.log_prob(params, policy.distribution.sample(key, params))

    return jax.vmap(of_task)(jax.random.split(key, len(context)), tasks, context)


def check_first_actions(policy: Policy, family: TaskFamily, agent: Agent) -> None:
    """Refuse an agent that cannot act, before it is trained.

    Raises:
        DataError: its log-probabilities at the beginning of an episode are not finite, naming the task.
    """
    tasks, context = jax.tree.map(jnp.asarray, (family.tasks, family.context))
    told = _first_log_probs(policy, family.env, agent, jax.random.PRNGKey(0), tasks, context)
    bad = ~np.isfinite(np.asarray(told))
    if bad.any():
        raise DataError(
            f"the policy gives non-finite log-probabilities in the first step of task "
            f"{family.task_names[int(np.argmax(bad))]!r}; check what its actor returns and its parameters"
        )


def reset_slots(env: DeviceEnv, tasks: PyTree, keys: Array) -> Slots:
    """Start one episode per slot; ``tasks`` and ``keys`` have a leading axis E."""
    state, obs = jax.vmap(env.reset)(keys, tasks)
    zero = jnp.zeros(obs.shape[0])
    return Slots(state, obs, zero.astype(jnp.int32), zero, zero)


def _restart(env: DeviceEnv, tasks: PyTree, keys: Array, slots: Slots, done: Array) -> Slots:
    """Start a new episode in the slots that are done, bool [E].

    A loop of one round or none, so that steps in which no episode ends pay for no reset (for most
    physics a good part of a step); a condition would be a selection under ``vmap``, and cost both.
    """

    def choose(fresh, ran):
        return jnp.where(done.reshape((-1,) + (1,) * (fresh.ndim - 1)), fresh, ran)

    def restart(carry):
        return jax.tree.map(choose, reset_slots(env, tasks, keys), carry[0]), jnp.zeros((), bool)

    return jax.lax.while_loop(lambda carry: carry[1], restart, (slots, done.any()))[0]


def unroll(
    policy: Policy,
    env: DeviceEnv,
    horizon: int,
    agent: Agent,
    tasks: PyTree,
    context: Array,
    slots: Slots,
    key: Array,
    length: int,
    gamma: float = 1.0,
    deterministic: bool = False,
    restart: bool = True,
) -> tuple[Slots, Steps]:
    """Act for ``length`` steps in all slots.

    Args:
        policy, env, horizon: static.
        agent: one agent for all slots.
        tasks, context: task parameters and context vectors [E, ...] of the slots.
        slots: where to continue.
        key: PRNG key.
        length: T.
        gamma: discount of ``Steps.discounted``.
        deterministic: act by the mode instead of drawing.
        restart: begin a new episode where one ends. Without it (and its compilation) what a slot does
            after its first ending means nothing, and need not be finite.
    """
    dist, count = policy.distribution, slots.age.shape[0]

    def step(slots, key):
        keys = jax.random.split(key, 3 * count).reshape(3, count, -1)
        inputs = policy.actor_input(policy.normalise(agent, slots.obs), context)
        params = jax.vmap(policy.params, (None, 0))(agent.actor, inputs)
        action = dist.mode(params) if deterministic else jax.vmap(dist.sample)(keys[0], params)
        out = jax.vmap(env.step)(keys[1], slots.state, dist.to_env(action), tasks)
        age, total = slots.age + 1, slots.total + out.reward
        discounted = gamma * slots.discounted + out.reward
        done = out.terminated | (age >= horizon)
        ran = Slots(out.state, out.obs, age, total, discounted)
        success = jnp.broadcast_to(jnp.asarray(out.success, bool), (count,))
        record = Steps(
            slots.obs,
            action,
            out.reward,
            out.obs,
            out.terminated,
            done,
            total,
            discounted,
            success,
            out.objectives,
        )
        return _restart(env, tasks, keys[2], ran, done) if restart else ran, record

    return jax.lax.scan(step, slots, jax.random.split(key, length))
